// The generators of reference_random.h.
#include "data/reference_random.h"

#include <numeric>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr uint32_t kMostPermuted = uint32_t{1} << 27;  // torch takes other draws from 2^32 / 20 on

std::vector<uint32_t> counting(uint32_t n) {
  std::vector<uint32_t> all(n);
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

// A number in [0, most] by drawing under the mask of its bits until one fits, as numpy's random_interval.
template <class Next>
uint32_t masked(uint32_t most, Next&& next) {
  if (most == 0) return 0;
  uint32_t mask = most;
  for (const int shift : {1, 2, 4, 8, 16}) mask |= mask >> shift;
  while (true) {
    const uint32_t value = next() & mask;
    if (value <= most) return value;
  }
}

// Fisher and Yates from the end, as numpy's shuffle.
template <class Next>
std::vector<uint32_t> shuffled(uint32_t n, Next&& next) {
  std::vector<uint32_t> all = counting(n);
  for (uint32_t i = n; i-- > 1;) std::swap(all[i], all[masked(i, next)]);
  return all;
}

// numpy's SeedSequence: a seed becomes 8 words.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    const uint32_t entropy[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (size_t i = 0; i < 4; ++i) pool_[i] = hash(i < 2 ? entropy[i] : 0);
    for (size_t from = 0; from < 4; ++from)
      for (size_t to = 0; to < 4; ++to)
        if (from != to) pool_[to] = mix(pool_[to], hash(pool_[from]));
  }

  std::array<uint32_t, 8> words() const {
    std::array<uint32_t, 8> out{};
    uint32_t factor = 0x8b51f9dd;
    for (size_t i = 0; i < out.size(); ++i) {
      uint32_t value = pool_[i % 4] ^ factor;
      factor *= 0x58f38ded;
      value *= factor;
      out[i] = value ^ (value >> 16);
    }
    return out;
  }

 private:
  uint32_t hash(uint32_t value) {
    value ^= factor_;
    factor_ *= 0x931e8875;
    value *= factor_;
    return value ^ (value >> 16);
  }
  static uint32_t mix(uint32_t x, uint32_t y) {
    const uint32_t value = 0xca01f9dd * x - 0x4973f715 * y;
    return value ^ (value >> 16);
  }

  uint32_t factor_ = 0x43b0d7e5;
  std::array<uint32_t, 4> pool_{};
};

}  // namespace

Mt19937::Mt19937(uint64_t seed) : state_{}, used_(state_.size()) {
  state_[0] = static_cast<uint32_t>(seed);
  for (uint32_t i = 1; i < state_.size(); ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

void Mt19937::refill() {
  constexpr size_t n = 624, m = 397;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % n] & 0x7fffffffu);
    state_[i] = state_[(i + m) % n] ^ (y >> 1) ^ ((y & 1) != 0 ? 0x9908b0dfu : 0u);
  }
  used_ = 0;
}

uint32_t Mt19937::next() {
  if (used_ == state_.size()) refill();
  uint32_t y = state_[used_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

NumpyGenerator::NumpyGenerator(uint64_t seed) {
  const std::array<uint32_t, 8> words = SeedSequence(seed).words();
  const auto wide = [&words](size_t at) {  // two numbers of 64 bits, the upper first; each of two words, the lower first
    const uint64_t high = words[at] | (uint64_t{words[at + 1]} << 32), low = words[at + 2] | (uint64_t{words[at + 3]} << 32);
    return (static_cast<Wide>(high) << 64) | low;
  };
  increment_ = (wide(4) << 1) | 1;
  next64();
  state_ += wide(0);
  next64();
}

uint64_t NumpyGenerator::next64() {
  constexpr Wide factor = (static_cast<Wide>(0x2360ED051FC65DA4u) << 64) | 0x4385DF649FCCF645u;
  state_ = state_ * factor + increment_;
  const uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  const auto turn = static_cast<unsigned>(state_ >> 122);
  return (folded >> turn) | (folded << ((64 - turn) & 63));
}

uint32_t NumpyGenerator::next32() {
  if (half_left_) {
    half_left_ = false;
    return half_;
  }
  const uint64_t bits = next64();
  half_left_ = true;
  half_ = static_cast<uint32_t>(bits >> 32);
  return static_cast<uint32_t>(bits);
}

double NumpyGenerator::uniform() { return static_cast<double>(next64() >> 11) * 0x1p-53; }

std::vector<uint32_t> NumpyGenerator::permutation(uint32_t n) {
  return shuffled(n, [this] { return next32(); });
}

std::vector<uint32_t> NumpyLegacy::permutation(uint32_t n) {
  return shuffled(n, [this] { return bits_.next(); });
}

uint32_t NumpyLegacy::below(uint32_t n) {
  return masked(n - 1, [this] { return bits_.next(); });
}

std::vector<uint32_t> torch_permutation(uint32_t n, uint64_t seed) {
  LLMTRAIN_ASSERT(n < kMostPermuted, "more rows than torch_permutation takes");
  Mt19937 bits(seed);
  std::vector<uint32_t> all = counting(n);
  for (uint32_t i = 0; i + 1 < n; ++i) std::swap(all[i], all[i + bits.next() % (n - i)]);
  return all;
}

}  // namespace llmtrain
