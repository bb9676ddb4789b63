// Each operation of kernels.h with a span around it.
#include "train/timed_kernels.h"

namespace llmtrain {
namespace {

// " 512->1024" of a weight [1024, 512].
std::string shape_text(const TensorView& w) { return " " + std::to_string(w.dim(1)) + "->" + std::to_string(w.dim(0)); }

}  // namespace

void TimedKernels::measure_with(Spans& spans) {
  spans_ = &spans;
  spans.count_by_name(true);
}

const std::map<std::string, KernelTime>& TimedKernels::times() const {
  if (!spans_) return none_;
  spans_->collect();
  return spans_->by_name();
}

void TimedKernels::reset() {
  if (!spans_) return;
  spans_->collect();
  spans_->reset_names();
}

template <class Call>
auto TimedKernels::timed(Stream& stream, const std::string& name, Call&& call) {
  const SpanScope span(spans_, stream, SpanKind::compute, name);
  return call();
}

std::string TimedKernels::describe() const { return inner_->describe(); }

void TimedKernels::reserve(Arena& arena, const Limits& limits) { inner_->reserve(arena, limits); }

void TimedKernels::zero(Stream& s, TensorView x) {
  return timed(s, "zero", [&] { return inner_->zero(s, x); });
}
void TimedKernels::cast(Stream& s, TensorView from, TensorView to) {
  return timed(s, "cast", [&] { return inner_->cast(s, from, to); });
}
void TimedKernels::add(Stream& s, TensorView x, TensorView y) {
  return timed(s, "add", [&] { return inner_->add(s, x, y); });
}
void TimedKernels::embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) {
  return timed(s, "embedding_forward", [&] { return inner_->embedding_forward(s, ids, table, out); });
}
void TimedKernels::embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) {
  return timed(s, "embedding_backward", [&] { return inner_->embedding_backward(s, ids, dout, dtable); });
}
void TimedKernels::rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y,
                                    TensorView rstd) {
  return timed(s, "rms_norm_forward", [&] { return inner_->rms_norm_forward(s, x, delta, weight, eps, sum, y, rstd); });
}
void TimedKernels::rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                                     TensorView dweight) {
  return timed(s, "rms_norm_backward", [&] { return inner_->rms_norm_backward(s, dy, x, weight, rstd, dres, dx, dweight); });
}
void TimedKernels::qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout,
                                   TensorView out, TensorView rstd) {
  return timed(s, "qk_norm_forward", [&] { return inner_->qk_norm_forward(s, qkv, q_weight, k_weight, eps, layout, out, rstd); });
}
void TimedKernels::qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                                    HeadLayout layout, TensorView dq_weight, TensorView dk_weight) {
  return timed(s, "qk_norm_backward", [&] { return inner_->qk_norm_backward(s, dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight); });
}
void TimedKernels::rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim,
                        bool inverse) {
  return timed(s, "rope", [&] { return inner_->rope(s, qkv, positions, cos, sin, layout, rotary_dim, inverse); });
}
void TimedKernels::attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                                     TensorView lse) {
  return timed(s, "attention_forward", [&] { return inner_->attention_forward(s, qkv, sequences, layout, scale, window, out, lse); });
}
void TimedKernels::attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences,
                                      HeadLayout layout, float scale, int window, TensorView dqkv) {
  return timed(s, "attention_backward", [&] { return inner_->attention_backward(s, dout, qkv, out, lse, sequences, layout, scale, window, dqkv); });
}
void TimedKernels::attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout,
                                    float scale, int window, TensorView out) {
  return timed(s, "attention_cached", [&] { return inner_->attention_cached(s, qkv, k_cache, v_cache, past, layout, scale, window, out); });
}
void TimedKernels::swiglu_forward(Stream& s, TensorView gate_up, TensorView out) {
  return timed(s, "swiglu_forward", [&] { return inner_->swiglu_forward(s, gate_up, out); });
}
void TimedKernels::swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) {
  return timed(s, "swiglu_backward", [&] { return inner_->swiglu_backward(s, dout, gate_up, dgate_up, out); });
}
void TimedKernels::linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) {
  return timed(s, "linear_forward" + shape_text(w), [&] { return inner_->linear_forward(s, x, w, bias, y, accumulate); });
}
void TimedKernels::linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) {
  return timed(s, "linear_backward_input" + shape_text(w), [&] { return inner_->linear_backward_input(s, dy, w, dx, accumulate); });
}
void TimedKernels::linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) {
  return timed(s, "linear_backward_weight" + shape_text(dw), [&] { return inner_->linear_backward_weight(s, dy, x, dw); });
}
void TimedKernels::bias_backward(Stream& s, TensorView dy, TensorView db) {
  return timed(s, "bias_backward", [&] { return inner_->bias_backward(s, dy, db); });
}
void TimedKernels::cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) {
  return timed(s, "cross_entropy", [&] { return inner_->cross_entropy(s, logits, labels, scale, gradient, losses); });
}
void TimedKernels::adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) {
  return timed(s, "adamw", [&] { return inner_->adamw(s, master, grad, m, v, low, step); });
}
double TimedKernels::sum_squares(Stream& s, TensorView x) {
  return timed(s, "sum_squares", [&] { return inner_->sum_squares(s, x); });
}
double TimedKernels::sum(Stream& s, TensorView x) {
  return timed(s, "sum", [&] { return inner_->sum(s, x); });
}

}  // namespace llmtrain
