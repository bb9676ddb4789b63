// Mixing datasets (mix.h).
#include "data/mix.h"

#include <algorithm>

#include "core/error.h"
#include "data/permutation.h"

namespace llmtrain {
namespace {
constexpr uint64_t kMixStream = 0x6d6978;
}

MixPlan::MixPlan(std::vector<uint64_t> lengths, MixStrategy strategy, const std::vector<double>& probabilities, uint64_t seed)
    : lengths_(std::move(lengths)), strategy_(lengths_.size() < 2 ? MixStrategy::concat : strategy) {
  for (const uint64_t n : lengths_) {
    size_ += n;
    ends_.push_back(size_);
  }
  if (strategy_ == MixStrategy::concat) return;
  if (std::find(lengths_.begin(), lengths_.end(), 0) != lengths_.end())
    throw InputError("mix_strategy", "a dataset without rows cannot be interleaved");
  if (!probabilities.empty()) {
    draw(probabilities, strategy_ == MixStrategy::interleave_over, seed);
    return;
  }
  const auto [shortest, longest] = std::minmax_element(lengths_.begin(), lengths_.end());
  size_ = (strategy_ == MixStrategy::interleave_under ? *shortest : *longest) * lengths_.size();
}

void MixPlan::draw(const std::vector<double>& probabilities, bool until_all, uint64_t seed) {
  if (lengths_.size() > UINT16_MAX || *std::max_element(lengths_.begin(), lengths_.end()) > UINT32_MAX)
    throw InputError("interleave_probs", "too many rows to interleave at random");
  std::vector<uint64_t> next(lengths_.size(), 0);
  std::vector<bool> exhausted(lengths_.size(), false);
  size_t left = lengths_.size();
  while (until_all ? left > 0 : left == lengths_.size()) {
    const double u = random_unit(seed, kMixStream, drawn_row_.size());
    double sum = 0;
    size_t d = 0;
    while (d + 1 < lengths_.size() && u >= (sum += probabilities[d])) ++d;
    drawn_dataset_.push_back(static_cast<uint16_t>(d));
    drawn_row_.push_back(static_cast<uint32_t>(next[d]));
    if (++next[d] >= lengths_[d]) {
      next[d] = 0;
      if (!exhausted[d]) --left;
      exhausted[d] = true;
    }
  }
  size_ = drawn_row_.size();
}

RowRef MixPlan::at(uint64_t i) const {
  LLMTRAIN_ASSERT(i < size_, "row outside the mix");
  if (strategy_ == MixStrategy::concat) {
    const auto d = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
    return {static_cast<uint32_t>(d), i - (d == 0 ? 0 : ends_[d - 1])};
  }
  if (!drawn_row_.empty()) return {drawn_dataset_[i], drawn_row_[i]};
  const uint64_t d = i % lengths_.size();
  return {static_cast<uint32_t>(d), (i / lengths_.size()) % lengths_[d]};
}

}  // namespace llmtrain
