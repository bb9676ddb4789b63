// Steps and epochs as transformers counts them.
#include "train/step_plan.h"

#include <gtest/gtest.h>

namespace llmtrain {
namespace {

StepPlan plan_of(uint64_t rows, int64_t batch, int64_t accumulation, double epochs, int64_t max_steps) {
  return StepPlan(Sampler(rows, batch, accumulation, 1, 42, false), accumulation, epochs, max_steps);
}

TEST(StepPlan, CountsStepsAndEpochsAsTransformers) {
  // 91 rows, 4 a batch, 3 accumulated (the golden run llama-full-uneven): 23 micro-batches, 8 steps an epoch, the last with two of them.
  const StepPlan plan = plan_of(91, 4, 3, 2.0, -1);
  EXPECT_EQ(plan.total_steps(), 16);
  EXPECT_DOUBLE_EQ(plan.epochs_after(0), 0.0);
  EXPECT_DOUBLE_EQ(plan.epochs_after(1), 3.0 / 23);
  EXPECT_DOUBLE_EQ(plan.epochs_after(7), 21.0 / 23);
  EXPECT_DOUBLE_EQ(plan.epochs_after(8), 1.0);
  EXPECT_DOUBLE_EQ(plan.epochs_after(9), 1 + 3.0 / 23);
  EXPECT_TRUE(plan.ends_epoch(8));
  EXPECT_FALSE(plan.ends_epoch(9));
  EXPECT_EQ(plan.epoch_of(8), 0u);
  EXPECT_EQ(plan.epoch_of(9), 1u);
  EXPECT_EQ(plan.step_in_epoch(9), 0u);
}

TEST(StepPlan, FractionsOfEpochsRoundUpAndMaxStepsWins) {
  EXPECT_EQ(plan_of(100, 10, 1, 0.25, -1).total_steps(), 3);
  EXPECT_EQ(plan_of(100, 10, 1, 0.25, -1).epochs(), 1);
  EXPECT_EQ(plan_of(100, 10, 1, 3.0, 12).total_steps(), 12);
  EXPECT_EQ(plan_of(100, 10, 1, 3.0, 12).epochs(), 2);
}

}  // namespace
}  // namespace llmtrain
