#include "train/run_checkpoints.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "train/checkpointing.h"
#include "train/model_setup.h"

namespace llmtrain {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Under Slurm the job (and the task of an array): a requeued job has the same. Elsewhere one of its own.
std::string new_run_id() {
  const std::string job = environment("SLURM_JOB_ID"), array = environment("SLURM_ARRAY_JOB_ID"), task = environment("SLURM_ARRAY_TASK_ID");
  if (!array.empty()) return "slurm-" + array + "_" + task;
  if (!job.empty()) return "slurm-" + job;
  char host[64] = {};
  ::gethostname(host, sizeof host - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::string(host) + "-" + std::to_string(::getpid()) + "-" + std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

bool requeued() { return std::atoi(environment("SLURM_RESTART_COUNT").c_str()) >= 1; }

int64_t whole(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || it == object.end() || !it->is_number_integer()) throw InputError("checkpoint", std::string("its state lacks ") + key);
  return it->get<int64_t>();
}

const Json& member(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || it == object.end()) throw InputError("checkpoint", std::string("its state lacks ") + key);
  return *it;
}

}  // namespace

RunCheckpoints::RunCheckpoints(const Config& config, RankGroup& group, Log& log, std::string build)
    : config_(config), group_(group), log_(log), build_(std::move(build)) {}
RunCheckpoints::~RunCheckpoints() = default;

void RunCheckpoints::open() {
  run_on_all_or_fail(group_, [&] {
    if (group_.rank() != 0) return;
    try {
      make_directories(config_.output_dir);
    } catch (const OperationError& e) {
      throw InputError(config_.origin("output_dir") + ": output_dir", e.what(), "give a folder that this user may write to");
    }
    lock_ = FolderLock(config_.output_dir);
  });
  run_id_ = broadcast_string(group_, new_run_id(), 0);
  const bool again = broadcast_string(group_, requeued() ? "1" : "0", 0) == "1";
  const std::string wanted = config_.resume_from_checkpoint.value_or("");
  if (!wanted.empty() && wanted != "true" && wanted != "false") {
    found_ = open_checkpoint(wanted, group_);
  } else if (wanted == "true") {
    found_ = find_checkpoint(config_.output_dir, group_, log_);
    if (!found_) throw InputError(config_.origin("resume_from_checkpoint") + ": resume_from_checkpoint", "there is no checkpoint in " + config_.output_dir,
                                  "leave the key out to start from step 0");
  } else if (config_.overwrite_output_dir) {
    if (again) found_ = find_checkpoint(config_.output_dir, group_, log_, run_id_);
  } else {
    found_ = find_checkpoint(config_.output_dir, group_, log_);
  }
  if (!found_) return;
  run_id_ = found_->manifest.run_id;  // the run goes on, whoever started it again
  log_.info("resuming from " + found_->folder + ": step " + std::to_string(found_->manifest.step) + ", written by " +
            std::to_string(found_->manifest.content.world) + (found_->manifest.content.world == 1 ? " rank" : " ranks"));
}

int64_t RunCheckpoints::adapted_accumulation(int64_t rows) {
  accumulation_ = config_.gradient_accumulation_steps;
  if (!found_) return accumulation_;
  const Json& batch = member(found_->manifest.state, "global_batch");
  const int64_t then_rows = whole(found_->manifest.state, "rows"), per_device = whole(batch, "per_device"), accumulation = whole(batch, "accumulation"),
                ranks = whole(batch, "ranks"), global = per_device * accumulation * ranks;
  if (then_rows != rows) {
    throw InputError(found_->folder, "the run began with " + std::to_string(then_rows) + " rows, now there are " + std::to_string(rows),
                     "resume with the same data and options, or start afresh with overwrite_output_dir: true");
  }
  const int64_t now = config_.per_device_train_batch_size * group_.size();
  if (now * accumulation_ == global) return accumulation_;
  const std::string arithmetic = "the run's global batch is " + std::to_string(per_device) + " rows x " + std::to_string(accumulation) + " micro-steps x " +
                                 std::to_string(ranks) + " ranks = " + std::to_string(global) + "; here it would be " +
                                 std::to_string(config_.per_device_train_batch_size) + " x " + std::to_string(accumulation_) + " x " + std::to_string(group_.size()) +
                                 " = " + std::to_string(now * accumulation_);
  const bool only_ranks = config_.per_device_train_batch_size == per_device && accumulation_ == accumulation;
  if (!only_ranks || global % now != 0) {
    throw InputError(found_->folder, arithmetic, "choose per_device_train_batch_size and gradient_accumulation_steps so that the product is " + std::to_string(global));
  }
  accumulation_ = global / now;
  log_.info(arithmetic + ": gradient_accumulation_steps becomes " + std::to_string(accumulation_) + ", which keeps it");
  return accumulation_;
}

const Json& RunCheckpoints::trainer_state() const { return member(found_->manifest.state, "trainer"); }
const Json& RunCheckpoints::log_state() const { return member(found_->manifest.state, "log"); }
int64_t RunCheckpoints::optimizer_steps() const { return whole(trainer_state(), "optimizer_steps"); }

Json RunCheckpoints::state_json(const Json& trainer_state, const RunLog* run_log, int64_t rows) const {
  return {{"trainer", trainer_state},
          {"rows", rows},
          {"global_batch", {{"per_device", config_.per_device_train_batch_size}, {"accumulation", accumulation_}, {"ranks", group_.size()}}},
          {"sampler", {{"seed", config_.sampler_seed()}, {"shuffle", !config_.disable_shuffling}}},
          {"log", run_log ? run_log->save() : Json(nullptr)},
          {"config", resolved_yaml(config_)}};
}

void RunCheckpoints::prepare(Engine& engine, DType compute) {
  if (saver_) return;
  const SaverOptions options{config_.output_dir, run_id_, build_, config_.async_save, static_cast<int>(config_.save_total_limit.value_or(0))};
  saver_ = std::make_unique<CheckpointSaver>(options, checkpoint_content(engine.manager().layout(), compute, engine.states()), group_, log_);
}

void RunCheckpoints::save(int64_t step, Engine& engine, DType compute, const Json& trainer_state, const RunLog* run_log, int64_t rows,
                          const std::vector<SmallFile>& model_files) {
  prepare(engine, compute);
  finish();
  std::vector<SideFile> sides;
  if (run_log) sides.push_back({"trainer_state.json", run_log->state_text()});
  CheckpointSaver::WriteMore write_more;
  if (config_.save_hf_model) {
    write_more = [&](const std::string& folder) {
      export_model(engine, group_, folder, export_dtype(config_), model_files);
      std::vector<std::string> names;
      for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename().string());
      return names;
    };
  } else {
    for (const SmallFile& file : model_files) sides.push_back({file.name, file.content});
  }
  saver_->start(step, [&](ShardImage& image) { fill_image(engine, image); }, state_json(trainer_state, run_log, rows), std::move(sides), write_more);
  if (!saver_->under_way()) report();
}

void RunCheckpoints::report() const {
  const CheckpointSaver::Timing& t = saver_->last();
  char text[160];
  std::snprintf(text, sizeof text, "checkpoint-%lld: %.1f MiB a rank, training stood still for %.3f s, written in %.3f s", static_cast<long long>(t.step),
                static_cast<double>(t.bytes) / (1 << 20), t.stall_seconds, t.write_seconds);
  log_.info(text);
}

void RunCheckpoints::poll() {
  if (saver_ && saver_->poll()) report();
}

void RunCheckpoints::finish() {
  if (!saver_ || !saver_->under_way()) return;
  saver_->finish();
  report();
}

}  // namespace llmtrain
