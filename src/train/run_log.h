// The history of a run and the files that tell it (docs/outputs.md): trainer_log.jsonl line by line as it happens; trainer_state.json,
// train_results.json, eval_results.json, all_results.json and the loss plots at its end. The names and meanings are those of transformers' Trainer and
// LLaMA-Factory, so that their readers work.
//
// One rank owns a RunLog. Files are replaced whole (write_file_atomically); trainer_log.jsonl grows by one write a line.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace llmtrain {

struct RunShape {
  std::string output_dir;
  int64_t total_steps = 0;
  int64_t logging_steps = 0, save_steps = 0, eval_steps = 0;  // as given, whatever the strategy says
  double epochs_wanted = 0;                                   // num_train_epochs as the schedule understands it
  int64_t train_batch_size = 0;                               // rows of a rank's micro-batch
  bool plot = false;
  bool perplexity = false;                                    // in the results of evaluations, as LLaMA-Factory for stage pt
};

struct StepRecord {
  int64_t step = 0;
  double epoch = 0, loss = 0, grad_norm = 0, learning_rate = 0;
  double elapsed_seconds = 0;
  int64_t tokens = 0;  // trained so far, all ranks
  std::optional<int64_t> input_tokens = {};  // include_num_input_tokens_seen: so far, all ranks, as that counts them
};

// One evaluation: `prefix` is "eval", or "eval_<dataset>" where each dataset is evaluated by itself.
struct EvalRecord {
  std::string prefix = "eval";
  int64_t step = 0;
  double epoch = 0, loss = 0, seconds = 0;
  int64_t rows = 0, batches = 0;
  double elapsed_seconds = 0;
};

struct TrainSummary {
  int64_t step = 0;
  double epoch = 0, train_loss = 0, seconds = 0, total_flos = 0;
  int64_t rows = 0;    // trained, repeated epochs counted
  int64_t tokens = 0;  // all ranks
  std::optional<int64_t> input_tokens = {};
};

class RunLog {
 public:
  explicit RunLog(RunShape shape);
  // Opens trainer_log.jsonl, emptied. Without this call there is none (evaluation alone).
  void open();

  void step(const StepRecord& record);
  void evaluation(const EvalRecord& record);
  void best(double metric, int64_t step, const std::string& checkpoint);

  // trainer_state.json as of now, into `folder`.
  void write_state(const std::string& folder) const;
  void finish_training(const TrainSummary& summary);                        // the summary entry and train_results.json
  void write_results(const std::map<std::string, double>& more) const;      // all_results.json (with `more`), eval_results.json
  void write_plots() const;
  // Everything that has been logged, for a checkpoint, and back: a resumed run's files hold the whole history, one entry a logged step.
  Json save() const;
  void restore(const Json& saved);  // rewrites trainer_log.jsonl; InputError where `saved` is not what save() gives
  std::string state_text() const;   // of trainer_state.json

 private:
  Json line_at(int64_t step) const;
  void append(Json line, double epoch, double elapsed_seconds, std::optional<int64_t> tokens);
  void append_text(const std::string& line);

  RunShape shape_;
  File log_;
  uint64_t log_bytes_ = 0;
  std::vector<std::string> history_;              // JSON objects
  std::vector<std::string> lines_;                // of trainer_log.jsonl
  std::vector<StepRecord> steps_;
  std::vector<EvalRecord> evaluations_;
  std::map<std::string, EvalRecord> last_evaluation_;
  std::optional<TrainSummary> summary_;
  double epoch_ = 0;
  int64_t global_step_ = 0, tokens_ = 0;
  std::optional<double> best_metric_;
  std::optional<int64_t> best_step_;
  std::string best_checkpoint_;
};

}  // namespace llmtrain
