// How many optimizer steps a run has and where each lies in its epoch, counted as transformers does (which rows they take: data/sampler.h).
//
//   all steps   max_steps > 0 ? max_steps : ceil(num_train_epochs * steps of an epoch)
//   epoch       of a step: epochs done + micro-batches of this epoch done / micro-batches of an epoch
//
// Thread rules: plain values.
#pragma once

#include <cstdint>

#include "data/sampler.h"

namespace llmtrain {

class StepPlan {
 public:
  // The sampler has rows. `accumulation`: the sampler's.
  StepPlan(const Sampler& sampler, int64_t accumulation, double epochs_wanted, int64_t max_steps);

  int64_t total_steps() const { return total_steps_; }
  int64_t epochs() const { return epochs_; }  // begun at least, for trainer_state.json

  // Steps count from 1.
  uint64_t epoch_of(int64_t step) const { return static_cast<uint64_t>((step - 1) / steps_per_epoch_); }
  uint64_t step_in_epoch(int64_t step) const { return static_cast<uint64_t>((step - 1) % steps_per_epoch_); }
  bool ends_epoch(int64_t step) const { return step % steps_per_epoch_ == 0; }
  double epochs_after(int64_t step) const;  // 0 after step 0

 private:
  int64_t rounds_, accumulation_, steps_per_epoch_, total_steps_, epochs_;
};

}  // namespace llmtrain
