// The CPU backend: checks the shapes of each call and hands it to the operation's file, on the caller's stream.
#include "kernels/kernels.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/workspace.h"

namespace llmtrain {

namespace {

// Runs the work in the call on a stream that does so (the compute stream), else gives it to the stream's thread.
template <class Work>
void submit(Stream& stream, const Work& work) {
  auto* host = dynamic_cast<HostStream*>(&stream);
  LLMTRAIN_ASSERT(host, "CPU kernels run on a stream of the CPU device");
  if (host->is_inline()) {
    work();
  } else {
    host->run(work);
  }
}

void check_shape(const TensorView& x, const Shape& shape, DType dtype, const char* name) {
  LLMTRAIN_ASSERT(x.dtype == dtype, std::string(name) + ": " + name_of(x.dtype) + " where " + name_of(dtype) + " belongs");
  LLMTRAIN_ASSERT(x.shape == shape, std::string(name) + ": " + x.shape.text() + " where " + shape.text() + " belongs");
}

void check_optional(const TensorView& x, const Shape& shape, DType dtype, const char* name) {
  if (x) check_shape(x, shape, dtype, name);
}

void check_heads(HeadLayout layout) {
  LLMTRAIN_ASSERT(layout.heads > 0 && layout.kv_heads > 0 && layout.heads % layout.kv_heads == 0 && layout.head_dim > 0, "head layout");
}

void check_sequences(Sequences sequences, int64_t tokens) {
  const auto& ends = sequences.cu_seqlens;
  LLMTRAIN_ASSERT(!ends.empty() && ends.front() == 0 && ends.back() == tokens, "cu_seqlens does not cover the tokens");
  for (size_t i = 1; i < ends.size(); ++i) {
    LLMTRAIN_ASSERT(ends[i] >= ends[i - 1] && ends[i] - ends[i - 1] <= sequences.longest,
                    "cu_seqlens decreases, or a sequence is longer than the longest");
  }
}

class CpuKernels final : public Kernels {
 public:
  explicit CpuKernels(Device& device) : workspace_(device), gemm_((cpu::limit_instruction_set(), workspace_)), dot_bf16_(cpu::bf16_dot_pays()) {}

  std::string describe() const override { return "vectors: " + cpu::vector_isa() + "; " + gemm_.describe(); }
  void reserve(Arena& arena, const Limits& limits) override;

  void zero(Stream& s, TensorView x) override {
    submit(s, [=] { cpu::zero(x); });
  }
  void cast(Stream& s, TensorView from, TensorView to) override {
    LLMTRAIN_ASSERT(from.elements() == to.elements(), "cast: " + from.shape.text() + " to " + to.shape.text());
    LLMTRAIN_ASSERT(from.dtype == to.dtype || is_compute_pair(from.dtype, to.dtype),
                    std::string("cast: ") + name_of(from.dtype) + " to " + name_of(to.dtype));
    submit(s, [=] { cpu::cast(from, to); });
  }
  void add(Stream& s, TensorView x, TensorView y) override {
    LLMTRAIN_ASSERT(x.elements() == y.elements() && x.dtype == y.dtype, "add: operands differ");
    submit(s, [=] { cpu::add(x, y); });
  }

  void embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) override {
    check_shape(ids, {out.dim(0)}, DType::int32, "ids");
    check_shape(out, {ids.dim(0), table.dim(1)}, table.dtype, "out");
    submit(s, [=] { cpu::embedding_forward(ids, table, out); });
  }
  void embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) override {
    check_shape(ids, {dout.dim(0)}, DType::int32, "ids");
    check_shape(dtable, {dtable.dim(0), dout.dim(1)}, DType::float32, "dtable");
    submit(s, [=] { cpu::embedding_backward(ids, dout, dtable); });
  }

  void rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y,
                        TensorView rstd) override {
    check_optional(delta, x.shape, x.dtype, "delta");
    check_optional(sum, x.shape, x.dtype, "sum");
    check_shape(weight, {x.dim(1)}, x.dtype, "weight");
    check_shape(y, x.shape, x.dtype, "y");
    check_optional(rstd, {x.dim(0)}, DType::float32, "rstd");
    LLMTRAIN_ASSERT(sum || !delta, "rms_norm_forward: a delta needs a place for the sum");
    submit(s, [=] { cpu::rms_norm_forward(x, delta, weight, eps, sum, y, rstd); });
  }
  void rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                         TensorView dweight) override {
    check_shape(dy, x.shape, x.dtype, "dy");
    check_shape(weight, {x.dim(1)}, x.dtype, "weight");
    check_shape(rstd, {x.dim(0)}, DType::float32, "rstd");
    check_optional(dres, x.shape, x.dtype, "dres");
    check_shape(dx, x.shape, x.dtype, "dx");
    check_optional(dweight, {x.dim(1)}, DType::float32, "dweight");
    submit(s, [=, this] { cpu::rms_norm_backward(workspace_, dy, x, weight, rstd, dres, dx, dweight); });
  }

  void qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                       TensorView rstd) override {
    check_qk_norm(qkv, q_weight, k_weight, layout, rstd);
    check_shape(out, qkv.shape, qkv.dtype, "out");
    LLMTRAIN_ASSERT(out.data != qkv.data, "qk_norm_forward: out may not be qkv");
    submit(s, [=] { cpu::qk_norm_forward(qkv, q_weight, k_weight, eps, layout, out, rstd); });
  }
  void qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd, HeadLayout layout,
                        TensorView dq_weight, TensorView dk_weight) override {
    check_qk_norm(qkv, q_weight, k_weight, layout, rstd);
    check_shape(dqkv, qkv.shape, qkv.dtype, "dqkv");
    LLMTRAIN_ASSERT(!dq_weight == !dk_weight, "qk_norm_backward: both weight gradients or none");
    check_optional(dq_weight, {layout.head_dim}, DType::float32, "dq_weight");
    check_optional(dk_weight, {layout.head_dim}, DType::float32, "dk_weight");
    submit(s, [=, this] { cpu::qk_norm_backward(workspace_, dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight); });
  }

  void rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim,
            bool inverse) override {
    check_heads(layout);
    check_shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
    check_shape(positions, {qkv.dim(0)}, DType::int32, "positions");
    LLMTRAIN_ASSERT(rotary_dim % 2 == 0 && rotary_dim <= layout.head_dim, "rotary_dim");
    check_shape(cos, {cos.dim(0), rotary_dim / 2}, DType::float32, "cos");
    check_shape(sin, cos.shape, DType::float32, "sin");
    submit(s, [=] { cpu::rope(qkv, positions, cos, sin, layout, rotary_dim, inverse); });
  }

  void attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                         TensorView lse) override {
    check_attention(qkv, sequences, layout, scale, out);
    check_optional(lse, {qkv.dim(0), layout.heads}, DType::float32, "lse");
    submit(s, [=, this] { cpu::attention_forward(workspace_, dot_bf16_, qkv, sequences, layout, scale, window, out, lse); });
  }
  void attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences, HeadLayout layout,
                          float scale, int window, TensorView dqkv) override {
    check_attention(qkv, sequences, layout, scale, out);
    check_shape(lse, {qkv.dim(0), layout.heads}, DType::float32, "lse");
    check_shape(dout, out.shape, out.dtype, "dout");
    check_shape(dqkv, qkv.shape, qkv.dtype, "dqkv");
    LLMTRAIN_ASSERT(dqkv.data != qkv.data, "attention_backward: dqkv may not be qkv");
    submit(s, [=, this] { cpu::attention_backward(workspace_, dot_bf16_, dout, qkv, out, lse, sequences, layout, scale, window, dqkv); });
  }
  void attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout, float scale, int window,
                        TensorView out) override {
    check_heads(layout);
    check_shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
    check_shape(out, {qkv.dim(0), int64_t{layout.heads} * layout.head_dim}, qkv.dtype, "out");
    check_shape(k_cache, {k_cache.dim(0), int64_t{layout.kv_heads} * layout.head_dim}, qkv.dtype, "k_cache");
    check_shape(v_cache, k_cache.shape, qkv.dtype, "v_cache");
    LLMTRAIN_ASSERT(past >= 0 && past + qkv.dim(0) <= k_cache.dim(0), "attention_cached: the cache is full");
    submit(s, [=, this] { cpu::attention_cached(workspace_, dot_bf16_, qkv, k_cache, v_cache, past, layout, scale, window, out); });
  }

  void swiglu_forward(Stream& s, TensorView gate_up, TensorView out) override {
    check_shape(gate_up, {out.dim(0), 2 * out.dim(1)}, out.dtype, "gate_up");
    submit(s, [=] { cpu::swiglu_forward(gate_up, out); });
  }
  void swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) override {
    check_shape(gate_up, {dout.dim(0), 2 * dout.dim(1)}, dout.dtype, "gate_up");
    check_shape(dgate_up, gate_up.shape, dout.dtype, "dgate_up");
    check_optional(out, dout.shape, dout.dtype, "out");
    submit(s, [=] { cpu::swiglu_backward(dout, gate_up, dgate_up, out); });
  }

  void linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) override;
  void linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) override;
  void linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) override;
  void bias_backward(Stream& s, TensorView dy, TensorView db) override {
    check_shape(db, {dy.dim(1)}, DType::float32, "db");
    submit(s, [=] { cpu::bias_backward(dy, db); });
  }

  void cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) override {
    check_shape(labels, {logits.dim(0)}, DType::int32, "labels");
    check_shape(losses, {logits.dim(0)}, DType::float32, "losses");
    submit(s, [=, this] { cpu::cross_entropy(workspace_, logits, labels, scale, gradient, losses); });
  }

  void adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) override {
    const int64_t n = master.elements();
    for (const TensorView* x : {&master, &grad, &m, &v}) {
      LLMTRAIN_ASSERT(x->dtype == DType::float32 && x->elements() == n, "adamw: states are float32 and equally long");
    }
    LLMTRAIN_ASSERT(!low || low.elements() == n, "adamw: low");
    LLMTRAIN_ASSERT(step.step >= 1, "adamw: steps count from 1");
    submit(s, [=] { cpu::adamw(master, grad, m, v, low, step); });
  }
  double sum_squares(Stream& s, TensorView x) override { return waited_sum(s, x, cpu::sum_squares); }
  double sum(Stream& s, TensorView x) override { return waited_sum(s, x, cpu::sum); }

 private:
  static bool is_compute_pair(DType a, DType b) {
    return (a == DType::float32 && b == DType::bfloat16) || (a == DType::bfloat16 && b == DType::float32);
  }
  static void check_qk_norm(TensorView qkv, TensorView q_weight, TensorView k_weight, HeadLayout layout, TensorView rstd) {
    check_heads(layout);
    check_shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
    check_shape(q_weight, {layout.head_dim}, qkv.dtype, "q_weight");
    check_shape(k_weight, {layout.head_dim}, qkv.dtype, "k_weight");
    check_shape(rstd, {qkv.dim(0), layout.heads + layout.kv_heads}, DType::float32, "rstd");
  }
  static void check_attention(TensorView qkv, Sequences sequences, HeadLayout layout, float scale, TensorView out) {
    check_heads(layout);
    check_sequences(sequences, qkv.dim(0));
    check_shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
    check_shape(out, {qkv.dim(0), int64_t{layout.heads} * layout.head_dim}, qkv.dtype, "out");
    LLMTRAIN_ASSERT(scale > 0, "attention: the scale is positive");
  }
  static double waited_sum(Stream& s, TensorView x, double (*operation)(TensorView)) {
    LLMTRAIN_ASSERT(x.dtype == DType::float32, "sums are taken of float32");
    double result = 0;
    submit(s, [&] { result = operation(x); });
    s.synchronize();
    return result;
  }

  cpu::Workspace workspace_;
  cpu::Gemm gemm_;
  bool dot_bf16_;
};

cpu::GemmShape forward_shape(int64_t tokens, int64_t in, int64_t out, DType type, bool bias, bool accumulate) {
  return {.m = tokens, .n = out, .k = in, .b_transposed = true, .inputs = type, .output = type, .accumulate = accumulate, .bias = bias};
}
cpu::GemmShape backward_input_shape(int64_t tokens, int64_t in, int64_t out, DType type, bool accumulate) {
  return {.m = tokens, .n = in, .k = out, .inputs = type, .output = type, .accumulate = accumulate};
}
cpu::GemmShape backward_weight_shape(int64_t tokens, int64_t in, int64_t out, DType type) {
  return {.m = out, .n = in, .k = tokens, .a_transposed = true, .inputs = type, .output = DType::float32, .accumulate = true};
}

void CpuKernels::reserve(Arena& arena, const Limits& limits) {
  check_heads(limits.layout);
  const int64_t tokens = limits.tokens, hidden = limits.hidden, out = int64_t{limits.layout.heads} * limits.layout.head_dim;
  const std::pair<int64_t, int64_t> linears[] = {
      {hidden, limits.layout.row()}, {out, hidden}, {hidden, 2 * limits.intermediate}, {limits.intermediate, hidden}, {hidden, limits.vocabulary}};
  size_t bytes = std::max(cpu::attention_forward_scratch(tokens, limits.longest_sequence, limits.layout),
                          cpu::attention_cached_scratch(limits.longest_sequence, limits.layout));
  if (limits.training) {
    bytes = std::max({bytes, cpu::attention_backward_scratch(tokens, limits.longest_sequence, limits.layout),
                      cpu::rms_norm_backward_scratch(tokens, hidden), cpu::qk_norm_backward_scratch(tokens, limits.layout.head_dim),
                      cpu::cross_entropy_scratch(limits.vocabulary)});
  }
  for (const auto& [in, features] : linears) {
    bytes = std::max(bytes, cpu::linear_skinny_scratch(in));
    bytes = std::max(bytes, gemm_.scratch_bytes(forward_shape(tokens, in, features, limits.compute, false, false)));
    if (!limits.training) continue;
    bytes = std::max(bytes, gemm_.scratch_bytes(backward_input_shape(tokens, in, features, limits.compute, false)));
    bytes = std::max(bytes, gemm_.scratch_bytes(backward_weight_shape(tokens, in, features, limits.compute)));
  }
  // A quarter more than the largest: oneDNN's need does not fall strictly with the number of tokens.
  bytes = cpu::padded(bytes + bytes / 4);
  workspace_.adopt(arena.take_bytes("kernel workspace", bytes), bytes);
}

void CpuKernels::linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) {
  const int64_t tokens = x.dim(0), in = w.dim(1), out = w.dim(0);
  check_shape(x, {tokens, in}, w.dtype, "x");
  check_shape(y, {tokens, out}, w.dtype, "y");
  check_optional(bias, {out}, w.dtype, "bias");
  submit(s, [=, this] {
    if (tokens <= cpu::kSkinnyTokens) return cpu::linear_skinny(workspace_, x, w, bias, y, accumulate);
    gemm_.multiply(forward_shape(tokens, in, out, w.dtype, static_cast<bool>(bias), accumulate), x.data, w.data, bias.data, y.data);
  });
}

void CpuKernels::linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) {
  const int64_t tokens = dy.dim(0), in = w.dim(1), out = w.dim(0);
  check_shape(dy, {tokens, out}, w.dtype, "dy");
  check_shape(dx, {tokens, in}, w.dtype, "dx");
  submit(s, [=, this] { gemm_.multiply(backward_input_shape(tokens, in, out, w.dtype, accumulate), dy.data, w.data, nullptr, dx.data); });
}

void CpuKernels::linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) {
  const int64_t tokens = dy.dim(0), in = x.dim(1), out = dy.dim(1);
  check_shape(x, {tokens, in}, dy.dtype, "x");
  check_shape(dw, {out, in}, DType::float32, "dw");
  submit(s, [=, this] {
    if (tokens > 0) gemm_.multiply(backward_weight_shape(tokens, in, out, dy.dtype), dy.data, x.data, nullptr, dw.data);
  });
}

}  // namespace

std::unique_ptr<Kernels> make_cpu_kernels(Device& device) {
  LLMTRAIN_ASSERT(device.kind() == DeviceKind::cpu, "CPU kernels on a device that is not a CPU");
  return std::make_unique<CpuKernels>(device);
}

}  // namespace llmtrain
