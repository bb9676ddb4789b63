// Kernels that measure: each operation goes to the backend underneath, and its seconds are added up by name (bench --breakdown). Right on the CPU, where
// an operation is done when its call returns.
// Thread rules: as the kernels underneath.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "kernels/kernels.h"

namespace llmtrain {

struct KernelTime {
  double seconds = 0;
  int64_t calls = 0;
};

class TimedKernels : public Kernels {
 public:
  explicit TimedKernels(std::unique_ptr<Kernels> inner) : inner_(std::move(inner)) {}
  const std::map<std::string, KernelTime>& times() const { return times_; }
  void reset() { times_.clear(); }

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
  auto timed(const std::string& name, Call&& call);
  std::unique_ptr<Kernels> inner_;
  std::map<std::string, KernelTime> times_;
};

}  // namespace llmtrain
