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

inline constexpr int64_t kRowsPerTask = 4;

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

// weights = exp(row - largest), in float32; returns their sum. A NaN in the row gives NaN. weights may be null.
template <class X>
double row_weights(const X* row, int64_t n, float largest, float* weights) {
  const VF shift = hn::Set(df, largest);
  VF sum0 = hn::Zero(df), sum1 = hn::Zero(df);
  const int64_t whole = n / static_cast<int64_t>(kLanes) * static_cast<int64_t>(kLanes);
  for_vectors(0, whole, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF weight = exp(hn::Sub(load(row + j, lanes), shift)), previous = sum0;
    if (weights) store(weight, weights + j, lanes);
    sum0 = sum1;
    sum1 = hn::Add(previous, weight);
  });
  double sum = sum_lanes(hn::Add(sum0, sum1));
  for (int64_t j = whole; j < n; ++j) {
    const double weight = std::exp(static_cast<double>(static_cast<float>(row[j])) - static_cast<double>(largest));
    if (weights) weights[j] = static_cast<float>(weight);
    sum += weight;
  }
  return sum;
}

// weights float32 [vocabulary]: scratch, null without a gradient.
template <class X>
void cross_entropy_row(X* row, int32_t label, float scale, float* loss, int64_t vocabulary, float* weights) {
  if (label == kIgnoredLabel) {
    *loss = 0;
    if (weights) std::fill_n(row, vocabulary, X(0.0f));
    return;
  }
  const float largest = row_max(row, vocabulary);
  const double sum = row_weights(row, vocabulary, largest, weights), target = static_cast<double>(static_cast<float>(row[label]));
  *loss = static_cast<float>(std::log(sum) + (static_cast<double>(largest) - target));
  if (!weights) return;
  const VF factor = hn::Set(df, static_cast<float>(static_cast<double>(scale) / sum));
  for_vectors(0, vocabulary, [&](int64_t j, auto lanes) HWY_ATTR { store(hn::Mul(load(weights + j, lanes), factor), row + j, lanes); });
  // softmax - 1 of the label, in double: near 1 the rounded softmax would leave nothing of the difference.
  row[label] = X(static_cast<float>((std::exp(target - static_cast<double>(largest)) / sum - 1.0) * static_cast<double>(scale)));
}

void cross_entropy_kernel(TensorView logits, TensorView labels, float scale, float* scratch, TensorView losses) {
  const int64_t vocabulary = logits.dim(1);
  with_compute_type(logits.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_tasks((logits.dim(0) + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int thread) {
      for (int64_t t = task * kRowsPerTask; t < std::min(logits.dim(0), (task + 1) * kRowsPerTask); ++t) {
        cross_entropy_row(logits.as<X>() + t * vocabulary, labels.as<int32_t>()[t], scale, losses.as<float>() + t, vocabulary,
                          scratch ? scratch + thread * vocabulary : nullptr);
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(cross_entropy_kernel);

size_t cross_entropy_scratch(int64_t vocabulary) { return padded(static_cast<size_t>(thread_count() * vocabulary) * sizeof(float)); }

void cross_entropy(Workspace& workspace, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) {
  for (int64_t t = 0; t < logits.dim(0); ++t) {
    const int32_t label = labels.as<int32_t>()[t];
    LLMTRAIN_ASSERT(label == kIgnoredLabel || (label >= 0 && label < logits.dim(1)), "label " + std::to_string(label) + " outside the vocabulary");
  }
  float* scratch = gradient ? reinterpret_cast<float*>(workspace.get(cross_entropy_scratch(logits.dim(1)))) : nullptr;
  HWY_DYNAMIC_DISPATCH(cross_entropy_kernel)(logits, labels, scale, scratch, losses);
}

}  // namespace llmtrain::cpu
#endif
