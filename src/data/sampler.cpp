// The sampler (sampler.h).
#include "data/sampler.h"

#include <algorithm>
#include <mutex>

#include "core/error.h"
#include "data/permutation.h"
#include "data/reference_random.h"

namespace llmtrain {
namespace {
constexpr uint64_t kEpochStream = uint64_t{0x65706f6368} << 8;  // keeps epochs apart from the other uses of the seed
}

// The order of one epoch.
struct Sampler::Listed {
  std::mutex mutex;
  uint64_t epoch = 0;
  std::shared_ptr<const std::vector<uint32_t>> rows;
};

Sampler::Sampler(uint64_t rows, int64_t per_device_batch, int64_t accumulation, int world, uint64_t seed, bool shuffle, bool drop_last)
    : rows_(rows),
      batch_(static_cast<uint64_t>(per_device_batch)),
      accumulation_(static_cast<uint64_t>(accumulation)),
      world_(static_cast<uint64_t>(world)),
      seed_(seed),
      shuffle_(shuffle),
      drop_last_(drop_last) {
  LLMTRAIN_ASSERT(per_device_batch >= 1 && accumulation >= 1 && world >= 1, "batch, accumulation and world are at least 1");
  if (shuffle && rows <= kMostListed) listed_ = std::make_shared<Listed>();
}

uint64_t Sampler::rounds() const {
  const uint64_t round = batch_ * world_;
  return drop_last_ ? rows_ / round : (rows_ + round - 1) / round;
}

uint64_t Sampler::steps_per_epoch() const { return (rounds() + accumulation_ - 1) / accumulation_; }

int64_t Sampler::micro_steps(uint64_t step) const {
  if (step >= steps_per_epoch()) return 0;
  return static_cast<int64_t>(std::min(accumulation_, rounds() - step * accumulation_));
}

std::shared_ptr<const std::vector<uint32_t>> Sampler::list_of(uint64_t epoch) const {
  if (!listed_) return nullptr;
  const std::lock_guard lock(listed_->mutex);
  if (!listed_->rows || listed_->epoch != epoch) {
    listed_->rows = std::make_shared<const std::vector<uint32_t>>(torch_permutation(static_cast<uint32_t>(rows_), seed_ + epoch));
    listed_->epoch = epoch;
  }
  return listed_->rows;
}

size_t Sampler::row_at(uint64_t epoch, uint64_t position) const {
  if (const auto list = list_of(epoch)) return (*list)[position];
  return shuffle_ ? Permutation(rows_, seed_, kEpochStream + epoch)(position) : position;
}

std::vector<size_t> Sampler::range(uint64_t epoch, uint64_t begin, uint64_t end) const {
  std::vector<size_t> ids;
  const auto list = list_of(epoch);
  const Permutation function(rows_, seed_, kEpochStream + epoch);
  for (uint64_t p = begin; p < std::min({end, rows_, rounds() * batch_ * world_}); ++p) ids.push_back(list ? (*list)[p] : shuffle_ ? function(p) : p);
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
