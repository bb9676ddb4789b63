// The CUDA backend: checks the shapes of each call and hands it to the operation's file, on the caller's stream.
#include "kernels/cuda/kernels.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "device/cuda/check.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/cuda_stream.h"
#include "kernels/checks.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ops.h"

namespace llmtrain::cuda {
namespace {

class CudaKernels final : public Kernels {
 public:
  CudaKernels(Device& device, const CudaKernelsOptions& options)
      : device_(device), options_(options), workspace_(device), maps_(device), gemm_(make_gemm(device, options)) {
    sum_scratch_ = device.allocate(sum_scratch());
    sum_result_ = static_cast<double*>(device.allocate_host(sizeof(double)));
    open_cudnn();
  }
  ~CudaKernels() override {
    gemm_->save_choices();
    device_.free(sum_scratch_);
    device_.free_host(sum_result_);
  }

  std::string describe() const override { return gemm_->describe() + "; attention: " + (cudnn_ ? cudnn_->describe() : "own kernels (" + no_cudnn_ + ")"); }
  void reserve(Arena& arena, const Limits& limits) override;

  void zero(Stream& s, TensorView x) override { device_.zero(s, x.data, x.bytes()); }
  void cast(Stream& s, TensorView from, TensorView to) override {
    checks::cast(from, to);
    if (from.dtype == to.dtype) return device_.copy(s, to.data, from.data, from.bytes());
    cuda::cast(handle_of(s), from, to);
  }
  void add(Stream& s, TensorView x, TensorView y) override {
    checks::add(x, y);
    cuda::add(handle_of(s), x, y);
  }

  void embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) override {
    checks::embedding_forward(ids, table, out);
    cuda::embedding_forward(handle_of(s), ids, table, out);
  }
  void embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) override {
    checks::embedding_backward(ids, dout, dtable);
    if (ids.elements() > 0) cuda::embedding_backward(handle_of(s), workspace_, ids, dout, dtable);
  }

  void rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y,
                        TensorView rstd) override {
    checks::rms_norm_forward(x, delta, weight, sum, y, rstd);
    cuda::rms_norm_forward(handle_of(s), x, delta, weight, eps, sum, y, rstd);
  }
  void rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                         TensorView dweight) override {
    checks::rms_norm_backward(dy, x, weight, rstd, dres, dx, dweight);
    cuda::rms_norm_backward(handle_of(s), workspace_, dy, x, weight, rstd, dres, dx, dweight);
  }

  void qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                       TensorView rstd) override {
    checks::qk_norm_forward(qkv, q_weight, k_weight, layout, out, rstd);
    cuda::qk_norm_forward(handle_of(s), qkv, q_weight, k_weight, eps, layout, out, rstd);
  }
  void qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd, HeadLayout layout,
                        TensorView dq_weight, TensorView dk_weight) override {
    checks::qk_norm_backward(dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight);
    cuda::qk_norm_backward(handle_of(s), workspace_, dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight);
  }

  void rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim,
            bool inverse) override {
    checks::rope(qkv, positions, cos, sin, layout, rotary_dim);
    cuda::rope(handle_of(s), qkv, positions, cos, sin, layout, rotary_dim, inverse);
  }

  void attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                         TensorView lse) override;
  void attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences, HeadLayout layout,
                          float scale, int window, TensorView dqkv) override;
  void attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout, float scale, int window,
                        TensorView out) override {
    checks::attention_cached(qkv, k_cache, v_cache, past, layout, out);
    if (qkv.dim(0) > 0) cuda::attention_cached(handle_of(s), workspace_, qkv, k_cache, v_cache, past, layout, scale, window, out);
  }

  void swiglu_forward(Stream& s, TensorView gate_up, TensorView out) override {
    checks::swiglu_forward(gate_up, out);
    cuda::swiglu_forward(handle_of(s), gate_up, out);
  }
  void swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) override {
    checks::swiglu_backward(dout, gate_up, dgate_up, out);
    cuda::swiglu_backward(handle_of(s), dout, gate_up, dgate_up, out);
  }

  void linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) override {
    checks::linear_forward(x, w, bias, y);
    multiply(s, forward_shape(x.dim(0), w.dim(1), w.dim(0), w.dtype, static_cast<bool>(bias), accumulate), x, w, bias, y);
  }
  void linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) override {
    checks::linear_backward_input(dy, w, dx);
    multiply(s, backward_input_shape(dy.dim(0), w.dim(1), w.dim(0), w.dtype, accumulate), dy, w, TensorView(), dx);
  }
  void linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) override {
    checks::linear_backward_weight(dy, x, dw);
    multiply(s, backward_weight_shape(dy.dim(0), x.dim(1), dy.dim(1), dy.dtype), dy, x, TensorView(), dw);
  }
  void bias_backward(Stream& s, TensorView dy, TensorView db) override {
    checks::bias_backward(dy, db);
    cuda::bias_backward(handle_of(s), workspace_, dy, db);
  }

  void cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) override {
    checks::cross_entropy(logits, labels, losses);
    cuda::cross_entropy(handle_of(s), logits, labels, scale, gradient, losses);
  }

  void adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) override {
    checks::adamw(master, grad, m, v, low, step);
    cuda::adamw(handle_of(s), master, grad, m, v, low, step);
  }
  double sum_squares(Stream& s, TensorView x) override { return waited_sum(s, x, true); }
  double sum(Stream& s, TensorView x) override { return waited_sum(s, x, false); }

 private:
  void open_cudnn() {
    if (options_.attention == "flash") {
      no_cudnn_ = "as asked for";
      return;
    }
    cudnn_ = make_cudnn_attention(device_, options_, no_cudnn_);
    if (!cudnn_ && options_.attention == "cudnn") throw InputError("attention: cudnn", no_cudnn_, "choose auto or flash");
  }
  // The scratch memory with which cuDNN does this call, or nothing; says once for each combination which one runs.
  std::optional<size_t> cudnn_needs(const AttentionCall& call) {
    std::string why = no_cudnn_;
    const std::optional<size_t> bytes = cudnn_ ? cudnn_->prepare(call, why) : std::nullopt;
    if (!bytes && options_.attention == "cudnn") throw InputError("attention: cudnn", why, "choose auto or flash");
    const std::string line = std::string("attention ") + (call.backward() ? "backward" : "forward") + ", " + std::string(name_of(call.qkv.dtype)) +
                             ", head size " + std::to_string(call.layout.head_dim) + ": " + (bytes ? "cuDNN" : "own kernel (" + why + ")");
    if (options_.log && said_.insert(line).second) options_.log(line);
    return bytes;
  }
  void multiply(Stream& s, const GemmShape& shape, TensorView a, TensorView b, TensorView bias, TensorView c) {
    gemm_->multiply(handle_of(s), shape, a.data, b.data, bias.data, c.data, workspace_.get(gemm_->workspace_bytes()));
  }
  double waited_sum(Stream& s, TensorView x, bool squares) {
    checks::sum(x);
    cuda::sum(handle_of(s), sum_scratch_, x, squares, sum_result_);
    s.synchronize();
    return *sum_result_;
  }

  Device& device_;
  CudaKernelsOptions options_;
  Workspace workspace_;
  SequenceMaps maps_;
  std::unique_ptr<Gemm> gemm_;
  std::unique_ptr<CudnnAttention> cudnn_;
  std::string no_cudnn_;
  std::set<std::string> said_;
  void* sum_scratch_ = nullptr;
  double* sum_result_ = nullptr;
};

// The matrix products of a decoder block and of the head at the full number of tokens.
std::vector<GemmShape> announced_shapes(const Kernels::Limits& limits) {
  const int64_t t = limits.tokens, h = limits.hidden, f = limits.intermediate, q = int64_t{limits.layout.heads} * limits.layout.head_dim;
  const DType x = limits.compute;
  std::vector<GemmShape> shapes = {forward_shape(t, h, limits.layout.row(), x, true, false)};  // Qwen2's bias
  const auto linear = [&](int64_t tokens, int64_t in, int64_t out) {
    shapes.push_back(forward_shape(tokens, in, out, x, false, false));
    if (!limits.training) return;
    shapes.push_back(backward_input_shape(tokens, in, out, x, false));
    shapes.push_back(backward_weight_shape(tokens, in, out, x));
  };
  linear(t, h, limits.layout.row());
  linear(t, q, h);
  linear(t, h, 2 * f);
  linear(t, f, h);
  if (limits.loss_chunk > 0) linear(limits.loss_chunk, h, limits.vocabulary);
  return shapes;
}

void CudaKernels::reserve(Arena& arena, const Limits& limits) {
  checks::heads(limits.layout);
  // While planning, the GPU's memory is still free for timing algorithms.
  if (arena.planning()) gemm_->announce(announced_shapes(limits));
  const int64_t tokens = limits.tokens;
  size_t bytes = std::max(gemm_->workspace_bytes(), attention_cached_scratch(limits.longest_sequence, limits.layout));
  if (limits.training) {
    const int64_t widest = std::max({limits.layout.row(), limits.hidden, 2 * limits.intermediate});
    bytes = std::max({bytes, attention_backward_scratch(tokens, limits.layout), rms_norm_backward_scratch(limits.hidden),
                      qk_norm_backward_scratch(limits.layout.head_dim), bias_backward_scratch(widest), embedding_backward_scratch(tokens)});
  }
  if (cudnn_) {
    bytes = std::max(bytes, cudnn_->workspace_bytes(limits));
    const size_t kept = cudnn_->kept_bytes(limits);
    cudnn_->adopt(arena.take_bytes("kernel workspace", kept), kept);
  }
  bytes = padded(bytes);
  workspace_.adopt(arena.take_bytes("kernel workspace", bytes), bytes);
  const size_t maps = SequenceMaps::planned_bytes(tokens);
  maps_.adopt(arena.take_bytes("kernel workspace", maps), maps);
}

void CudaKernels::attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                                    TensorView lse) {
  checks::attention_forward(qkv, sequences, layout, scale, out, lse);
  if (qkv.dim(0) == 0) return;
  const SequenceMap map = maps_.get(s, sequences);
  const AttentionCall call = {.qkv = qkv, .out = out, .lse = lse, .sequences = map, .layout = layout, .scale = scale, .window = window};
  if (const auto bytes = cudnn_needs(call)) {
    cudnn_->run(handle_of(s), workspace_.get(*bytes), call);
  } else {
    cuda::attention_forward(handle_of(s), qkv, map, layout, scale, window, out, lse);
  }
}

void CudaKernels::attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences,
                                     HeadLayout layout, float scale, int window, TensorView dqkv) {
  checks::attention_backward(dout, qkv, out, lse, sequences, layout, scale, dqkv);
  if (qkv.dim(0) == 0) return;
  const SequenceMap map = maps_.get(s, sequences);
  const AttentionCall call = {.qkv = qkv, .out = out, .lse = lse, .dout = dout, .dqkv = dqkv, .sequences = map, .layout = layout, .scale = scale,
                              .window = window};
  if (const auto bytes = cudnn_needs(call)) {
    cudnn_->run(handle_of(s), workspace_.get(*bytes), call);
  } else {
    cuda::attention_backward(handle_of(s), workspace_, dout, qkv, out, lse, map, layout, scale, window, dqkv);
  }
}

}  // namespace

std::unique_ptr<Kernels> make_kernels(Device& device, const CudaKernelsOptions& options) { return std::make_unique<CudaKernels>(device, options); }

}  // namespace llmtrain::cuda
