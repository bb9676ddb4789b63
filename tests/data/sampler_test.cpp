// The sampler: every row once an epoch, the same sequence for every world, short last rounds.
#include "data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "data/mix.h"
#include "data/permutation.h"

namespace llmtrain {
namespace {

std::vector<size_t> whole_epoch(const Sampler& s, int world, uint64_t epoch) {
  std::vector<size_t> all;
  for (uint64_t step = 0; step < s.steps_per_epoch(); ++step) {
    std::vector<size_t> of_step;
    for (int64_t m = 0; m < s.micro_steps(step); ++m) {
      for (int r = 0; r < world; ++r) {
        const auto rows = s.rows_of(epoch, step, m, r);
        of_step.insert(of_step.end(), rows.begin(), rows.end());
      }
    }
    EXPECT_EQ(of_step, s.rows_of_step(epoch, step));
    all.insert(all.end(), of_step.begin(), of_step.end());
  }
  return all;
}

TEST(Sampler, EachRowExactlyOnceAnEpochForManyShapes) {
  for (const uint64_t rows : {1u, 2u, 7u, 12u, 100u, 257u}) {
    for (const int world : {1, 2, 3, 4, 7}) {
      for (const int batch : {1, 3, 8}) {
        for (const int accumulation : {1, 2, 5}) {
          for (const bool shuffle : {false, true}) {
            const Sampler s(rows, batch, accumulation, world, 42, shuffle);
            std::vector<size_t> all = whole_epoch(s, world, 3);
            std::sort(all.begin(), all.end());
            std::vector<size_t> want(rows);
            std::iota(want.begin(), want.end(), 0);
            ASSERT_EQ(all, want) << rows << " rows, " << world << " ranks, batch " << batch << ", accumulation " << accumulation;
          }
        }
      }
    }
  }
}

TEST(Sampler, TheSequenceDoesNotDependOnTheWorld) {
  const Sampler alone(101, 12, 1, 1, 7, true);
  for (const auto& [world, batch, accumulation] : {std::tuple{2, 6, 1}, {3, 4, 1}, {4, 3, 1}, {2, 3, 2}, {1, 2, 6}}) {
    const Sampler s(101, batch, accumulation, world, 7, true);
    ASSERT_EQ(s.steps_per_epoch(), alone.steps_per_epoch());
    for (uint64_t step = 0; step < s.steps_per_epoch(); ++step) EXPECT_EQ(s.rows_of_step(5, step), alone.rows_of_step(5, step));
  }
}

TEST(Sampler, StepsAreCeilOfRoundsOverAccumulation) {
  const Sampler s(100, 8, 4, 2, 0, false);  // 7 rounds of 16, the last of 4
  EXPECT_EQ(s.rounds(), 7u);
  EXPECT_EQ(s.steps_per_epoch(), 2u);
  EXPECT_EQ(s.micro_steps(0), 4);
  EXPECT_EQ(s.micro_steps(1), 3);
  EXPECT_EQ(s.micro_steps(2), 0);
  EXPECT_EQ(s.rows_of(0, 1, 2, 0), (std::vector<size_t>{96, 97, 98, 99}));
  EXPECT_TRUE(s.rows_of(0, 1, 2, 1).empty());
  EXPECT_TRUE(s.rows_of(0, 1, 3, 0).empty());
  EXPECT_EQ(s.rows_of(0, 0, 1, 1).front(), 24u);
}

TEST(Sampler, RowsThatDoNotFillARoundAreLeftOutUnderDropLast) {
  const Sampler s(100, 8, 4, 2, 0, false, true);  // 6 rounds of 16
  EXPECT_EQ(s.rounds(), 6u);
  EXPECT_EQ(s.steps_per_epoch(), 2u);
  EXPECT_EQ(s.micro_steps(1), 2);
  EXPECT_EQ(s.rows_of_step(0, 1).size(), 32u);
  EXPECT_EQ(s.rows_of_step(0, 1).back(), 95u);
  EXPECT_TRUE(s.rows_of(0, 1, 2, 0).empty());
  EXPECT_EQ(Sampler(15, 8, 1, 2, 0, true, true).rounds(), 0u);
  EXPECT_EQ(Sampler(100, 8, 4, 2, 3, true, true).row_at(1, 99), Sampler(100, 8, 4, 2, 3, true).row_at(1, 99)) << "which rows are left out changes from epoch to epoch";
}

TEST(Sampler, EpochsAndSeedsDiffer) {
  const Sampler a(50, 50, 1, 1, 1, true), b(50, 50, 1, 1, 2, true);
  EXPECT_NE(a.rows_of_step(0, 0), a.rows_of_step(1, 0));
  EXPECT_NE(a.rows_of_step(0, 0), b.rows_of_step(0, 0));
  EXPECT_EQ(a.rows_of_step(4, 0), Sampler(50, 25, 2, 1, 1, true).rows_of_step(4, 0));
}

TEST(Permutation, IsABijectionAndSpreads) {
  for (const uint64_t n : {1u, 2u, 3u, 5u, 16u, 17u, 1000u, 4097u}) {
    const Permutation p(n, 9, 1);
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) {
      ASSERT_LT(p(i), n);
      ASSERT_FALSE(seen[p(i)]);
      seen[p(i)] = true;
    }
  }
  // A position's value is uniform over seeds: each of 10 values about 400 of 4000 times (6 standard deviations = 114).
  int counts[10] = {};
  for (uint64_t seed = 0; seed < 4000; ++seed) ++counts[Permutation(10, seed, 0)(3)];
  for (const int c : counts) EXPECT_NEAR(c, 400, 114);
}

std::string order_of(const MixPlan& plan) {
  std::string s;
  for (uint64_t i = 0; i < plan.size(); ++i) s += std::string(1, static_cast<char>('a' + plan.at(i).dataset)) + std::to_string(plan.at(i).row) + " ";
  return s;
}

TEST(Mix, ConcatAndInterleaveAsDatasetsDoes) {
  EXPECT_EQ(order_of(MixPlan({2, 0, 3}, MixStrategy::concat, {}, 1)), "a0 a1 c0 c1 c2 ");
  EXPECT_EQ(order_of(MixPlan({2, 3}, MixStrategy::interleave_under, {}, 1)), "a0 b0 a1 b1 ");
  EXPECT_EQ(order_of(MixPlan({2, 3}, MixStrategy::interleave_over, {}, 1)), "a0 b0 a1 b1 a0 b2 ");
  EXPECT_EQ(order_of(MixPlan({3}, MixStrategy::interleave_over, {}, 1)), "a0 a1 a2 ");
}

// About 1000 draws at 0.1, 0.2, 0.7: shares within 5 standard deviations, 5 * sqrt(p (1 - p) / n) < 0.075 (< 0.05 for 0.1).
TEST(Mix, EachDatasetHasItsOwnProbability) {
  const MixPlan plan({100000, 100000, 700}, MixStrategy::interleave_under, {0.1, 0.2, 0.7}, 42);
  std::vector<double> count(3, 0);
  for (uint64_t i = 0; i < plan.size(); ++i) ++count[plan.at(i).dataset];
  const double n = static_cast<double>(plan.size());
  EXPECT_EQ(count[2], 700);
  EXPECT_NEAR(count[0] / n, 0.1, 0.05);
  EXPECT_NEAR(count[1] / n, 0.2, 0.075);
}

TEST(Mix, ProbabilitiesStopAtTheFirstOrLastExhausted) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const MixPlan under({5, 8}, MixStrategy::interleave_under, {0.5, 0.5}, seed), over({5, 8}, MixStrategy::interleave_over, {0.3, 0.7}, seed);
    const RowRef last = under.at(under.size() - 1);
    EXPECT_EQ(last.row, last.dataset == 0 ? 4u : 7u);
    std::vector<uint64_t> next(2, 0), rows = {5, 8};
    uint64_t seen[2] = {};
    for (uint64_t i = 0; i < over.size(); ++i) {
      const RowRef r = over.at(i);
      EXPECT_EQ(r.row, next[r.dataset]);
      next[r.dataset] = (next[r.dataset] + 1) % rows[r.dataset];
      ++seen[r.dataset];
    }
    EXPECT_GE(seen[0], 5u);
    EXPECT_GE(seen[1], 8u);
  }
}

}  // namespace
}  // namespace llmtrain
