// Mixing datasets (mix.h).
#include "data/mix.h"

#include <algorithm>

#include "core/error.h"
#include "data/reference_random.h"

namespace llmtrain {

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
  std::vector<double> share_up_to;  // as numpy's choice: added up, then divided by the sum
  for (const double p : probabilities) share_up_to.push_back(p + (share_up_to.empty() ? 0 : share_up_to.back()));
  const double all = share_up_to.back();
  for (double& share : share_up_to) share /= all;
  NumpyGenerator random(seed);
  while (until_all ? left > 0 : left == lengths_.size()) {
    const double u = random.uniform();
    size_t d = 0;
    while (d + 1 < lengths_.size() && u >= share_up_to[d]) ++d;
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

std::vector<uint32_t> MixPlan::permuted(uint64_t seed) const {
  LLMTRAIN_ASSERT(kept_.empty(), "a part of a part");
  if (size_ > UINT32_MAX) throw InputError("val_size", "too many rows to be split", "name eval_dataset");
  return NumpyGenerator(seed).permutation(static_cast<uint32_t>(size_));
}

void MixPlan::keep_training(uint64_t held, uint64_t seed) {
  kept_ = permuted(seed);
  kept_.erase(kept_.begin(), kept_.begin() + static_cast<ptrdiff_t>(held));
  size_ = kept_.size();
}

void MixPlan::keep_validation(uint64_t held, uint64_t seed) {
  kept_ = permuted(seed);
  kept_.resize(held);
  size_ = held;
}

RowRef MixPlan::at(uint64_t i) const {
  LLMTRAIN_ASSERT(i < size_, "row outside the mix");
  return of_all(kept_.empty() ? i : kept_[i]);
}

RowRef MixPlan::of_all(uint64_t i) const {
  if (strategy_ == MixStrategy::concat) {
    const auto d = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
    return {static_cast<uint32_t>(d), i - (d == 0 ? 0 : ends_[d - 1])};
  }
  if (!drawn_row_.empty()) return {drawn_dataset_[i], drawn_row_[i]};
  const uint64_t d = i % lengths_.size();
  return {static_cast<uint32_t>(d), (i / lengths_.size()) % lengths_[d]};
}

}  // namespace llmtrain
