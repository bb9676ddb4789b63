// Linear layers of few rows (generation): each weight is read once, at the speed of memory. gemm.cpp does the rest.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kRowsAtOnce = 32;  // rows of w

// sums[t][r] = sum_k x[t][k] w[r][k] for kTokens tokens and kRows rows of w. x float32, its rows and those of w `in` elements apart.
template <class X, int kTokens, int kRows>
HWY_INLINE void dot_rows(const float* x, const X* w, int64_t in, float (&sums)[kTokens][kRows]) {
  VF sum[kTokens][kRows];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[t][r] = hn::Zero(df);
  }
  for_vectors(0, in, [&](int64_t k, auto lanes) HWY_ATTR {
    VF weight[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) weight[r] = load(w + r * in + k, lanes);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const VF value = load(x + t * in + k, lanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[t][r] = hn::MulAdd(value, weight[r], sum[t][r]);
    }
  });
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) sums[t][r] = sum_lanes(sum[t][r]);
  }
}

template <class X, int kTokens, int kRows>
void output_rows(const float* x, const X* w, const X* bias, X* y, int64_t in, int64_t out, bool accumulate, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; n += kRows) {
    float sums[kTokens][kRows];
    dot_rows<X, kTokens, kRows>(x, w + n * in, in, sums);
    for (int t = 0; t < kTokens; ++t) {
      for (int r = 0; r < kRows; ++r) {
        X& to = y[t * out + n + r];
        float value = sums[t][r] + (bias ? static_cast<float>(bias[n + r]) : 0.0f);
        if (accumulate) value += static_cast<float>(to);
        to = X(value);
      }
    }
  }
}

template <class X, int kTokens>
void skinny_range(const float* x, const X* w, const X* bias, X* y, int64_t in, int64_t out, bool accumulate, int64_t begin, int64_t end) {
  const int64_t whole = begin + (end - begin) / 4 * 4;
  output_rows<X, kTokens, 4>(x, w, bias, y, in, out, accumulate, begin, whole);
  output_rows<X, kTokens, 1>(x, w, bias, y, in, out, accumulate, whole, end);
}

// x float32 [tokens, in].
void linear_skinny_kernel(const float* x, int64_t tokens, TensorView w, TensorView bias, TensorView y, bool accumulate) {
  const int64_t out = w.dim(0), in = w.dim(1);
  with_compute_type(w.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(out, kRowsAtOnce, [&](int64_t first, int64_t last) {
      for (int64_t begin = first; begin < last; begin += kRowsAtOnce) {  // the second four tokens find these rows of w in the cache
        const int64_t end = std::min(last, begin + kRowsAtOnce);
        int64_t t = 0;
        for (; t + 4 <= tokens; t += 4) skinny_range<X, 4>(x + t * in, w.as<X>(), bias.as<X>(), y.as<X>() + t * out, in, out, accumulate, begin, end);
        const float* rest = x + t * in;
        X* to = y.as<X>() + t * out;
        if (tokens - t == 3) skinny_range<X, 3>(rest, w.as<X>(), bias.as<X>(), to, in, out, accumulate, begin, end);
        if (tokens - t == 2) skinny_range<X, 2>(rest, w.as<X>(), bias.as<X>(), to, in, out, accumulate, begin, end);
        if (tokens - t == 1) skinny_range<X, 1>(rest, w.as<X>(), bias.as<X>(), to, in, out, accumulate, begin, end);
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(linear_skinny_kernel);

size_t linear_skinny_scratch(int64_t in_features) { return padded(static_cast<size_t>(kSkinnyTokens * in_features) * sizeof(float)); }

void linear_skinny(Workspace& workspace, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate) {
  const int64_t tokens = x.dim(0);
  const float* wide = x.as<float>();
  if (x.dtype == DType::bfloat16) {
    float* scratch = reinterpret_cast<float*>(workspace.get(linear_skinny_scratch(x.dim(1))));
    cast(x, TensorView(scratch, {tokens, x.dim(1)}));
    wide = scratch;
  }
  HWY_DYNAMIC_DISPATCH(linear_skinny_kernel)(wide, tokens, w, bias, y, accumulate);
}

}  // namespace llmtrain::cpu
#endif
