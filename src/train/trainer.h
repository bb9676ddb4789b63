// Trainer: the loop over optimizer steps, with logging, evaluation and saving at the steps that the configuration names.
//
// A step: loss = sum of token losses / number of labels that are not -100 over all micro-batches and ranks of the step (counted before the shift, known to
// every rank from the token store); AdamW with clipping; a step whose gradient is not finite is skipped by all ranks, and too many in a row end the run.
// A request to stop is answered at the end of the step; an evaluation is left for it and made first when the run goes on.
// Logged loss: mean over the steps since the last log, skipped ones left out (NaN, null in the files, where none is left); grad_norm before clipping at the
// logged step; learning_rate as used in it.
// Thread rules: collective; one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/log.h"
#include "optim/schedules.h"
#include "train/batching.h"
#include "train/engine.h"
#include "train/evaluation.h"
#include "train/progress.h"
#include "train/run_log.h"
#include "comm/watchdog.h"
#include "core/json.h"
#include "train/step_plan.h"
#include "train/stop_request.h"
#include "train/straggler.h"

namespace llmtrain {

// When something happens: every so many steps, at the end of each epoch, or never.
struct Every {
  enum Kind { never, steps, epochs } kind = never;
  int64_t count = 0;  // of steps
  double delay = 0;   // not before so many steps or epochs
  bool at(int64_t step, const StepPlan& plan) const {
    if (kind == never || (delay > 0 && (kind == steps ? static_cast<double>(step) : plan.epochs_after(step)) < delay)) return false;
    if (step == plan.total_steps()) return true;
    return kind == epochs ? plan.ends_epoch(step) : step % count == 0;
  }
};
// strategy: "no", "steps", "epoch"; value: of steps, or a share of all steps below 1.
Every make_every(const std::string& strategy, double value, int64_t total_steps);

class Trace;

struct TrainerParts {
  const Config& config;
  Engine& engine;
  Log& log;
  RunLog* run_log = nullptr;             // on the rank that writes, else null
  Progress* progress = nullptr;          // on the rank that speaks, else null
  const RowSet* rows = nullptr;
  const Sampler* sampler = nullptr;
  Evaluator* evaluator = nullptr;        // null: nothing to evaluate on
  std::function<void(int64_t, const Json&)> save_checkpoint = nullptr;  // collective; with what restore() takes; null: nothing is saved between
  std::function<void()> between_steps = nullptr;  // collective, after each step: a save that is under way may be committed
  Trace* trace = nullptr;                         // null: none is kept
  const StopRequest* stop = nullptr;              // asked at the end of each step
  Watchdog* watchdog = nullptr;
  std::string host = {};                          // of this rank, for what is said about it
  std::function<void()> begun_well = nullptr;              // collective; after the first step, once
};

class Trainer {
 public:
  Trainer(TrainerParts parts, StepPlan plan, Schedule schedule);
  // All steps that are left. Returns what the summary needs.
  TrainSummary train();
  // Goes on after the step that `state` (as handed to save_checkpoint) was taken at. Before train().
  void restore(int64_t step, const Json& state);
  // train() ended before the last step because it was asked to; a checkpoint was saved where that is possible.
  bool stopped() const { return stopped_; }
  int64_t steps_done() const { return done_; }
  // After train(): the evaluation at the end, unless it was done already. False where the run was asked to stop meanwhile: then a checkpoint of the last step
  // was saved where that is possible, and the next run evaluates.
  bool evaluate_last();

 private:
  struct StepOutcome {
    double rate = 0, grad_norm = 0;
    RankWork own;
  };
  StepOutcome one_step(int64_t step);
  template <class Work>
  void aside(Work&& work);
  void skip(int64_t step, const AdamW::Result& result);
  void log_step(int64_t step, const StepOutcome& outcome);
  double reduce_losses();
  void show(int64_t step);
  Progress::State progress_state(int64_t step) const;
  double elapsed() const;
  Json state();
  bool meet(int64_t step, RankWork own);
  int64_t padded_tokens_of(uint64_t epoch, uint64_t in_epoch) const;
  std::optional<int64_t> input_tokens() const;
  bool asked_to_stop();
  bool evaluate_at(int64_t step);
  void save(int64_t step);
  void say_straggler(int64_t step, const Straggler& straggler);

  TrainerParts parts_;
  StepPlan plan_;
  Schedule schedule_;
  Every logging_, evaluating_, saving_;
  StragglerDetector stragglers_;
  double begun_ = 0, logged_at_ = 0;    // seconds of the monotonic clock
  Batch batch_;
  double loss_sum_ = 0;                 // this rank's part of the steps' losses since the last reduction
  double total_loss_ = 0;               // of all reduced steps
  int64_t unreduced_steps_ = 0;         // those that count in loss_sum_: not the skipped ones
  int64_t timed_steps_ = 0;             // since the last log line, skipped or not
  double shown_loss_ = 0;
  int64_t tokens_ = 0, tokens_logged_ = 0, padded_tokens_ = 0;
  double tokens_per_second_ = 0;
  double exposed_ = 0;                  // seconds of waiting for communication that are not in engine.times() any more
  int64_t skipped_in_a_row_ = 0, skipped_ = 0;
  int64_t evaluated_at_ = -1, saved_at_ = -1;  // steps
  bool evaluation_due_ = false;         // of step done_: it was interrupted
  int64_t done_ = 0;                    // steps
  double elapsed_before_ = 0;           // seconds of the runs that this one goes on from
  bool stopped_ = false;
};

// So many steps in a row without a finite gradient end the run.
inline constexpr int64_t kMaxSkippedSteps = 10;

}  // namespace llmtrain
