// silu(a) = a / (1 + exp(-a)) and its derivative (Elfwing et al. 2017, https://arxiv.org/abs/1702.03118).
#pragma once

#include <cmath>

#include "kernels/math/host_device.h"

namespace llmtrain::math {

template <class T>
LLMTRAIN_HD inline T sigmoid(T a) {
  return T(1) / (T(1) + std::exp(-a));
}

template <class T>
LLMTRAIN_HD inline T silu(T a) {
  return a * sigmoid(a);
}

// d silu / da = sigmoid(a) (1 + a (1 - sigmoid(a)))
template <class T>
LLMTRAIN_HD inline T silu_derivative(T a) {
  const T s = sigmoid(a);
  return s * (T(1) + a * (T(1) - s));
}

}  // namespace llmtrain::math
