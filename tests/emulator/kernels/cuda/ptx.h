// What kernels/cuda/ptx.h does, on the emulator's threads.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/math/bf16.h"

namespace llmtrain::cuda::ptx {

template <class T = char>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::current_block().shared);
}

inline uint32_t pack_bf16x2(float low, float high) {
  return math::bf16_from_float(low) | static_cast<uint32_t>(math::bf16_from_float(high)) << 16;
}

inline float exp2_approximate(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

// Done at once, which is one of the moments at which the GPU may do it.
inline void copy_async_16(void* shared, const void* global, int bytes = 16) {
  if (bytes == 16) {
    std::memcpy(shared, global, 16);
  } else {
    std::memset(shared, 0, 16);
  }
}
inline void copy_async_commit() {}
template <int pending>
void copy_async_wait() {}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const auto* base = __shfl_sync(0xffffffffu, static_cast<const char*>(row), i * 8 + lane / 4);
    std::memcpy(&r[i], base + 4 * (lane % 4), 4);
  }
  __syncwarp();
}
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    uint16_t half[2];
    for (int j = 0; j < 2; ++j) {
      const auto* base = __shfl_sync(0xffffffffu, static_cast<const char*>(row), i * 8 + 2 * (lane % 4) + j);
      std::memcpy(&half[j], base + 2 * (lane / 4), 2);
    }
    r[i] = half[0] | static_cast<uint32_t>(half[1]) << 16;
  }
  __syncwarp();
}

inline void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct A { uint32_t r[4]; };
  struct B { uint32_t r[2]; };
  const A mine{{a[0], a[1], a[2], a[3]}};
  const B right{{b0, b1}};
  const int lane = emulator::lane(), g = lane / 4, t = lane % 4;
  const auto value = [](uint32_t pair, int i) { return math::float_from_bf16(static_cast<uint16_t>(i ? pair >> 16 : pair)); };
  float sums[4] = {0, 0, 0, 0};
  for (int quad = 0; quad < 4; ++quad) {  // columns 2 quad, 2 quad + 1 and the same + 8 of the inner dimension
    const A upper = __shfl_sync(0xffffffffu, mine, g * 4 + quad);
    const B left = __shfl_sync(0xffffffffu, right, 2 * t * 4 + quad), next = __shfl_sync(0xffffffffu, right, (2 * t + 1) * 4 + quad);
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 2; ++i) {
        const float row0 = value(upper.r[2 * half], i), row1 = value(upper.r[2 * half + 1], i);
        sums[0] += row0 * value(left.r[half], i);
        sums[1] += row0 * value(next.r[half], i);
        sums[2] += row1 * value(left.r[half], i);
        sums[3] += row1 * value(next.r[half], i);
      }
    }
  }
  for (int i = 0; i < 4; ++i) d[i] += sums[i];
}

}  // namespace llmtrain::cuda::ptx
