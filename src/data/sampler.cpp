// The sampler (sampler.h).
#include "data/sampler.h"

#include <algorithm>

#include "core/error.h"
#include "data/permutation.h"

namespace llmtrain {
namespace {
constexpr uint64_t kEpochStream = uint64_t{0x65706f6368} << 8;  // keeps epochs apart from the other uses of the seed
}

Sampler::Sampler(uint64_t rows, int64_t per_device_batch, int64_t accumulation, int world, uint64_t seed, bool shuffle)
    : rows_(rows),
      batch_(static_cast<uint64_t>(per_device_batch)),
      accumulation_(static_cast<uint64_t>(accumulation)),
      world_(static_cast<uint64_t>(world)),
      seed_(seed),
      shuffle_(shuffle) {
  LLMTRAIN_ASSERT(per_device_batch >= 1 && accumulation >= 1 && world >= 1, "batch, accumulation and world are at least 1");
}

uint64_t Sampler::rounds() const { return (rows_ + batch_ * world_ - 1) / (batch_ * world_); }

uint64_t Sampler::steps_per_epoch() const { return (rounds() + accumulation_ - 1) / accumulation_; }

int64_t Sampler::micro_steps(uint64_t step) const {
  if (step >= steps_per_epoch()) return 0;
  return static_cast<int64_t>(std::min(accumulation_, rounds() - step * accumulation_));
}

size_t Sampler::row_at(uint64_t epoch, uint64_t position) const {
  if (!shuffle_) return position;
  return Permutation(rows_, seed_, kEpochStream + epoch)(position);
}

std::vector<size_t> Sampler::range(uint64_t epoch, uint64_t begin, uint64_t end) const {
  std::vector<size_t> ids;
  for (uint64_t p = begin; p < std::min(end, rows_); ++p) ids.push_back(row_at(epoch, p));
  return ids;
}

std::vector<size_t> Sampler::rows_of(uint64_t epoch, uint64_t step, int64_t micro_step, int rank) const {
  if (micro_step >= micro_steps(step)) return {};
  const uint64_t round = step * accumulation_ + static_cast<uint64_t>(micro_step);
  const uint64_t begin = (round * world_ + static_cast<uint64_t>(rank)) * batch_;
  return range(epoch, begin, begin + batch_);
}

std::vector<size_t> Sampler::rows_of_step(uint64_t epoch, uint64_t step) const {
  const uint64_t size = accumulation_ * world_ * batch_;
  return range(epoch, step * size, (step + 1) * size);
}

}  // namespace llmtrain
