// Evaluation as transformers does it: each batch of B rows has its own mean loss (sum of its token losses over the number of its labels that are not
// -100, counted before the shift); the result is the mean over batches. A last batch with fewer rows weighs as much as the others: transformers repeats
// each batch's loss B times, whatever rows it has, before it takes the mean (its logged values show it). Batches are dealt to the ranks in turn and
// added in their order, so the number does not depend on the rank count.
// Thread rules: collective; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/log.h"
#include "train/batching.h"
#include "train/engine.h"
#include "train/run_log.h"

namespace llmtrain {

struct EvalResult {
  double loss = 0;          // NaN where no row has a label
  int64_t rows = 0, batches = 0;
  int64_t rows_without_labels = 0;  // in batches without any label; they are left out of the mean
};

EvalResult evaluate(Engine& engine, const RowSet& rows, int64_t batch_rows);

struct EvalRows {
  std::string prefix;  // "eval", or "eval_<dataset>" where each set is evaluated by itself
  RowSet rows;
};

// All evaluation sets of a run, with their place in the logs.
class Evaluator {
 public:
  // `run_log`: on the rank that writes, else null.
  Evaluator(Engine& engine, std::vector<EvalRows> sets, int64_t batch_rows, Log& log, RunLog* run_log);
  bool empty() const { return sets_.empty(); }
  // Each set once. `say`: with a line in the log.
  void run(int64_t step, double epoch, double elapsed_seconds, bool say);

 private:
  Engine& engine_;
  std::vector<EvalRows> sets_;
  int64_t batch_rows_;
  Log& log_;
  RunLog* run_log_;
};

}  // namespace llmtrain
