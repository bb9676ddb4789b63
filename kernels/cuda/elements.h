// What element-wise kernels share: their grids, and access to W neighbouring elements of a row, where W is either as many as 16-byte accesses
// take or 1. Kernels are written once for any W and started with the one that the shape and the addresses allow.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {

inline constexpr int kElementwiseThreads = 256;

// One thread for each work item up to 2^28; kernels go on by item_stride().
inline Grid elementwise_grid(int64_t work_items) {
  return {dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(work_items, kElementwiseThreads), 1 << 20))), dim3(kElementwiseThreads)};
}
__device__ __forceinline__ int64_t first_item() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t item_stride() { return int64_t{gridDim.x} * blockDim.x; }

// Whole warps, at least `wanted` threads, at most `most` (a multiple of 32).
inline unsigned whole_warps(int64_t wanted, int64_t most) { return static_cast<unsigned>(std::min(ceil_div(std::max<int64_t>(wanted, 1), 32) * 32, most)); }

// Calls f with a Width<W>: W is kVector<X> where vectors fit, else 1.
template <int n>
struct Width {
  static constexpr int value = n;
};
template <class X, class F>
void with_width(bool vectors, const F& f) {
  if (vectors) return f(Width<kVector<X>>{});
  f(Width<1>{});
}

template <int W, class X>
__device__ __forceinline__ void load_elements(const X* p, float (&x)[W]) {
  if constexpr (W == 1) {
    x[0] = widen(*p);
  } else {
    static_assert(W % kVector<X> == 0);
#pragma unroll
    for (int part = 0; part < W; part += kVector<X>) {
      const Vector<X> v = load(p + part);
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i) x[part + i] = v.v[i];
    }
  }
}

template <int W, class X>
__device__ __forceinline__ void store_elements(X* p, const float (&x)[W]) {
  if constexpr (W == 1) {
    *p = narrow<X>(x[0]);
  } else {
    static_assert(W % kVector<X> == 0);
#pragma unroll
    for (int part = 0; part < W; part += kVector<X>) {
      Vector<X> v;
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i) v.v[i] = x[part + i];
      store(p + part, v);
    }
  }
}

// W elements as they are stored, for kernels that keep several accesses under way and widen them later.
template <class X, int W>
using Raw = std::conditional_t<W == 1, X, uint4>;

template <int W, class X>
__device__ __forceinline__ Raw<X, W> load_raw(const X* p) {
  static_assert(W == 1 || W == kVector<X>);
  return *reinterpret_cast<const Raw<X, W>*>(p);
}
template <class X, int W>
__device__ __forceinline__ void widen_raw(const Raw<X, W>& raw, float (&x)[W]) {
  if constexpr (W == 1) {
    x[0] = widen(raw);
  } else {
    const Vector<X> v = unpack(raw, X{});
#pragma unroll
    for (int i = 0; i < W; ++i) x[i] = v.v[i];
  }
}

}  // namespace llmtrain::cuda
