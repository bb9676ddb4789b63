// Each operation of kernels.h with a clock around it.
#include "train/timed_kernels.h"

#include <chrono>

namespace llmtrain {
namespace {

using Clock = std::chrono::steady_clock;

// Adds the time until it is destroyed.
class Timer {
 public:
  explicit Timer(KernelTime& time) : time_(time), begin_(Clock::now()) {}
  ~Timer() {
    time_.seconds += std::chrono::duration<double>(Clock::now() - begin_).count();
    ++time_.calls;
  }

 private:
  KernelTime& time_;
  Clock::time_point begin_;
};

// " 512->1024" of a weight [1024, 512].
std::string shape_text(const TensorView& w) { return " " + std::to_string(w.dim(1)) + "->" + std::to_string(w.dim(0)); }

}  // namespace

template <class Call>
auto TimedKernels::timed(const std::string& name, Call&& call) {
  const Timer timer(times_[name]);
  return call();
}

std::string TimedKernels::describe() const { return inner_->describe(); }

void TimedKernels::reserve(Arena& arena, const Limits& limits) { inner_->reserve(arena, limits); }

void TimedKernels::zero(Stream& s, TensorView x) {
  return timed("zero", [&] { return inner_->zero(s, x); });
}
void TimedKernels::cast(Stream& s, TensorView from, TensorView to) {
  return timed("cast", [&] { return inner_->cast(s, from, to); });
}
void TimedKernels::add(Stream& s, TensorView x, TensorView y) {
  return timed("add", [&] { return inner_->add(s, x, y); });
}
void TimedKernels::embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) {
  return timed("embedding_forward", [&] { return inner_->embedding_forward(s, ids, table, out); });
}
void TimedKernels::embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) {
  return timed("embedding_backward", [&] { return inner_->embedding_backward(s, ids, dout, dtable); });
}
void TimedKernels::rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y,
                                    TensorView rstd) {
  return timed("rms_norm_forward", [&] { return inner_->rms_norm_forward(s, x, delta, weight, eps, sum, y, rstd); });
}
void TimedKernels::rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                                     TensorView dweight) {
  return timed("rms_norm_backward", [&] { return inner_->rms_norm_backward(s, dy, x, weight, rstd, dres, dx, dweight); });
}
void TimedKernels::qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout,
                                   TensorView out, TensorView rstd) {
  return timed("qk_norm_forward", [&] { return inner_->qk_norm_forward(s, qkv, q_weight, k_weight, eps, layout, out, rstd); });
}
void TimedKernels::qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                                    HeadLayout layout, TensorView dq_weight, TensorView dk_weight) {
  return timed("qk_norm_backward", [&] { return inner_->qk_norm_backward(s, dqkv, qkv, q_weight, k_weight, rstd, layout, dq_weight, dk_weight); });
}
void TimedKernels::rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim,
                        bool inverse) {
  return timed("rope", [&] { return inner_->rope(s, qkv, positions, cos, sin, layout, rotary_dim, inverse); });
}
void TimedKernels::attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out,
                                     TensorView lse) {
  return timed("attention_forward", [&] { return inner_->attention_forward(s, qkv, sequences, layout, scale, window, out, lse); });
}
void TimedKernels::attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences,
                                      HeadLayout layout, float scale, int window, TensorView dqkv) {
  return timed("attention_backward", [&] { return inner_->attention_backward(s, dout, qkv, out, lse, sequences, layout, scale, window, dqkv); });
}
void TimedKernels::attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout,
                                    float scale, int window, TensorView out) {
  return timed("attention_cached", [&] { return inner_->attention_cached(s, qkv, k_cache, v_cache, past, layout, scale, window, out); });
}
void TimedKernels::swiglu_forward(Stream& s, TensorView gate_up, TensorView out) {
  return timed("swiglu_forward", [&] { return inner_->swiglu_forward(s, gate_up, out); });
}
void TimedKernels::swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) {
  return timed("swiglu_backward", [&] { return inner_->swiglu_backward(s, dout, gate_up, dgate_up, out); });
}
void TimedKernels::linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) {
  return timed("linear_forward" + shape_text(w), [&] { return inner_->linear_forward(s, x, w, bias, y, accumulate); });
}
void TimedKernels::linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) {
  return timed("linear_backward_input" + shape_text(w), [&] { return inner_->linear_backward_input(s, dy, w, dx, accumulate); });
}
void TimedKernels::linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) {
  return timed("linear_backward_weight" + shape_text(dw), [&] { return inner_->linear_backward_weight(s, dy, x, dw); });
}
void TimedKernels::bias_backward(Stream& s, TensorView dy, TensorView db) {
  return timed("bias_backward", [&] { return inner_->bias_backward(s, dy, db); });
}
void TimedKernels::cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) {
  return timed("cross_entropy", [&] { return inner_->cross_entropy(s, logits, labels, scale, gradient, losses); });
}
void TimedKernels::adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) {
  return timed("adamw", [&] { return inner_->adamw(s, master, grad, m, v, low, step); });
}
double TimedKernels::sum_squares(Stream& s, TensorView x) {
  return timed("sum_squares", [&] { return inner_->sum_squares(s, x); });
}
double TimedKernels::sum(Stream& s, TensorView x) {
  return timed("sum", [&] { return inner_->sum(s, x); });
}

}  // namespace llmtrain
