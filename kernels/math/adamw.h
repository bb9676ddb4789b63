// AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), written as torch.optim.AdamW writes it.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/math/bf16.h"
#include "kernels/math/host_device.h"
#include "kernels/math/philox.h"

namespace llmtrain::math {

// What is equal for all elements of a step. The corrections 1 - beta^step are taken in double: in float32 they lose all digits
// for beta2 = 0.999 and a small step.
struct AdamWFactors {
  float grad_scale;
  float keep;                  // 1 - lr * weight_decay
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float rate;                  // lr / (1 - beta1^step)
  float inv_sqrt_correction2;  // 1 / sqrt(1 - beta2^step)
  float epsilon;
};

inline AdamWFactors adamw_factors(float learning_rate, float beta1, float beta2, float epsilon, float weight_decay, int64_t step, float grad_scale) {
  const double correction1 = 1 - std::pow(static_cast<double>(beta1), static_cast<double>(step));
  const double correction2 = 1 - std::pow(static_cast<double>(beta2), static_cast<double>(step));
  AdamWFactors f;
  f.grad_scale = grad_scale;
  f.keep = static_cast<float>(1 - static_cast<double>(learning_rate) * static_cast<double>(weight_decay));
  f.beta1 = beta1;
  f.one_minus_beta1 = static_cast<float>(1 - static_cast<double>(beta1));
  f.beta2 = beta2;
  f.one_minus_beta2 = static_cast<float>(1 - static_cast<double>(beta2));
  f.rate = static_cast<float>(static_cast<double>(learning_rate) / correction1);
  f.inv_sqrt_correction2 = static_cast<float>(1 / std::sqrt(correction2));
  f.epsilon = epsilon;
  return f;
}

// One element: p, m and v are updated in place.
LLMTRAIN_HD inline void adamw_update(const AdamWFactors& f, float grad, float& p, float& m, float& v) {
  const float g = grad * f.grad_scale;
  m = f.beta1 * m + f.one_minus_beta1 * g;
  v = f.beta2 * v + f.one_minus_beta2 * (g * g);
  p = p * f.keep - f.rate * m / (std::sqrt(v) * f.inv_sqrt_correction2 + f.epsilon);
}

// Rounds x to one of its two neighbours in bfloat16, up with the probability of the distance: adds 16 uniform random bits below the kept ones and
// cuts. Exact; infinity and NaN pass; what rounds past the largest number becomes infinity, as with rounding to nearest.
LLMTRAIN_HD inline uint16_t stochastic_bf16(float x, uint32_t random16) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bf16_from_float(x);
  return static_cast<uint16_t>((bits + (random16 & 0xffffu)) >> 16);
}

// Random bits of one element for the stochastic rounding of its three states.
struct RoundingBits {
  uint32_t p, m, v;  // 16 bits each
};

// The bits of elements 2 i and 2 i + 1, which share one Philox block: the even one takes its first half.
struct RoundingPair {
  RoundingBits even, odd;
  LLMTRAIN_HD RoundingBits of(int64_t element) const {
    const bool second = (element & 1) != 0;
    return {second ? odd.p : even.p, second ? odd.m : even.m, second ? odd.v : even.v};
  }
};

// `element` is either of the two.
LLMTRAIN_HD inline RoundingPair rounding_pair(uint64_t seed, uint32_t stream, int64_t step, int64_t element) {
  const uint64_t pair = static_cast<uint64_t>(element) >> 1;
  const Philox4 block = philox4x32(Philox4{{static_cast<uint32_t>(pair), static_cast<uint32_t>(pair >> 32), static_cast<uint32_t>(step), stream}},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return {{block.x[0] & 0xffffu, block.x[0] >> 16, block.x[1] & 0xffffu}, {block.x[2] & 0xffffu, block.x[2] >> 16, block.x[3] & 0xffffu}};
}

LLMTRAIN_HD inline RoundingBits rounding_bits(uint64_t seed, uint32_t stream, int64_t step, int64_t element) {
  return rounding_pair(seed, stream, step, element).of(element);
}

}  // namespace llmtrain::math
