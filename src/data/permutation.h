// A pseudo-random permutation of 0 … n-1 as a function, without storing it: a Feistel network over the next even power of two, whose rounds are
// Philox (core/philox.h), walked until the value falls below n (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking).
// The same (n, seed, stream) gives the same permutation on every machine. Immutable; may be used from many threads.
#pragma once

#include <cstdint>

namespace llmtrain {

class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed, uint64_t stream);
  uint64_t size() const { return n_; }
  uint64_t operator()(uint64_t i) const;  // i < n

 private:
  uint64_t n_, seed_, stream_;
  int half_bits_;
};

}  // namespace llmtrain
