// Arithmetic of step_plan.h.
#include "train/step_plan.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace llmtrain {

StepPlan::StepPlan(const Sampler& sampler, int64_t accumulation, double epochs_wanted, int64_t max_steps)
    : rounds_(static_cast<int64_t>(sampler.rounds())), accumulation_(accumulation), steps_per_epoch_(static_cast<int64_t>(sampler.steps_per_epoch())) {
  LLMTRAIN_ASSERT(steps_per_epoch_ > 0, "an epoch without rows");
  if (max_steps > 0) {
    total_steps_ = max_steps;
    epochs_ = (max_steps + steps_per_epoch_ - 1) / steps_per_epoch_;
  } else {
    total_steps_ = static_cast<int64_t>(std::ceil(epochs_wanted * static_cast<double>(steps_per_epoch_)));
    epochs_ = static_cast<int64_t>(std::ceil(epochs_wanted));
  }
}

double StepPlan::epochs_after(int64_t step) const {
  if (step == 0) return 0;
  const int64_t done = std::min((static_cast<int64_t>(step_in_epoch(step)) + 1) * accumulation_, rounds_);
  return static_cast<double>(epoch_of(step)) + static_cast<double>(done) / static_cast<double>(rounds_);
}

}  // namespace llmtrain
