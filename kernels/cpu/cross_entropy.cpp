// Cross entropy of rows of logits, and its gradient in their place.
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cross_entropy.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

template <class X>
float row_max(const X* row, int64_t n) {
  VF largest0 = hn::Set(df, -std::numeric_limits<float>::infinity()), largest1 = largest0;
  const int64_t pair = 2 * static_cast<int64_t>(kLanes);
  int64_t j = 0;
  for (; j + pair <= n; j += pair) {
    largest0 = hn::Max(largest0, load(row + j));
    largest1 = hn::Max(largest1, load(row + j + kLanes));
  }
  float largest = max_lanes(hn::Max(largest0, largest1));
  for (; j < n; ++j) largest = std::max(largest, static_cast<float>(row[j]));
  return largest;
}

// Sum of exp(row - largest). A NaN in the row gives NaN.
template <class X>
double row_sum(const X* row, int64_t n, float largest) {
  const VF shift = hn::Set(df, largest);
  VF sum0 = hn::Zero(df), sum1 = hn::Zero(df);
  const int64_t pair = 2 * static_cast<int64_t>(kLanes);
  int64_t j = 0;
  for (; j + pair <= n; j += pair) {
    sum0 = hn::Add(sum0, exp(hn::Sub(load(row + j), shift)));
    sum1 = hn::Add(sum1, exp(hn::Sub(load(row + j + kLanes), shift)));
  }
  double sum = sum_lanes(hn::Add(sum0, sum1));
  for (; j < n; ++j) sum += std::exp(static_cast<double>(static_cast<float>(row[j])) - static_cast<double>(largest));
  return sum;
}

template <class X>
void cross_entropy_rows(X* logits, const int32_t* labels, float scale, bool gradient, float* losses, int64_t vocabulary, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    X* row = logits + t * vocabulary;
    const int32_t label = labels[t];
    if (label == kIgnoredLabel) {
      losses[t] = 0;
      if (gradient) std::fill_n(row, vocabulary, X(0.0f));
      continue;
    }
    const float largest = row_max(row, vocabulary);
    const double sum = row_sum(row, vocabulary, largest), target = static_cast<double>(static_cast<float>(row[label]));
    losses[t] = static_cast<float>(std::log(sum) + (static_cast<double>(largest) - target));
    if (!gradient) continue;
    const VF shift = hn::Set(df, largest), factor = hn::Set(df, static_cast<float>(static_cast<double>(scale) / sum));
    for_vectors(0, vocabulary, [&](int64_t j, auto lanes) HWY_ATTR { store(hn::Mul(exp(hn::Sub(load(row + j, lanes), shift)), factor), row + j, lanes); });
    // softmax - 1 of the label, in double: near 1 the rounded softmax would leave nothing of the difference.
    row[label] = X(static_cast<float>((std::exp(target - static_cast<double>(largest)) / sum - 1.0) * static_cast<double>(scale)));
  }
}

void cross_entropy_kernel(TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) {
  with_compute_type(logits.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(logits.dim(0), 1, [&](int64_t begin, int64_t end) {
      cross_entropy_rows(logits.as<X>(), labels.as<int32_t>(), scale, gradient, losses.as<float>(), logits.dim(1), begin, end);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(cross_entropy_kernel);

void cross_entropy(TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) {
  for (int64_t t = 0; t < logits.dim(0); ++t) {
    const int32_t label = labels.as<int32_t>()[t];
    LLMTRAIN_ASSERT(label == kIgnoredLabel || (label >= 0 && label < logits.dim(1)), "label " + std::to_string(label) + " outside the vocabulary");
  }
  HWY_DYNAMIC_DISPATCH(cross_entropy_kernel)(logits, labels, scale, gradient, losses);
}

}  // namespace llmtrain::cpu
#endif
