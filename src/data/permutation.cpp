// Permutations by counter (permutation.h).
#include "data/permutation.h"

#include "core/error.h"
#include "core/philox.h"

namespace llmtrain {
namespace {

constexpr int kRounds = 8;

uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index, uint32_t round) {
  // The stream goes into the key, round and index into the counter: no two uses share a counter under one key.
  const uint64_t key = seed ^ (stream * 0x9E3779B97F4A7C15u);
  const PhiloxCounter r = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), round, static_cast<uint32_t>(stream >> 32)},
                                 {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)});
  return (uint64_t{r[0]} << 32) | r[1];
}

}  // namespace

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t stream) : n_(n), seed_(seed), stream_(stream), half_bits_(1) {
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
  LLMTRAIN_ASSERT((uint64_t{1} << (2 * half_bits_)) >= n, "more rows than a permutation can hold");
}

uint64_t Permutation::operator()(uint64_t i) const {
  LLMTRAIN_ASSERT(i < n_, "permutation index");
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = i;
  do {
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint32_t round = 0; round < kRounds; ++round) {
      const uint64_t next = left ^ (random_bits(seed_, stream_, right, round + 1) & mask);
      left = right;
      right = next;
    }
    value = (left << half_bits_) | right;
  } while (value >= n_);
  return value;
}

}  // namespace llmtrain
