// The CPU backend: checks the shapes of each call and hands it to the operation's file, on the caller's stream.
#include "kernels/kernels.h"

#include <algorithm>
#include <utility>

#include "kernels/checks.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "kernels/workspace.h"

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

class CpuKernels final : public Kernels {
 public:
  explicit CpuKernels(Device& device) : workspace_(device), gemm_((cpu::limit_instruction_set(), workspace_)), dot_bf16_(cpu::bf16_dot_pays()) {}

  std::string describe() const override { return "vectors: " + cpu::vector_isa() + "; " + gemm_.describe(); }
  void reserve(Arena& arena, const Limits& limits) override;

  void zero(Stream& s, TensorView x) override {
    submit(s, [=] { cpu::zero(x); });
  }
  void cast(Stream& s, TensorView from, TensorView to) override {
    checks::cast(from, to);
    submit(s, [=] { cpu::cast(from, to); });
  }
  void add(Stream& s, TensorView x, TensorView y) override {
    checks::add(x, y);
    submit(s, [=] { cpu::add(x, y); });
  }

  void embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) override {
    checks::embedding_forward(ids, table, out);
    submit(s, [=] { cpu::embedding_forward(ids, table, out); });
  }
  void embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) override {
    checks::embedding_backward(ids, dout, dtable);
    submit(s, [=] { cpu::embedding_backward(ids, dout, dtable); });
  }

  void rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y,
                        TensorView rstd) override {
    checks::rms_norm_forward(x, delta, weight, sum, y, rstd);
    submit(s, [=] { cpu::rms_norm_forward(x, delta, weight, eps, sum, y, rstd); });
  }
  void rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                         TensorView dweight) override {
    checks::rms_norm_backward(dy, x, weight, rstd, dres, dx, dweight);
    submit(s, [=, this] { cpu::rms_norm_backward(workspace_, dy, x, weight, rstd, dres, dx, dweight); });
  }

  void qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                       TensorView rstd) override {
    checks::qk_norm_forward(qkv, q_weight, k_weight, layout, out, rstd);
    submit(s, [=] { cpu::qk_norm_forward(qkv, q_weight, k_weight, eps, layout, out, rstd); });
  }
  void qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd, HeadLayout layout,
                        TensorView dq_weight, TensorView dk_weight) override {
    checks::qk_norm_backward(dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight);
    submit(s, [=, this] { cpu::qk_norm_backward(workspace_, dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight); });
  }

  void rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim,
            bool inverse) override {
    checks::rope(qkv, positions, cos, sin, layout, rotary_dim);
    submit(s, [=] { cpu::rope(qkv, positions, cos, sin, layout, rotary_dim, inverse); });
  }

  void attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                         TensorView lse) override {
    checks::attention_forward(qkv, sequences, layout, scale, out, lse);
    submit(s, [=, this] { cpu::attention_forward(workspace_, dot_bf16_, qkv, sequences, layout, scale, window, out, lse); });
  }
  void attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences, HeadLayout layout,
                          float scale, int window, TensorView dqkv) override {
    checks::attention_backward(dout, qkv, out, lse, sequences, layout, scale, dqkv);
    submit(s, [=, this] { cpu::attention_backward(workspace_, dot_bf16_, dout, qkv, out, lse, sequences, layout, scale, window, dqkv); });
  }
  void attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout, float scale, int window,
                        TensorView out) override {
    checks::attention_cached(qkv, k_cache, v_cache, past, layout, out);
    submit(s, [=, this] { cpu::attention_cached(workspace_, dot_bf16_, qkv, k_cache, v_cache, past, layout, scale, window, out); });
  }

  void swiglu_forward(Stream& s, TensorView gate_up, TensorView out) override {
    checks::swiglu_forward(gate_up, out);
    submit(s, [=] { cpu::swiglu_forward(gate_up, out); });
  }
  void swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) override {
    checks::swiglu_backward(dout, gate_up, dgate_up, out);
    submit(s, [=] { cpu::swiglu_backward(dout, gate_up, dgate_up, out); });
  }

  void linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) override;
  void linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) override;
  void linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) override;
  void bias_backward(Stream& s, TensorView dy, TensorView db) override {
    checks::bias_backward(dy, db);
    submit(s, [=] { cpu::bias_backward(dy, db); });
  }

  void cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) override {
    checks::cross_entropy(logits, labels, losses);
    submit(s, [=, this] { cpu::cross_entropy(workspace_, logits, labels, scale, gradient, losses); });
  }

  void adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) override {
    checks::adamw(master, grad, m, v, low, step);
    submit(s, [=] { cpu::adamw(master, grad, m, v, low, step); });
  }
  double sum_squares(Stream& s, TensorView x) override { return waited_sum(s, x, cpu::sum_squares); }
  double sum(Stream& s, TensorView x) override { return waited_sum(s, x, cpu::sum); }

 private:
  static double waited_sum(Stream& s, TensorView x, double (*operation)(TensorView)) {
    checks::sum(x);
    double result = 0;
    submit(s, [&] { result = operation(x); });
    s.synchronize();
    return result;
  }

  Workspace workspace_;
  cpu::Gemm gemm_;
  bool dot_bf16_;
};

void CpuKernels::reserve(Arena& arena, const Limits& limits) {
  checks::heads(limits.layout);
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
  bytes = padded(bytes + bytes / 4);
  workspace_.adopt(arena.take_bytes("kernel workspace", bytes), bytes);
}

void CpuKernels::linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) {
  const int64_t tokens = x.dim(0), in = w.dim(1), out = w.dim(0);
  checks::linear_forward(x, w, bias, y);
  submit(s, [=, this] {
    if (tokens <= cpu::kSkinnyTokens) return cpu::linear_skinny(workspace_, x, w, bias, y, accumulate);
    gemm_.multiply(forward_shape(tokens, in, out, w.dtype, static_cast<bool>(bias), accumulate), x.data, w.data, bias.data, y.data);
  });
}

void CpuKernels::linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) {
  const int64_t tokens = dy.dim(0), in = w.dim(1), out = w.dim(0);
  checks::linear_backward_input(dy, w, dx);
  submit(s, [=, this] { gemm_.multiply(backward_input_shape(tokens, in, out, w.dtype, accumulate), dy.data, w.data, nullptr, dx.data); });
}

void CpuKernels::linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) {
  const int64_t tokens = dy.dim(0), in = x.dim(1), out = dy.dim(1);
  checks::linear_backward_weight(dy, x, dw);
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
