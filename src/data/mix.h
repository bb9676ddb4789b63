// The order in which the rows of several datasets follow each other: one after the other, or interleaved, as Hugging Face `datasets` does it
// (concatenate_datasets, interleave_datasets with first_exhausted or all_exhausted, with numpy's draws), and the part of them that val_size sets aside
// (train_test_split, with numpy's permutation).
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
  RowRef at(uint64_t i) const;  // i < size()

  // From here on the plan is what is left for training, or what val_size sets aside: `held` rows of all, which are shuffled first. 0 < held < size();
  // fewer than 2^32 rows.
  void keep_training(uint64_t held, uint64_t seed);
  void keep_validation(uint64_t held, uint64_t seed);

 private:
  RowRef of_all(uint64_t i) const;
  std::vector<uint32_t> permuted(uint64_t seed) const;
  void draw(const std::vector<double>& probabilities, bool until_all, uint64_t seed);
  std::vector<uint64_t> lengths_, ends_;
  MixStrategy strategy_;
  uint64_t size_ = 0;
  std::vector<uint16_t> drawn_dataset_;  // interleaving by probabilities
  std::vector<uint32_t> drawn_row_;
  std::vector<uint32_t> kept_;           // which of all; empty: all
};

}  // namespace llmtrain
