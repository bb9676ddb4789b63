// Philox4x32-10, a counter-based random number generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// https://doi.org/10.1145/2063384.2063405): the numbers are a function of (key, counter), so that no state is kept and the order of
// work does not matter.
#pragma once

#include <cstdint>

#include "kernels/math/host_device.h"

namespace llmtrain::math {

struct Philox4 {
  uint32_t x[4];
};

LLMTRAIN_HD inline Philox4 philox4x32(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(0xD2511F53u) * counter.x[0];
    const uint64_t product1 = static_cast<uint64_t>(0xCD9E8D57u) * counter.x[2];
    counter = Philox4{{static_cast<uint32_t>(product1 >> 32) ^ counter.x[1] ^ key0, static_cast<uint32_t>(product1),
                       static_cast<uint32_t>(product0 >> 32) ^ counter.x[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Uniform in (0, 1): the middle of one of 2^23 equal intervals, never 0 nor 1.
LLMTRAIN_HD inline float uniform_open(uint32_t x) { return (static_cast<float>(x >> 9) + 0.5f) * (1.0f / 8388608.0f); }

}  // namespace llmtrain::math
