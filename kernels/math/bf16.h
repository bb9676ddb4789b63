// Scalar bfloat16 conversion on raw bits: both backends round alike (nearest even, NaN stays a quiet NaN).
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/math/host_device.h"

namespace llmtrain::math {

LLMTRAIN_HD inline uint32_t float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

LLMTRAIN_HD inline float bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

LLMTRAIN_HD inline uint16_t bf16_from_float(float f) {
  const uint32_t u = float_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

LLMTRAIN_HD inline float float_from_bf16(uint16_t bits) { return bits_float(static_cast<uint32_t>(bits) << 16); }

}  // namespace llmtrain::math
