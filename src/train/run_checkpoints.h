// The checkpoints of one run: the lock on its output folder, what it goes on from, and saving.
//
// What a run goes on from (docs/cli.md "Output directory"):
//   resume_from_checkpoint a path   that one, wherever it lies
//   resume_from_checkpoint true     the newest valid one of output_dir; none is an error
//   requeued by Slurm               the newest valid one of this very job, even under overwrite_output_dir
//   overwrite_output_dir            nothing: a fresh start
//   else                            the newest valid one of output_dir, if there is one
// Thread rules: collective; one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/lock.h"
#include "checkpoint/resume.h"
#include "checkpoint/saver.h"
#include "config/config.h"
#include "core/rank_group.h"
#include "hf/export.h"
#include "train/engine.h"
#include "train/run_log.h"

namespace llmtrain {

class RunCheckpoints {
 public:
  RunCheckpoints(const Config& config, RankGroup& group, Log& log, std::string build);
  ~RunCheckpoints();

  // Makes and locks output_dir; finds the checkpoint. InputError on all ranks.
  void open();
  const std::optional<FoundCheckpoint>& found() const { return found_; }
  int64_t step() const { return found_ ? found_->manifest.step : 0; }
  // The accumulation that keeps the checkpoint's global batch at this number of ranks. InputError with the arithmetic where there is none, or where the
  // rows are not those that the run began with.
  int64_t adapted_accumulation(int64_t rows);
  const Json& trainer_state() const;
  const Json& log_state() const;
  int64_t optimizer_steps() const;

  // Makes the image that saves are copied into, so that the first save takes no longer than the others. Otherwise the first save does.
  void prepare(Engine& engine, DType compute);
  // Saves `engine` as of `step`; what an earlier save left unfinished is committed first.
  void save(int64_t step, Engine& engine, DType compute, const Json& trainer_state, const RunLog* run_log, int64_t rows, const std::vector<SmallFile>& model_files);
  void poll();    // between steps: commits a finished save
  void finish();  // waits for the save that is under way

 private:
  Json state_json(const Json& trainer_state, const RunLog* run_log, int64_t rows) const;
  void report() const;

  const Config& config_;
  RankGroup& group_;
  Log& log_;
  std::string build_, run_id_;
  int64_t accumulation_ = 1;
  FolderLock lock_;
  std::optional<FoundCheckpoint> found_;
  std::unique_ptr<CheckpointSaver> saver_;
};

}  // namespace llmtrain
