// The random sequences that LLaMA-Factory's choice and order of rows come from, so that a run with the same seed takes the same rows in the same order:
//   NumpyGenerator     numpy.random.default_rng(seed): val_size (datasets' train_test_split) and interleave_probs (interleave_datasets)
//   NumpyLegacy        numpy.random.seed(seed), one state for all datasets of a run: num_samples
//   torch_permutation  torch.randperm(n) of a generator seeded with seed: the order of an epoch's rows
// PCG64 with XSL-RR output (O'Neill 2014, HMC-CS-2014-0905) seeded by SeedSequence (after O'Neill's seed_seq_fe), and MT19937 (Matsumoto and Nishimura 1998).
// Plain values; a permutation takes n numbers of memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace llmtrain {

// 32 random bits at a time.
class Mt19937 {
 public:
  explicit Mt19937(uint64_t seed);  // of the seed the lower 32 bits count
  uint32_t next();

 private:
  void refill();
  std::array<uint32_t, 624> state_;
  size_t used_;
};

class NumpyGenerator {
 public:
  explicit NumpyGenerator(uint64_t seed);
  double uniform();                                // in [0, 1), 53 bits
  std::vector<uint32_t> permutation(uint32_t n);   // of 0 … n-1

 private:
  __extension__ using Wide = unsigned __int128;
  uint64_t next64();
  uint32_t next32();
  Wide state_ = 0, increment_ = 0;
  bool half_left_ = false;  // next32 gives the lower half of 64 bits, then the upper
  uint32_t half_ = 0;
};

class NumpyLegacy {
 public:
  explicit NumpyLegacy(uint64_t seed) : bits_(seed) {}
  std::vector<uint32_t> permutation(uint32_t n);
  uint32_t below(uint32_t n);  // in [0, n), n >= 1: one of numpy.random.choice(n, size)

 private:
  Mt19937 bits_;
};

// n < 2^27.
std::vector<uint32_t> torch_permutation(uint32_t n, uint64_t seed);

}  // namespace llmtrain
