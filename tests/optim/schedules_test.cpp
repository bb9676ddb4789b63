// Learning-rate schedules against the values of transformers.
#include "optim/schedules.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace llmtrain {
namespace {

struct Golden {
  const char* type;
  double learning_rate;
  int64_t warmup, total;
  std::map<std::string, std::string> kwargs;
  std::vector<double> rates;
};

const std::vector<Golden>& golden() {
  static const std::vector<Golden> values = {
#include "optim/schedule_values.inc"
  };
  return values;
}

ScheduleOptions options_of(const Golden& g) {
  ScheduleOptions o;
  o.type = g.type;
  o.learning_rate = g.learning_rate;
  o.warmup_steps = g.warmup;
  o.total_steps = g.total;
  o.kwargs = g.kwargs;
  return o;
}

TEST(Schedules, EveryStepOfEveryTypeEqualsTransformers) {
  ASSERT_GE(golden().size(), 20u);
  for (const Golden& g : golden()) {
    const Schedule schedule = Schedule::make(options_of(g));
    for (size_t i = 0; i < g.rates.size(); ++i) {
      // Both are double arithmetic in the same order; only cos and pow of two libraries may differ, by an ulp or two of a value up to learning_rate.
      EXPECT_NEAR(schedule.rate(static_cast<int64_t>(i) + 1), g.rates[i], 1e-12 * g.learning_rate)
          << g.type << " warm-up " << g.warmup << " step " << i + 1;
    }
  }
}

TEST(Schedules, EveryNameIsCoveredByTheValues) {
  for (const std::string& name : Schedule::names()) {
    bool covered = false;
    for (const Golden& g : golden()) covered = covered || name == g.type;
    EXPECT_TRUE(covered) << name;
  }
}

TEST(Schedules, FirstStepUnderWarmupHasRateZero) {
  ScheduleOptions o;
  o.type = "cosine";
  o.warmup_steps = 4;
  o.total_steps = 10;
  EXPECT_EQ(Schedule::make(o).rate(1), 0.0);
  EXPECT_EQ(Schedule::make(o).rate(5), o.learning_rate);
}

std::string refusal(const ScheduleOptions& o) {
  try {
    Schedule::make(o);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(Schedules, WrongArgumentsAreRefusedByName) {
  ScheduleOptions o;
  o.total_steps = 10;
  for (const char* type : {"reduce_lr_on_plateau", "greedy", "cosin"}) {
    o.type = type;
    EXPECT_NE(refusal(o).find(type), std::string::npos) << type;
    EXPECT_NE(refusal(o).find("inverse_sqrt"), std::string::npos) << "lists what is known";
  }
  o.type = "cosine";
  o.kwargs = {{"min_lr", "1"}};
  EXPECT_NE(refusal(o).find("min_lr"), std::string::npos);
  o.kwargs = {{"num_cycles", "abc"}};
  EXPECT_NE(refusal(o).find("'abc' is not a number"), std::string::npos);
  o.kwargs = {{"num_cycles", "null"}};
  EXPECT_EQ(refusal(o), "");
  o.type = "cosine_with_min_lr";
  o.kwargs = {};
  EXPECT_NE(refusal(o).find("min_lr_rate"), std::string::npos);
  o.kwargs = {{"min_lr", "1e-6"}, {"min_lr_rate", "0.1"}};
  EXPECT_NE(refusal(o).find("only one"), std::string::npos);
  o.type = "warmup_stable_decay";
  o.kwargs = {};
  EXPECT_EQ(refusal(o), "");
  o.kwargs = {{"num_decay_steps", "2"}, {"decay_type", "steep"}};
  EXPECT_NE(refusal(o).find("steep"), std::string::npos);
  o.type = "polynomial";
  o.kwargs = {{"lr_end", "1"}};
  EXPECT_NE(refusal(o).find("lr_end"), std::string::npos);
}

}  // namespace
}  // namespace llmtrain
