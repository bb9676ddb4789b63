// Kernels that measure: each operation goes to the backend underneath, with a span around it (device/spans.h): sums by name for bench --breakdown, single
// spans for a trace. Nothing is waited for, so it is right on a GPU too.
// Thread rules: as the kernels underneath.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "device/spans.h"
#include "kernels/kernels.h"

namespace llmtrain {

using KernelTime = SpanTotal;

class TimedKernels : public Kernels {
 public:
  explicit TimedKernels(std::unique_ptr<Kernels> inner) : inner_(std::move(inner)) {}
  // Measures from here on; before, nothing is. `spans` must outlive the last operation.
  void measure_with(Spans& spans);
  // As far as the device has come.
  const std::map<std::string, KernelTime>& times() const;
  void reset();

  std::string describe() const override;
  void reserve(Arena& arena, const Limits& limits) override;
  void zero(Stream& s, TensorView x) override;
  void cast(Stream& s, TensorView from, TensorView to) override;
  void add(Stream& s, TensorView x, TensorView y) override;
  void embedding_forward(Stream& s, TensorView ids, TensorView table, TensorView out) override;
  void embedding_backward(Stream& s, TensorView ids, TensorView dout, TensorView dtable) override;
  void rms_norm_forward(Stream& s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y, TensorView rstd) override;
  void rms_norm_backward(Stream& s, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                         TensorView dweight) override;
  void qk_norm_forward(Stream& s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                       TensorView rstd) override;
  void qk_norm_backward(Stream& s, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd, HeadLayout layout,
                        TensorView dq_weight, TensorView dk_weight) override;
  void rope(Stream& s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim, bool inverse) override;
  void attention_forward(Stream& s, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window, TensorView out, TensorView lse) override;
  void attention_backward(Stream& s, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences, HeadLayout layout, float scale,
                          int window, TensorView dqkv) override;
  void attention_cached(Stream& s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout, float scale, int window,
                        TensorView out) override;
  void swiglu_forward(Stream& s, TensorView gate_up, TensorView out) override;
  void swiglu_backward(Stream& s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) override;
  void linear_forward(Stream& s, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) override;
  void linear_backward_input(Stream& s, TensorView dy, TensorView w, TensorView dx, bool accumulate) override;
  void linear_backward_weight(Stream& s, TensorView dy, TensorView x, TensorView dw) override;
  void bias_backward(Stream& s, TensorView dy, TensorView db) override;
  void cross_entropy(Stream& s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) override;
  void adamw(Stream& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) override;
  double sum_squares(Stream& s, TensorView x) override;
  double sum(Stream& s, TensorView x) override;

 private:
  template <class Call>
  auto timed(Stream& stream, const std::string& name, Call&& call);
  std::unique_ptr<Kernels> inner_;
  Spans* spans_ = nullptr;
  std::map<std::string, KernelTime> none_;
};

}  // namespace llmtrain
