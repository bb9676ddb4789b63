// Evaluation as transformers does it: each batch of B rows has its own mean loss (sum of its token losses over the number of its labels that are not
// -100, counted before the shift). What a last batch with fewer rows weighs follows the trainer that LLaMA-Factory takes: transformers repeats each
// batch's loss B times, whatever rows it has, before it takes the mean; its Trainer (stage pt) then cuts the repetitions to the number of rows, its
// Seq2SeqTrainer (stage sft) does not. Batches are dealt to the ranks in turn and added in their order, so the number does not depend on the rank count.
// Thread rules: collective; one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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

struct EvalWay {
  enum Mean : uint8_t { over_batches, over_rows };  // stage sft, stage pt
  int64_t batch_rows = 8;
  Mean mean = over_batches;
  bool drop_last = false;  // rows that do not fill the last batch are left out
};

// `interrupted` (may be empty) is asked before each round of batches and gives the same answer on every rank: true ends the evaluation without a result.
using Interrupted = std::function<bool()>;
std::optional<EvalResult> evaluate(Engine& engine, const RowSet& rows, const EvalWay& way, const Interrupted& interrupted = nullptr);

struct EvalRows {
  std::string prefix;  // "eval", or "eval_<dataset>" where each set is evaluated by itself
  RowSet rows;
};

// All evaluation sets of a run, with their place in the logs.
class Evaluator {
 public:
  // `run_log`: on the rank that writes, else null.
  Evaluator(Engine& engine, std::vector<EvalRows> sets, const EvalWay& way, Log& log, RunLog* run_log);
  bool empty() const { return sets_.empty(); }
  // Each set once. `say`: with a line in the log. False where it was interrupted: then nothing of it is recorded.
  bool run(int64_t step, double epoch, double elapsed_seconds, bool say, const Interrupted& interrupted = nullptr);

 private:
  void record(const EvalRecord& record, const EvalResult& result, bool say);

  Engine& engine_;
  std::vector<EvalRows> sets_;
  EvalWay way_;
  Log& log_;
  RunLog* run_log_;
};

}  // namespace llmtrain
