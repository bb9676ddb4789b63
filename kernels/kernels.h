// THE list of operations. Each backend implements this interface (cpu/, cuda/ with the same file names); each operation has a test against
// the same formula in double.
//
// Conventions
//   X          the compute type of a run: float32 or bfloat16. All X tensors of a call have the same dtype. Sums are float32 at least.
//   T tokens of a packed batch, h hidden size, F intermediate size, V vocabulary, Hq / Hk query / key-value heads, D head size.
//   qkv        [T, (Hq + 2 Hk) * D]: the heads of q, then k, then v, side by side in a row.
//   "+="       the operation adds to what is there.
//   A TensorView without data stands for "absent" where the text says optional.
// The same input gives the same bits; results do not depend on the number of threads, except those of linear_* (a library's matrix products),
// which repeat bit for bit on the same number of threads.
// Errors: shapes that do not fit are broken invariants (assert). Thread rules: one thread at a time per Kernels object.
// Streams: work that needs no workspace (zero, cast, add, adamw, the sums) may run on a second, asynchronous stream; everything else on one stream
// only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/tensor.h"
#include "device/arena.h"
#include "device/device.h"

namespace llmtrain {

struct HeadLayout {
  int heads = 0;     // Hq
  int kv_heads = 0;  // Hk
  int head_dim = 0;  // D
  int64_t row() const { return static_cast<int64_t>(heads + 2 * kv_heads) * head_dim; }
};

// Packed sequences: sequence i is the tokens [cu_seqlens[i], cu_seqlens[i+1]). Host memory.
struct Sequences {
  std::span<const int32_t> cu_seqlens;  // S + 1 entries, first 0, last T
  int32_t longest = 0;
};

struct AdamWStep {
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;      // 1 for the first
  float grad_scale;  // multiplies the gradient first (clipping)
  // Stochastic rounding of states kept in bfloat16: random bits are Philox of (seed; element, step, stream). `first_element` is the place of this
  // call's first element in the array that `stream` names, so that results depend neither on how the work is cut nor on the number of ranks.
  uint64_t seed = 0;
  uint32_t stream = 0;
  int64_t first_element = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  // One line for the log: which instructions the kernels use.
  virtual std::string describe() const = 0;

  // Scratch memory for calls up to these sizes, from the arena (group "kernel workspace").
  struct Limits {
    int64_t tokens = 0, hidden = 0, intermediate = 0, vocabulary = 0, longest_sequence = 0;
    int64_t loss_chunk = 0;  // tokens whose logits exist at once; 0: not known
    HeadLayout layout;
    DType compute = DType::float32;
    bool training = true;
  };
  virtual void reserve(Arena& arena, const Limits& limits) = 0;

  // ---- data movement
  virtual void zero(Stream& s, TensorView x) = 0;
  // to[i] = from[i], rounded to nearest even. float32 <-> bfloat16, or equal types.
  virtual void cast(Stream& s, TensorView from, TensorView to) = 0;
  // y[i] += x[i]. Same dtype, float32 or bfloat16 (sum in float32, one rounding).
  virtual void add(Stream& s, TensorView x, TensorView y) = 0;

  // ---- embedding
  // out[t, :] = table[ids[t], :].   ids int32 [T], table X [V, h], out X [T, h]
  virtual void embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) = 0;
  // dtable[ids[t], :] += dout[t, :], in the order of t.   dtable float32 [V, h]
  virtual void embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) = 0;

  // ---- RMSNorm (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467), fused with the residual add
  // sum = x + delta (delta optional: then sum = x; sum optional when delta is absent); rstd[t] = 1 / sqrt(mean_j sum[t,j]^2 + eps);
  // y[t,j] = weight[j] * sum[t,j] * rstd[t].   x, delta, sum, y X [T, h]; weight X [h]; rstd float32 [T] (optional).
  // sum is rounded to X before the mean is taken. sum may be x or delta (in place).
  virtual void rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y,
                                TensorView rstd) = 0;
  // g[j] = dy[t,j] * weight[j];  dx[t,j] = dres[t,j] + rstd * (g[j] - x[t,j] * rstd^2 * mean_k(g[k] x[t,k]));
  // dweight[j] += sum_t dy[t,j] x[t,j] rstd[t].
  // x is the input of the norm (the sum above). dres optional (gradient that flows past the norm); dx may be dres. dweight float32 [h], optional.
  virtual void rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                                 TensorView dweight) = 0;

  // ---- per-head RMSNorm of q and k (Qwen3)
  // out = qkv with each q head normalised with q_weight [D] and each k head with k_weight [D]; v copied. rstd float32 [T, Hq + Hk]. out may not be
  // qkv.
  virtual void qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                               TensorView rstd) = 0;
  // In place on dqkv (gradient of out -> gradient of qkv; the v part stays). dq_weight, dk_weight float32 [D] +=, optional (both or none).
  virtual void qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                                HeadLayout layout, TensorView dq_weight, TensorView dk_weight) = 0;

  // ---- rotary embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864; halves layout of Hugging Face's rotate_half), in place on q and k of qkv
  // With R = rotary_dim and i < R/2: (a, b) = (x[i], x[i + R/2]) -> (a c - b s', b c + a s'), c = cos[p, i], s' = sin[p, i], p = positions[t];
  // inverse: s' negated (the backward pass). cos, sin float32 [P, R/2] (with the scaling of the rope kind), positions int32 [T] < P.
  virtual void rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim,
                    bool inverse) = 0;

  // ---- attention: causal, grouped query heads, packed sequences of any length (flash-attention style: nothing of size T x T is kept)
  // Query t of a sequence sees the keys t' of its own sequence with t' <= t and (window > 0) t' > t - window. Scores are scaled by `scale` > 0.
  // out X [T, Hq * D]; lse float32 [T, Hq]: log of the sum of exp(scores), optional in inference.
  virtual void attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                                 TensorView lse) = 0;
  // dqkv X [T, (Hq + 2 Hk) D], overwritten. dqkv may not be qkv.
  virtual void attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences, HeadLayout layout,
                                  float scale, int window, TensorView dqkv) = 0;
  // Generation: n new tokens of one sequence after `past` cached ones. Appends k and v of qkv [n, row] to the caches X [capacity, Hk * D] at row
  // `past`, then attends as above over past + n keys. out X [n, Hq * D].
  virtual void attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout, float scale,
                                int window, TensorView out) = 0;

  // ---- SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202).  gate_up X [T, 2F]: gate, then up, in a row.
  // out[t,j] = silu(gate) * up,  silu(a) = a / (1 + exp(-a)).   out X [T, F]
  virtual void swiglu_forward(Stream& s, TensorView gate_up, TensorView out) = 0;
  // dgate_up from dout; also rewrites out (recomputed; optional). dgate_up may be gate_up.
  virtual void swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) = 0;

  // ---- linear layers.  w X [N, K] as Hugging Face stores it (out_features, in_features).
  // y[t,n] (+)= sum_k x[t,k] w[n,k] + bias[n].   x X [T, K], y X [T, N], bias X [N] optional. accumulate: y += (sum in float32, one rounding).
  virtual void linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) = 0;
  // dx[t,k] (+)= sum_n dy[t,n] w[n,k]
  virtual void linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) = 0;
  // dw[n,k] += sum_t dy[t,n] x[t,k].   dw float32 [N, K]
  virtual void linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) = 0;
  // db[n] += sum_t dy[t,n].   db float32 [N]
  virtual void bias_backward(Stream& s, TensorView dy, TensorView db) = 0;

  // ---- loss
  // For each row with labels[t] != -100: losses[t] = log(sum_v exp(logits[t,v])) - logits[t, labels[t]], else losses[t] = 0 (float32 [T]).
  // gradient: logits is overwritten by (softmax - onehot) * scale, and by 0 in ignored rows. logits X [T, V], labels int32 [T] < V.
  virtual void cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) = 0;

  // ---- optimizer (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101; torch.optim.AdamW's formula), over a part of a shard
  // g = grad * grad_scale; p -= lr * wd * p; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
  // p -= lr / (1-b1^step) * m / (sqrt(v) / sqrt(1-b2^step) + eps).  grad float32 [n]; master float32 or bfloat16 [n]; m, v float32 or bfloat16 [n],
  // both alike; what is bfloat16 is computed in float32 and rounded stochastically (kernels/math/adamw.h). low X [n] optional: the copy of a
  // float32 master, rounded to nearest.
  virtual void adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) = 0;
  // sum of x[i]^2 in double; NaN or infinity in x gives a result that is not finite. x float32 [n]. Waits for the result.
  virtual double sum_squares(Stream& s, TensorView x) = 0;
  // sum of x[i] in double. Waits for the result.
  virtual double sum(Stream& s, TensorView x) = 0;
};

std::unique_ptr<Kernels> make_cpu_kernels(Device& device);  // the CUDA ones come from the plugin (device/cuda_backend.h)

}  // namespace llmtrain
