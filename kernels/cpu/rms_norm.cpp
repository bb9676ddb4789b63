// RMSNorm, fused with the residual add, and its gradient.
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

#ifndef LLMTRAIN_KERNELS_CPU_RMS_NORM_ONCE_
#define LLMTRAIN_KERNELS_CPU_RMS_NORM_ONCE_
namespace llmtrain::cpu {
// The gradient of the weight is summed over blocks of this many tokens, then over the blocks: the order does not depend on the threads.
inline constexpr int64_t kNormBlock = 64;
}  // namespace llmtrain::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// sum = x + delta, rounded to X; returns the sum of its squares. delta and sum may be null.
template <class X>
float add_and_square(const X* x, const X* delta, X* sum, int64_t n) {
  VF square0 = hn::Zero(df), square1 = hn::Zero(df);
  for_vectors(0, n, [&](int64_t j, auto lanes) HWY_ATTR {
    VF v = load(x + j, lanes);
    if (delta) v = round_to(hn::Add(v, load(delta + j, lanes)), X());
    if (sum) store(v, sum + j, lanes);
    const VF previous = square0;  // two sums in turn: the additions of neighbours do not wait for each other
    square0 = square1;
    square1 = hn::MulAdd(v, v, previous);
  });
  return sum_lanes(hn::Add(square0, square1));
}

template <class X>
void rms_norm_rows(const X* x, const X* delta, const X* weight, float eps, X* sum, X* y, float* rstd, int64_t hidden, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t at = t * hidden;
    const float square = add_and_square(x + at, delta ? delta + at : nullptr, sum ? sum + at : nullptr, hidden);
    const float r = 1.0f / std::sqrt(square / static_cast<float>(hidden) + eps);
    if (rstd) rstd[t] = r;
    const X* from = sum ? sum + at : x + at;
    const VF factor = hn::Set(df, r);
    for_vectors(0, hidden, [&](int64_t j, auto lanes) HWY_ATTR {
      store(hn::Mul(load(weight + j, lanes), hn::Mul(load(from + j, lanes), factor)), y + at + j, lanes);
    });
  }
}

template <class X>
void rms_norm_backward_row(const X* dy, const X* x, const X* weight, float r, const X* dres, X* dx, float* dweight, int64_t hidden) {
  VF dot0 = hn::Zero(df), dot1 = hn::Zero(df);
  const VF rstd = hn::Set(df, r);
  for_vectors(0, hidden, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF product = hn::Mul(load(dy + j, lanes), load(x + j, lanes)), previous = dot0;
    dot0 = dot1;
    dot1 = hn::MulAdd(product, load(weight + j, lanes), previous);
    if (dweight) store(hn::MulAdd(product, rstd, load(dweight + j, lanes)), dweight + j, lanes);
  });
  const float mean = sum_lanes(hn::Add(dot0, dot1)) / static_cast<float>(hidden);
  const VF along_x = hn::Set(df, -r * r * r * mean);
  for_vectors(0, hidden, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF g = hn::Mul(load(dy + j, lanes), load(weight + j, lanes));
    VF d = hn::MulAdd(load(x + j, lanes), along_x, hn::Mul(g, rstd));
    if (dres) d = hn::Add(d, load(dres + j, lanes));
    store(d, dx + j, lanes);
  });
}

void rms_norm_forward_kernel(TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y, TensorView rstd) {
  with_compute_type(x.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(x.dim(0), 1, [&](int64_t begin, int64_t end) {
      rms_norm_rows(x.as<X>(), delta.as<X>(), weight.as<X>(), eps, sum.as<X>(), y.as<X>(), rstd.as<float>(), x.dim(1), begin, end);
    });
  });
}

// parts float32 [blocks, hidden], or null where the gradient of the weight is not wanted.
void rms_norm_backward_kernel(TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx, float* parts) {
  const int64_t tokens = x.dim(0), hidden = x.dim(1);
  with_compute_type(x.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_tasks((tokens + kNormBlock - 1) / kNormBlock, [&](int64_t block, int) {
      float* part = parts ? parts + block * hidden : nullptr;
      if (part) std::fill_n(part, hidden, 0.0f);
      for (int64_t t = block * kNormBlock; t < std::min(tokens, (block + 1) * kNormBlock); ++t) {
        const int64_t at = t * hidden;
        rms_norm_backward_row(dy.as<X>() + at, x.as<X>() + at, weight.as<X>(), rstd.as<float>()[t], dres ? dres.as<X>() + at : nullptr,
                              dx.as<X>() + at, part, hidden);
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(rms_norm_forward_kernel);
HWY_EXPORT(rms_norm_backward_kernel);

void rms_norm_forward(TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y, TensorView rstd) {
  HWY_DYNAMIC_DISPATCH(rms_norm_forward_kernel)(x, delta, weight, eps, sum, y, rstd);
}

size_t rms_norm_backward_scratch(int64_t tokens, int64_t hidden) {
  return padded(static_cast<size_t>((tokens + kNormBlock - 1) / kNormBlock * hidden) * sizeof(float));
}

void rms_norm_backward(Workspace& workspace, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                       TensorView dweight) {
  const int64_t tokens = x.dim(0), hidden = x.dim(1);
  float* parts = dweight ? reinterpret_cast<float*>(workspace.get(rms_norm_backward_scratch(tokens, hidden))) : nullptr;
  HWY_DYNAMIC_DISPATCH(rms_norm_backward_kernel)(dy, x, weight, rstd, dres, dx, parts);
  if (!parts) return;
  parallel_ranges(hidden, 64, [&](int64_t begin, int64_t end) {
    for (int64_t block = 0; block < (tokens + kNormBlock - 1) / kNormBlock; ++block) {
      for (int64_t j = begin; j < end; ++j) dweight.as<float>()[j] += parts[block * hidden + j];
    }
  });
}

}  // namespace llmtrain::cpu
#endif
