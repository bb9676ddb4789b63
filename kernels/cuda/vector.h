// 16-byte accesses: four float32 or eight bfloat16 at once, always computed in float32.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "kernels/cuda/ptx.h"
#include "kernels/math/bf16.h"

namespace llmtrain::cuda {

// How many elements of X are 16 bytes.
template <class X>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(X));

// Eight bfloat16 or four float32 as float32.
template <class X>
struct Vector {
  float v[kVector<X>];
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bfloat16 x) { return math::float_from_bf16(x.bits); }

template <class X>
__device__ __forceinline__ X narrow(float x) {
  if constexpr (sizeof(X) == 4) {
    return x;
  } else {
    X y;
    y.bits = static_cast<uint16_t>(ptx::pack_bf16x2(x, 0.0f));
    return y;
  }
}

__device__ __forceinline__ Vector<float> unpack(uint4 raw, float) {
  return {{__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z), __uint_as_float(raw.w)}};
}
__device__ __forceinline__ Vector<bfloat16> unpack(uint4 raw, bfloat16) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  Vector<bfloat16> r;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    r.v[2 * i] = __uint_as_float(words[i] << 16);
    r.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return r;
}
__device__ __forceinline__ uint4 pack(const Vector<float>& x) {
  return make_uint4(__float_as_uint(x.v[0]), __float_as_uint(x.v[1]), __float_as_uint(x.v[2]), __float_as_uint(x.v[3]));
}
__device__ __forceinline__ uint4 pack(const Vector<bfloat16>& x) {
  return make_uint4(ptx::pack_bf16x2(x.v[0], x.v[1]), ptx::pack_bf16x2(x.v[2], x.v[3]), ptx::pack_bf16x2(x.v[4], x.v[5]),
                    ptx::pack_bf16x2(x.v[6], x.v[7]));
}

// p aligned to 16 bytes. The _streaming forms are for data that is read or written once.
template <class X>
__device__ __forceinline__ Vector<X> load(const X* p) {
  return unpack(*reinterpret_cast<const uint4*>(p), X{});
}
template <class X>
__device__ __forceinline__ Vector<X> load_streaming(const X* p) {
  return unpack(__ldcs(reinterpret_cast<const uint4*>(p)), X{});
}
template <class X>
__device__ __forceinline__ void store(X* p, const Vector<X>& x) {
  *reinterpret_cast<uint4*>(p) = pack(x);
}
template <class X>
__device__ __forceinline__ void store_streaming(X* p, const Vector<X>& x) {
  __stcs(reinterpret_cast<uint4*>(p), pack(x));
}

// Whether rows of n elements that begin at these addresses can all be reached with 16-byte accesses (host). Null pointers count as aligned.
template <class X, class... P>
bool vectors_fit(int64_t n, const P*... pointers) {
  return n % kVector<X> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace llmtrain::cuda
