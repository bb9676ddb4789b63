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
#include "train/output_dir.h"

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

constexpr size_t kLongestDate = 16;  // "20 Nov 2026"

bool requeued() { return std::atoi(environment("SLURM_RESTART_COUNT").c_str()) >= 1; }

const Json& member(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || it == object.end()) throw InputError("checkpoint", std::string("its state lacks ") + key);
  return *it;
}

// Under dataloader_drop_last an epoch ends with the last whole round of all ranks (data/sampler.h): rounds of another size may leave out other rows.
void check_dropped_rows(const std::string& folder, int64_t rows, int64_t round_then, int64_t round_now) {
  const int64_t then = rows / round_then * round_then, now = rows / round_now * round_now;
  if (then == now) return;
  throw InputError(folder, "under dataloader_drop_last: true its epochs have " + std::to_string(then) + " of " + std::to_string(rows) + " rows (whole rounds of " +
                               std::to_string(round_then) + " rows on all ranks), here they would have " + std::to_string(now) + " (rounds of " + std::to_string(round_now) + ")",
                   "resume at a number of ranks with the same rows of a round, or of one that leaves out as many");
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
    if (!lock_.unlocked().empty()) {
      log_.warn("output_dir " + config_.output_dir + ": its file system has no locks (flock: " + lock_.unlocked() +
                "), so that two jobs in this folder would not be noticed: see to it that no other one writes here");
    }
  });
  check_all_ranks_share(config_.output_dir, config_.origin("output_dir") + ": output_dir", group_);
  run_id_ = job_ = broadcast_string(group_, new_run_id(), 0);
  const bool again = broadcast_string(group_, requeued() ? "1" : "0", 0) == "1";
  const std::string wanted = config_.resume_from_checkpoint.value_or("");
  if (!wanted.empty() && wanted != "true" && wanted != "false") {
    found_ = again ? own_checkpoint() : std::nullopt;
    if (!found_) found_ = open_checkpoint(wanted, group_);
  } else if (wanted == "true") {
    found_ = find_checkpoint(config_.output_dir, group_, log_);
    if (!found_) throw InputError(config_.origin("resume_from_checkpoint") + ": resume_from_checkpoint", "there is no checkpoint in " + config_.output_dir,
                                  "leave the key out to start from step 0");
  } else if (config_.overwrite_output_dir) {
    if (again) found_ = find_checkpoint(config_.output_dir, group_, log_, [this](const Manifest& m) { return m.run_id == job_; });
  } else {
    found_ = find_checkpoint(config_.output_dir, group_, log_);
  }
  if (!found_) return;
  in_output_dir_ = broadcast_string(group_, lies_in(found_->folder, config_.output_dir) ? "1" : "0", 0) == "1";
  if (in_output_dir_) run_id_ = found_->manifest.run_id;  // the run goes on, whoever started it again; elsewhere it is another run's, and stays so
  log_.info("resuming from " + found_->folder + ": step " + std::to_string(found_->manifest.step) + ", written by " +
            std::to_string(found_->manifest.content.world) + (found_->manifest.content.world == 1 ? " rank" : " ranks"));
}

std::string RunCheckpoints::date_of_run() {
  std::string date;
  if (group_.rank() == 0) {
    const std::string wanted = config_.resume_from_checkpoint.value_or("");
    std::vector<std::string> folders;
    if (!wanted.empty() && wanted != "true" && wanted != "false") {
      folders = {wanted};
    } else if (wanted == "true" || !config_.overwrite_output_dir || requeued()) {
      for (const auto& [step, folder] : list_checkpoints(config_.output_dir)) folders.push_back(folder);
    }
    for (const std::string& folder : folders) {
      try {
        const Json state = read_manifest(folder).state;
        const auto it = state.is_object() ? state.find("tool_date") : state.end();
        if (!state.is_object() || it == state.end() || !it->is_string() || it->get<std::string>().size() > kLongestDate) continue;
        date = it->get<std::string>();
        break;
      } catch (const std::exception&) {
        continue;  // open() says what is wrong with it
      }
    }
  }
  return broadcast_string(group_, date, 0);
}

// What this very job wrote here since it began at the checkpoint that resume_from_checkpoint names; of its folder's run or of one of its own.
std::optional<FoundCheckpoint> RunCheckpoints::own_checkpoint() {
  const auto own = [this](const Manifest& m) {
    const auto job = m.state.is_object() ? m.state.find("job") : m.state.end();
    return m.state.is_object() && job != m.state.end() && *job == job_;
  };
  try {
    return find_checkpoint(config_.output_dir, group_, log_, own);
  } catch (const InputError& e) {  // the same on every rank
    log_.warn("this requeued job begins again at resume_from_checkpoint: " + std::string(e.what()));
    return std::nullopt;
  }
}

int64_t RunCheckpoints::adapted_accumulation(int64_t rows) {
  accumulation_ = configured_accumulation_ = config_.gradient_accumulation_steps;
  if (!found_) return accumulation_;
  const std::string& folder = found_->folder;
  const Json& batch = member(found_->manifest.state, "global_batch");
  const int64_t then_rows = whole_number(found_->manifest.state, "rows", 1, kMaxStep, folder), per_device = whole_number(batch, "per_device", 1, kMaxStep, folder),
                accumulation = whole_number(batch, "accumulation", 1, kMaxStep, folder), ranks = whole_number(batch, "ranks", 1, INT32_MAX, folder);
  int64_t global = 0;
  if (__builtin_mul_overflow(per_device, accumulation, &global) || __builtin_mul_overflow(global, ranks, &global) || global > kMaxStep)
    throw InputError(folder, "\"global_batch\" is out of range: " + dump_json(batch));
  // What the YAML said: a resume at another number of ranks had another accumulation. An earlier version did not write it.
  const int64_t configured = batch.contains("configured") ? whole_number(batch, "configured", 1, kMaxStep, folder) : accumulation;
  if (then_rows != rows) {
    throw InputError(folder, "the run began with " + std::to_string(then_rows) + " rows, now there are " + std::to_string(rows),
                     "resume with the same data and options, or start afresh with overwrite_output_dir: true");
  }
  const int64_t now = config_.per_device_train_batch_size * group_.size();
  if (config_.dataloader_drop_last) check_dropped_rows(folder, rows, per_device * ranks, now);
  if (now * accumulation_ == global) return accumulation_;
  const std::string arithmetic = "the run's global batch is " + std::to_string(per_device) + " rows x " + std::to_string(accumulation) + " micro-steps x " +
                                 std::to_string(ranks) + " ranks = " + std::to_string(global) + "; here it would be " +
                                 std::to_string(config_.per_device_train_batch_size) + " x " + std::to_string(accumulation_) + " x " + std::to_string(group_.size()) +
                                 " = " + std::to_string(now * accumulation_);
  const bool only_ranks = config_.per_device_train_batch_size == per_device && (accumulation_ == accumulation || accumulation_ == configured);
  if (!only_ranks || global % now != 0) {
    throw InputError(folder, arithmetic, "choose per_device_train_batch_size and gradient_accumulation_steps so that the product is " + std::to_string(global));
  }
  accumulation_ = global / now;
  log_.info(arithmetic + ": gradient_accumulation_steps becomes " + std::to_string(accumulation_) + ", which keeps it");
  return accumulation_;
}

void RunCheckpoints::identify(const RowSet& rows, const ModelConfig& model) { identity_ = identity_of(config_, rows, model, group_); }

void RunCheckpoints::check_same_run() {
  const std::string missing = llmtrain::check_same_run(found_->folder, found_->manifest.state, identity_, config_);
  if (!missing.empty()) log_.warn(found_->folder + " was written by an earlier version, without " + missing + ": that these are still the same is not checked");
}

const Json& RunCheckpoints::trainer_state() const { return member(found_->manifest.state, "trainer"); }
const Json& RunCheckpoints::log_state() const { return member(found_->manifest.state, "log"); }
int64_t RunCheckpoints::optimizer_steps() const { return whole_number(trainer_state(), "optimizer_steps", 0, step(), found_->folder); }

Json RunCheckpoints::state_json(const Json& trainer_state, const RunLog* run_log, int64_t rows) const {
  return {{"trainer", trainer_state},
          {"rows", rows},
          {"job", job_},
          {"tool_date", date_},
          {"global_batch", {{"per_device", config_.per_device_train_batch_size}, {"accumulation", accumulation_}, {"ranks", group_.size()}, {"configured", configured_accumulation_}}},
          {"sampler", identity_.sampler},
          {"model", identity_.model},
          {"log", run_log ? run_log->save() : Json(nullptr)},
          {"config", resolved_yaml(config_)}};
}

void RunCheckpoints::prepare(Engine& engine, DType compute) {
  if (saver_) return;
  const SaverOptions options{config_.output_dir, run_id_, build_, config_.async_save, static_cast<int>(config_.save_total_limit.value_or(0)),
                             found_ ? std::optional(found_->manifest.step) : std::nullopt};
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
