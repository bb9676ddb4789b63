// The choice and order of rows against numpy's, torch's and Hugging Face datasets' own (random_values.inc).
#include "data/reference_random.h"

#include <gtest/gtest.h>

#include "data/mix.h"
#include "data/sampler.h"

namespace llmtrain {
namespace {

struct Case {
  std::string kind;
  uint64_t n, seed;
  std::vector<uint64_t> first;
  uint64_t sum;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
#include "data/random_values.inc"
  };
  return all;
}

std::vector<uint64_t> ours(const Case& c) {
  std::vector<uint64_t> all;
  const auto add = [&all](const std::vector<uint32_t>& more) { all.insert(all.end(), more.begin(), more.end()); };
  const auto n = static_cast<uint32_t>(c.n);
  if (c.kind == "torch") {
    const Sampler sampler(c.n, 7, 1, 1, c.seed - 3, true);  // its fourth epoch
    EXPECT_EQ(sampler.rows_of_step(3, 0).front(), c.first.front());
    for (uint64_t i = 0; i < c.n; ++i) all.push_back(sampler.row_at(3, i));
  } else if (c.kind == "numpy") {
    add(NumpyGenerator(c.seed).permutation(n));
  } else if (c.kind == "legacy") {
    NumpyLegacy random(c.seed);
    add(random.permutation(n));
    for (int i = 0; i < 13; ++i) all.push_back(random.below(n));
    add(random.permutation(n));
  } else if (c.kind == "split") {
    MixPlan validation({15, 25}, MixStrategy::concat, {}, 1), training = validation;
    validation.keep_validation(5, c.seed);  // ceil(0.11 * 40)
    training.keep_training(5, c.seed);
    for (const MixPlan* plan : {&validation, &training}) {
      for (uint64_t i = 0; i < plan->size(); ++i) all.push_back(plan->at(i).dataset * 15 + plan->at(i).row);
    }
  } else {
    const MixPlan plan({9, 20, 5}, c.kind == "under" ? MixStrategy::interleave_under : MixStrategy::interleave_over, {0.3, 0.6, 0.1}, c.seed);
    for (uint64_t i = 0; i < plan.size(); ++i) all.push_back(plan.at(i).dataset * 100000 + plan.at(i).row);
  }
  return all;
}

TEST(ReferenceRandom, IsWhatNumpyTorchAndDatasetsDraw) {
  ASSERT_GE(cases().size(), 60u);
  for (const Case& c : cases()) {
    const std::string what = c.kind + " of " + std::to_string(c.n) + ", seed " + std::to_string(c.seed);
    const std::vector<uint64_t> all = ours(c);
    ASSERT_GE(all.size(), c.n) << what;
    uint64_t sum = 0;
    for (const uint64_t x : all) sum = sum * 31 + x + 1;
    for (size_t i = 0; i < c.first.size(); ++i) EXPECT_EQ(all[i], c.first[i]) << what << ", place " << i;
    EXPECT_EQ(sum, c.sum) << what;
  }
}

}  // namespace
}  // namespace llmtrain
