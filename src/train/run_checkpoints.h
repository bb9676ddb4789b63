// The checkpoints of one run: the lock on its output folder, what it goes on from, and saving.
//
// What a run goes on from (docs/cli.md "Output directory"):
//   resume_from_checkpoint a path   that one, wherever it lies; requeued by Slurm: what this very job wrote in output_dir since, if anything. From a
//                                   checkpoint outside output_dir a run of its own begins, with a run id of its own
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
#include "train/same_run.h"

namespace llmtrain {

class RunCheckpoints {
 public:
  RunCheckpoints(const Config& config, RankGroup& group, Log& log, std::string build);
  ~RunCheckpoints();

  // The date that the data of the run to go on with were written with (Dataset::date), so that midnight changes no row; "" where none is known. Before open():
  // a look at manifests only, which may yet prove damaged. Collective.
  std::string date_of_run();
  void set_date(const std::string& date) { date_ = date; }

  // Makes and locks output_dir, which every rank must see; finds the checkpoint. InputError on all ranks.
  void open();
  const std::optional<FoundCheckpoint>& found() const { return found_; }
  // The checkpoint lies in output_dir: this run goes on in its own folder.
  bool goes_on_in_place() const { return found_ && in_output_dir_; }
  int64_t step() const { return found_ ? found_->manifest.step : 0; }
  // The accumulation that keeps the checkpoint's global batch at this number of ranks. InputError with the arithmetic where there is none, or where the
  // rows are not those that the run began with.
  int64_t adapted_accumulation(int64_t rows);
  // Reads all rows once, for what checkpoints say about them. Before the first save and check_same_run(). Collective.
  void identify(const RowSet& rows, const ModelConfig& model);
  // InputError where found() was trained on another sequence of rows or with another model (same_run.h); warns where an earlier version did not write them.
  void check_same_run();
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
  std::optional<FoundCheckpoint> own_checkpoint();

  const Config& config_;
  RankGroup& group_;
  Log& log_;
  std::string date_;
  std::string build_, run_id_, job_;  // job_: the run id that this job gives a run that it begins
  bool in_output_dir_ = false;
  int64_t accumulation_ = 1, configured_accumulation_ = 1;
  RunIdentity identity_;
  FolderLock lock_;
  std::optional<FoundCheckpoint> found_;
  std::unique_ptr<CheckpointSaver> saver_;
};

}  // namespace llmtrain
