// A rank that takes twice as long is named within 20 steps, and noise never is.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "train/straggler.h"

namespace llmtrain {
namespace {

// A machine whose steps vary as real ones do: rows of different lengths (log-normal, sigma 0.3), a fixed cost a step, jitter of each step (log-normal, sigma
// 0.1), and now and then (3 %) a step that takes up to three times as long because something else ran.
class Machine {
 public:
  Machine(int ranks, uint64_t seed) : ranks_(ranks), engine_(seed) {}
  std::vector<RankWork> step(int slow_rank, double factor) {
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    std::vector<RankWork> all;
    for (int r = 0; r < ranks_; ++r) {
      RankWork work;
      work.tokens = 1000 * std::exp(0.3 * normal(engine_));
      work.seconds = (0.02 + 1e-4 * work.tokens) * std::exp(0.1 * normal(engine_));
      if (uniform(engine_) < 0.03) work.seconds *= 1 + 2 * uniform(engine_);
      if (r == slow_rank) work.seconds *= factor;
      all.push_back(work);
    }
    return all;
  }

 private:
  int ranks_;
  std::mt19937_64 engine_;
};

TEST(StragglerDetector, FindsARankThatTakesTwiceAsLongWithinTwentySteps) {
  int late = 0, wrong = 0;
  constexpr int kTrials = 500;
  for (int trial = 0; trial < kTrials; ++trial) {
    const int ranks = 2 + trial % 7, slow = trial % ranks, before = 20 + trial % 50;
    Machine machine(ranks, static_cast<uint64_t>(trial));
    StragglerDetector detector(ranks);
    for (int s = 0; s < before; ++s) EXPECT_FALSE(detector.add(machine.step(-1, 1)));
    int taken = 0;
    std::optional<Straggler> found;
    while (!found && taken < 200) {
      found = detector.add(machine.step(slow, 2));
      ++taken;
    }
    ASSERT_TRUE(found);
    wrong += found->rank != slow;
    late += taken > 20;
    EXPECT_NEAR(found->factor, 1.9, 0.4);
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(late, 0) << "of " << kTrials;
}

TEST(StragglerDetector, RaisesNoFalseAlarmInTenThousandSteps) {
  for (const int ranks : {2, 3, 4, 8, 64}) {
    Machine machine(ranks, 99);
    StragglerDetector detector(ranks);
    for (int s = 0; s < 10000; ++s) ASSERT_FALSE(detector.add(machine.step(-1, 1))) << ranks << " ranks, step " << s;
  }
}

TEST(StragglerDetector, SaysItOnceAndAgainOnlyAfterTheRankHasRecovered) {
  Machine machine(4, 7);
  StragglerDetector detector(4);
  int alarms = 0;
  const auto run = [&](int steps, int slow) {
    alarms = 0;
    for (int s = 0; s < steps; ++s) alarms += detector.add(machine.step(slow, 2.5)).has_value();
    return alarms;
  };
  EXPECT_EQ(run(300, 2), 1);
  EXPECT_EQ(run(100, -1), 0);
  EXPECT_EQ(run(300, 2), 1);
}

TEST(StragglerDetector, MoreRowsAreNoReasonToNameARank) {
  StragglerDetector detector(2);
  for (int s = 0; s < 1000; ++s) EXPECT_FALSE(detector.add({{0.3, 3000}, {0.1, 1000}}));
}

TEST(StragglerDetector, OneRankHasNobodyToBeComparedWith) {
  StragglerDetector detector(1);
  for (int s = 0; s < 100; ++s) EXPECT_FALSE(detector.add({{1, 10}}));
}

}  // namespace
}  // namespace llmtrain
