// AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), written as torch.optim.AdamW writes it.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/math/host_device.h"

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

}  // namespace llmtrain::math
