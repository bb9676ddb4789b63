// The order in which the rows of several datasets follow each other: one after the other, or interleaved, as Hugging Face `datasets` does it
// (concatenate_datasets, interleave_datasets with first_exhausted or all_exhausted). Draws use our own counter-based numbers, not numpy's.
#pragma once

#include <cstdint>
#include <vector>

#include "data/options.h"

namespace llmtrain {

struct RowRef {
  uint32_t dataset = 0;
  uint64_t row = 0;
};

class MixPlan {
 public:
  // lengths: rows of each dataset. Without probabilities interleaving takes a row of each in turn; interleave_under stops when the first dataset
  // runs out, interleave_over when the last does (shorter ones begin anew).
  MixPlan(std::vector<uint64_t> lengths, MixStrategy strategy, const std::vector<double>& probabilities, uint64_t seed);
  uint64_t size() const { return size_; }
  RowRef at(uint64_t i) const;

 private:
  void draw(const std::vector<double>& probabilities, bool until_all, uint64_t seed);
  std::vector<uint64_t> lengths_, ends_;
  MixStrategy strategy_;
  uint64_t size_ = 0;
  std::vector<uint16_t> drawn_dataset_;  // interleaving by probabilities
  std::vector<uint32_t> drawn_row_;
};

}  // namespace llmtrain
