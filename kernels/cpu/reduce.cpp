// Zeroing, conversion, addition and sums.
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reduce.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

#ifndef LLMTRAIN_KERNELS_CPU_REDUCE_ONCE_
#define LLMTRAIN_KERNELS_CPU_REDUCE_ONCE_
namespace llmtrain::cpu {
inline constexpr int64_t kSumParts = 64;  // a sum is cut into this many parts, whatever the number of threads
inline constexpr int64_t kElementGrain = 4096;
}  // namespace llmtrain::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

template <class From, class To>
void cast_range(const From* from, To* to, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t i, auto lanes) HWY_ATTR { store(load(from + i, lanes), to + i, lanes); });
}

template <class X>
void add_range(const X* x, X* y, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t i, auto lanes) HWY_ATTR { store(hn::Add(load(x + i, lanes), load(y + i, lanes)), y + i, lanes); });
}

template <bool kSquare>
double sum_range(const float* x, int64_t begin, int64_t end) {
  VD sum = hn::Zero(dd);
  const hn::Rebind<float, DD> dhalf;
  const int64_t step = static_cast<int64_t>(hn::Lanes(dd));
  VD other = hn::Zero(dd);
  int64_t i = begin;
  for (; i + 2 * step <= end; i += 2 * step) {
    const VD a = hn::PromoteTo(dd, hn::LoadU(dhalf, x + i)), b = hn::PromoteTo(dd, hn::LoadU(dhalf, x + i + step));
    sum = kSquare ? hn::MulAdd(a, a, sum) : hn::Add(a, sum);
    other = kSquare ? hn::MulAdd(b, b, other) : hn::Add(b, other);
  }
  double total = sum_lanes(hn::Add(sum, other));
  for (; i < end; ++i) total += kSquare ? static_cast<double>(x[i]) * static_cast<double>(x[i]) : static_cast<double>(x[i]);
  return total;
}

void cast_kernel(TensorView from, TensorView to) {
  parallel_ranges(from.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
    if (from.dtype == DType::float32) {
      cast_range(from.as<float>(), to.as<bfloat16>(), begin, end);
    } else {
      cast_range(from.as<bfloat16>(), to.as<float>(), begin, end);
    }
  });
}

void add_kernel(TensorView x, TensorView y) {
  with_compute_type(x.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(x.elements(), kElementGrain, [&](int64_t begin, int64_t end) { add_range(x.as<X>(), y.as<X>(), begin, end); });
  });
}

double sum_kernel(const float* x, int64_t begin, int64_t end, bool square) {
  return square ? sum_range<true>(x, begin, end) : sum_range<false>(x, begin, end);
}

// Columns [begin, end) of the sum over rows: blocks of 128 rows, then the sum of the blocks, which keeps the rounding of long sums small.
template <class X>
void sum_columns(const X* x, int64_t rows, int64_t columns, float* sums, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t j, auto lanes) HWY_ATTR {
    VF total = hn::Zero(df);
    for (int64_t block = 0; block < rows; block += 128) {
      VF part = hn::Zero(df);
      for (int64_t t = block; t < std::min(rows, block + 128); ++t) part = hn::Add(part, load(x + t * columns + j, lanes));
      total = hn::Add(total, part);
    }
    store(hn::Add(load(sums + j, lanes), total), sums + j, lanes);
  });
}

void bias_backward_kernel(TensorView dy, TensorView db) {
  with_compute_type(dy.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(dy.dim(1), 64, [&](int64_t begin, int64_t end) { sum_columns(dy.as<X>(), dy.dim(0), dy.dim(1), db.as<float>(), begin, end); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(cast_kernel);
HWY_EXPORT(add_kernel);
HWY_EXPORT(sum_kernel);
HWY_EXPORT(bias_backward_kernel);

void zero(TensorView x) {
  parallel_ranges(static_cast<int64_t>(x.bytes()), 1 << 16,
                  [&](int64_t begin, int64_t end) { std::memset(x.as<char>() + begin, 0, static_cast<size_t>(end - begin)); });
}

void cast(TensorView from, TensorView to) {
  if (from.dtype == to.dtype) {
    parallel_ranges(static_cast<int64_t>(from.bytes()), 1 << 16, [&](int64_t begin, int64_t end) {
      std::memmove(to.as<char>() + begin, from.as<char>() + begin, static_cast<size_t>(end - begin));
    });
    return;
  }
  HWY_DYNAMIC_DISPATCH(cast_kernel)(from, to);
}

void add(TensorView x, TensorView y) { HWY_DYNAMIC_DISPATCH(add_kernel)(x, y); }

namespace {
double parted_sum(TensorView x, bool square) {
  const int64_t n = x.elements(), part = ((n + kSumParts - 1) / kSumParts + 63) / 64 * 64;
  double parts[kSumParts] = {};
  parallel_tasks(kSumParts, [&](int64_t i, int) {
    const int64_t begin = std::min(n, i * part), end = std::min(n, begin + part);
    if (begin < end) parts[i] = HWY_DYNAMIC_DISPATCH(sum_kernel)(x.as<float>(), begin, end, square);
  });
  double total = 0;
  for (double p : parts) total += p;
  return total;
}
}  // namespace

double sum_squares(TensorView x) { return parted_sum(x, true); }
double sum(TensorView x) { return parted_sum(x, false); }
void bias_backward(TensorView dy, TensorView db) { HWY_DYNAMIC_DISPATCH(bias_backward_kernel)(dy, db); }

}  // namespace llmtrain::cpu
#endif
