// One pair of the rotary embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).
#pragma once

#include "kernels/math/host_device.h"

namespace llmtrain::math {

// (a, b) -> (a c - b s, b c + a s): the rotation by the angle whose cosine and sine are c and s. The inverse takes -s.
template <class T>
LLMTRAIN_HD inline void rope_pair(T& a, T& b, T c, T s) {
  const T rotated = a * c - b * s;
  b = b * c + a * s;
  a = rotated;
}

}  // namespace llmtrain::math
