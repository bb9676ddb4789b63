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

// What every lane of the warp brings, readable by all of them until done(): one exchange where separate shuffles would take many.
template <class T>
class Gathered {
 public:
  explicit Gathered(const T& mine) {
    static_assert(sizeof(T) <= emulator::kMailboxBytes);
    std::memcpy(emulator::mailbox(emulator::lane()), &mine, sizeof mine);
    __syncwarp();
  }
  T of(int lane) const {
    T theirs;
    std::memcpy(&theirs, emulator::mailbox(lane), sizeof theirs);
    return theirs;
  }
  void done() const { __syncwarp(); }
};

inline void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  const int lane = emulator::lane();
  const Gathered<const char*> rows(static_cast<const char*>(row));
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], rows.of(i * 8 + lane / 4) + 4 * (lane % 4), 4);
  rows.done();
}
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  const int lane = emulator::lane();
  const Gathered<const char*> rows(static_cast<const char*>(row));
  for (int i = 0; i < 4; ++i) {
    uint16_t half[2];
    for (int j = 0; j < 2; ++j) std::memcpy(&half[j], rows.of(i * 8 + 2 * (lane % 4) + j) + 2 * (lane / 4), 2);
    r[i] = half[0] | static_cast<uint32_t>(half[1]) << 16;
  }
  rows.done();
}

inline void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments { uint32_t a[4], b[2]; };
  const Gathered<Fragments> warp({{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const int lane = emulator::lane(), g = lane / 4, t = lane % 4;
  const auto value = [](uint32_t pair, int i) { return math::float_from_bf16(static_cast<uint16_t>(i ? pair >> 16 : pair)); };
  float sums[4] = {0, 0, 0, 0};
  for (int quad = 0; quad < 4; ++quad) {  // columns 2 quad, 2 quad + 1 and the same + 8 of the inner dimension
    const Fragments upper = warp.of(g * 4 + quad), left = warp.of(2 * t * 4 + quad), next = warp.of((2 * t + 1) * 4 + quad);
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 2; ++i) {
        const float row0 = value(upper.a[2 * half], i), row1 = value(upper.a[2 * half + 1], i);
        sums[0] += row0 * value(left.b[half], i);
        sums[1] += row0 * value(next.b[half], i);
        sums[2] += row1 * value(left.b[half], i);
        sums[3] += row1 * value(next.b[half], i);
      }
    }
  }
  warp.done();
  for (int i = 0; i < 4; ++i) d[i] += sums[i];
}

}  // namespace llmtrain::cuda::ptx
