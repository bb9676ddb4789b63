// The phases of a run: model, data, engine, training or evaluation, outputs.
#include "train/run.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>

#include "checkpoint/folders.h"
#include "comm/watchdog.h"
#include "core/error.h"
#include "core/file.h"
#include "data/prepare.h"
#include "train/checkpointing.h"
#include "train/data_options.h"
#include "train/model_setup.h"
#include "train/output_dir.h"
#include "train/run_checkpoints.h"
#include "train/same_model.h"
#include "train/stop_request.h"
#include "train/trace.h"
#include "train/trainer.h"

namespace llmtrain {
namespace {

using Clock = std::chrono::steady_clock;

// Collects what set-up took, for one line in the log.
class Phases {
 public:
  void done(const std::string& name) {
    const Clock::time_point now = Clock::now();
    char text[64];
    std::snprintf(text, sizeof text, "%s%s %.2f s", line_.empty() ? "" : ", ", name.c_str(), std::chrono::duration<double>(now - last_).count());
    line_ += text;
    last_ = now;
  }
  std::string line() const { return "set-up: " + line_; }

 private:
  Clock::time_point last_ = Clock::now();
  std::string line_;
};

std::string plural(int64_t n, const std::string& what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); }

class Run {
 public:
  Run(MpiRuntime& mpi, RankGroup& group, const RunRequest& request, Log& log)
      : mpi_(mpi), group_(group), request_(request), config_(request.config), log_(log), writes_(group.rank() == 0),
        checkpoints_(config_, group, log, request.version) {}

  ~Run() {
    if (request_.watchdog) request_.watchdog->forget();
  }

  int go() {
    set_up_model();
    set_up_data();
    if (nothing_left()) return kExitDone;
    set_up_engine();
    set_up_output();
    if (config_.do_train) {
      if (!train()) return stop();
      export_final();
    } else {
      evaluate_only();
    }
    finish();
    return kExitDone;
  }

 private:
  void set_up_model();
  void set_up_data();
  void set_up_engine();
  void set_up_output();
  RunShape shape() const;
  bool train();  // false: stopped on request
  int stop();
  bool nothing_left();
  void evaluate_only();
  void remove_old_checkpoints();
  void save_checkpoint(int64_t step, const Json& trainer_state);
  void save_model_only(int64_t step);
  bool resumable() const { return config_.do_train && !config_.save_only_model; }
  void export_final();
  void finish();
  void say_what_runs() const;
  EngineOptions engine_options() const;

  MpiRuntime& mpi_;
  RankGroup& group_;
  const RunRequest& request_;
  Config config_;  // the accumulation may be adapted at a resume
  Log& log_;
  bool writes_;
  Phases phases_;

  ModelSetup model_;
  Template template_;
  SpecialTokens tokens_;
  RowSet rows_;
  std::vector<EvalRows> eval_rows_;
  std::vector<SmallFile> export_files_;
  std::optional<Sampler> sampler_;
  std::optional<StepPlan> plan_;
  std::optional<Schedule> schedule_;
  RunCheckpoints checkpoints_;
  std::unique_ptr<Engine> engine_;
  std::optional<RunLog> run_log_;
  std::optional<Evaluator> evaluator_;
  std::vector<std::pair<int64_t, std::string>> old_checkpoints_;
  Clock::time_point begun_ = Clock::now();
};

void Run::set_up_model() {
  run_on_all_or_fail(group_, [&] {
    model_ = open_model_for_training(config_);
    trained_tensors(config_, model_.config);  // its faults belong here, before the data
  });
  check_same_model(group_, model_);
  for (const std::string& note : request_.notes) log_.info(note);
  for (const std::string& note : model_.notes) log_.info(note);
  phases_.done("model");
}

void Run::set_up_data() {
  DataOptions options = make_data_options(config_, config_.output_dir, 0);
  if (config_.do_train) options.tool_date = checkpoints_.date_of_run();
  Dataset data = prepare_data(options, *model_.tokenizer, group_, log_);
  checkpoints_.set_date(data.date);
  template_ = data.tmpl;
  tokens_ = data.tokens;
  rows_ = RowSet(std::move(data.train), model_.config.vocab_size);
  for (EvalSet& set : data.eval)
    eval_rows_.push_back({set.name == "eval" ? "eval" : "eval_" + set.name, RowSet(std::move(set.store), model_.config.vocab_size)});
  std::erase_if(eval_rows_, [](const EvalRows& set) { return set.rows.size() == 0; });
  run_on_all_or_fail(group_, [&] {
    if (config_.do_train && rows_.size() == 0) throw InputError(config_.origin("dataset") + ": dataset", "there is no row to train on", "the report above says what became of the rows");
    int64_t labels = 0;
    for (int64_t row = 0; row < rows_.size() && labels == 0; ++row) labels += rows_.labels(static_cast<size_t>(row));
    if (config_.do_train && labels == 0) {
      throw InputError(config_.origin("dataset") + ": dataset", "no token of any row is trained: nothing would be learned", "a larger cutoff_len may help; the report above says how many rows were cut");
    }
    if (config_.evaluates() && eval_rows_.empty()) throw InputError("eval_dataset", "there is no row to evaluate on", "name eval_dataset, or give val_size");
    for (const EvalRows& set : eval_rows_) {
      if (config_.evaluates() && config_.dataloader_drop_last && set.rows.size() < config_.per_device_eval_batch_size)
        throw InputError(config_.origin("dataloader_drop_last") + ": dataloader_drop_last", "nothing of " + set.prefix + " is left: its " + plural(set.rows.size(), "row") +
                         " do not fill a batch", "lower per_device_eval_batch_size, or set it to false");
    }
    if (writes_) export_files_ = export_files(config_, model_, template_, tokens_);
  });
  if (config_.do_train) checkpoints_.open();
  if (resumable() || checkpoints_.found()) checkpoints_.identify(rows_, model_.config);
  run_on_all_or_fail(group_, [&] {
    if (!config_.do_train) return;
    const int64_t accumulation = config_.gradient_accumulation_steps = checkpoints_.adapted_accumulation(rows_.size());
    sampler_.emplace(static_cast<uint64_t>(rows_.size()), config_.per_device_train_batch_size, accumulation, group_.size(), static_cast<uint64_t>(config_.sampler_seed()),
                     config_.shuffles(), config_.dataloader_drop_last);
    if (sampler_->rounds() == 0) {
      throw InputError(config_.origin("dataloader_drop_last") + ": dataloader_drop_last",
                       "nothing is left to train on: " + plural(rows_.size(), "row") + ", and a round of all ranks takes " +
                           std::to_string(config_.per_device_train_batch_size * group_.size()),
                       "lower per_device_train_batch_size, or set it to false");
    }
    plan_.emplace(*sampler_, accumulation, config_.num_train_epochs, config_.max_steps);
    ScheduleOptions schedule;
    schedule.type = config_.lr_scheduler_type;
    schedule.learning_rate = config_.learning_rate;
    schedule.total_steps = plan_->total_steps();
    schedule.warmup_steps = warmup_steps_of(config_, schedule.total_steps);
    schedule.kwargs = config_.lr_scheduler_kwargs;
    schedule.where = config_.origin("lr_scheduler_kwargs") + ": lr_scheduler_kwargs";
    schedule_ = Schedule::make(schedule);
  });
  phases_.done("data");
}

EngineOptions Run::engine_options() const {
  EngineOptions e;
  e.device = config_.wants_cpu() ? "cpu" : config_.device;
  e.communicator = config_.communicator;
  e.device_where = config_.origin("device") + ": device";
  e.communicator_where = config_.origin("communicator") + ": communicator";
  e.deterministic = config_.deterministic;
  e.compute = config_.bf16 ? DType::bfloat16 : DType::float32;
  e.adamw.states = parse_states(config_.states, e.compute, config_.origin("states") + ": states");
  e.adamw.seed = static_cast<uint64_t>(config_.seed);
  e.training = config_.do_train;
  e.prefetch_depth = static_cast<int>(config_.prefetch_depth);
  e.overlap = parse_overlap(config_.overlap, config_.origin("overlap") + ": overlap");
  e.recompute = parse_recompute(config_.recompute_mode(), config_.origin("recompute") + ": recompute");
  e.nodes.ranks_per_node = static_cast<int>(config_.ranks_per_node);
  e.nodes.shared_memory = config_.communicator != "mpi";
  RowSet::Bounds most{1, 1, 1};
  const auto cover = [&most](const RowSet::Bounds& b) {
    most = {std::max(most.tokens, b.tokens), std::max(most.longest_sequence, b.longest_sequence), std::max(most.longest_row, b.longest_row)};
  };
  if (config_.do_train) cover(rows_.bounds(config_.per_device_train_batch_size));
  if (config_.evaluates())
    for (const EvalRows& set : eval_rows_) cover(set.rows.bounds(config_.per_device_eval_batch_size));
  e.max_tokens = most.tokens;
  e.longest_sequence = most.longest_sequence;
  e.max_positions = most.longest_row;
  e.adamw.beta1 = config_.adam_beta1;
  e.adamw.beta2 = config_.adam_beta2;
  e.adamw.epsilon = config_.adam_epsilon;
  e.adamw.weight_decay = config_.weight_decay;
  e.adamw.decay_everything = config_.decays_everything;
  e.adamw.max_grad_norm = config_.max_grad_norm;
  e.checkpoints = resumable() && config_.save_strategy != "no";
  e.trained = trained_tensors(config_, model_.config);
  e.time_kernels = !request_.trace.empty();
  e.watchdog = request_.watchdog;
  return e;
}

void Run::set_up_engine() {
  engine_ = std::make_unique<Engine>(mpi_, group_, model_.config, engine_options(), log_);
  phases_.done("engine");
  if (const auto& found = checkpoints_.found()) {
    run_on_all_or_fail(group_, [&] {
      check_fits(engine_->manager().layout(), engine_->states(), *found);
      checkpoints_.check_same_run();
    });
    restore_engine(*engine_, group_, *found, checkpoints_.optimizer_steps());
  } else {
    engine_->load_weights(*model_.weights);
  }
  if (resumable() && config_.save_strategy != "no") checkpoints_.prepare(*engine_, engine_options().compute);
  phases_.done("weights");
  say_what_runs();
}

void Run::say_what_runs() const {
  const ShardLayout& layout = engine_->manager().layout();
  char text[240];
  std::snprintf(text, sizeof text, "model: %s, %.2f M parameters, %.2f M trained, %s, %s of %s, recompute %s, communication %s", model_.config.model_type.c_str(),
                static_cast<double>(layout.parameters_total()) / 1e6, static_cast<double>(layout.parameters_trained()) / 1e6, config_.bf16 ? "bfloat16" : "float32",
                plural(group_.size(), "rank").c_str(), plural(engine_->threads(), "thread").c_str(), name_of(engine_->recompute()), engine_->overlaps() ? "overlapped" : "in turn");
  log_.info(text);
  for (const std::string& line : engine_->plan_lines()) log_.info(line);
  if (plan_) {
    log_.info("steps: " + std::to_string(plan_->total_steps()) + " of " + plural(config_.per_device_train_batch_size, "row") + " x " +
              plural(config_.gradient_accumulation_steps, "micro-step") + " x " + plural(group_.size(), "rank") + ", " + plural(rows_.size(), "row") + " and " +
              plural(sampler_->steps_per_epoch(), "step") + " an epoch");
  }
}

RunShape Run::shape() const {
  RunShape s;
  s.output_dir = config_.output_dir;
  s.total_steps = plan_ ? plan_->total_steps() : 0;
  s.logging_steps = steps_of(config_.logging_steps, s.total_steps);
  s.save_steps = steps_of(config_.save_steps, s.total_steps);
  constexpr double kNotEvaluated = 500;  // what transformers writes where no key says when
  s.eval_steps = steps_of(config_.eval_steps || config_.eval_strategy == "steps" ? config_.evaluation_steps() : kNotEvaluated, s.total_steps);
  s.epochs_wanted = plan_ ? static_cast<double>(plan_->epochs()) : 0;
  s.train_batch_size = config_.per_device_train_batch_size;
  s.plot = config_.plot_loss;
  s.perplexity = config_.stage == "pt";
  return s;
}

// From here on output_dir is written. Everything that could be wrong with the input has been looked at.
void Run::set_up_output() {
  run_on_all_or_fail(group_, [&] {
    if (!writes_) return;
    make_directories(config_.output_dir);
    run_log_.emplace(shape());
    if (!config_.do_train) return;  // evaluation alone leaves what the training wrote
    const bool resumes = checkpoints_.found().has_value();
    if (const std::string earlier = earlier_run(config_.output_dir); !earlier.empty() && !config_.overwrite_output_dir && !resumes) log_.info(earlier);
    if (config_.overwrite_output_dir && !resumes) old_checkpoints_ = list_checkpoints(config_.output_dir);
    remove_results(config_.output_dir);
    if (resumes) {
      run_log_->restore(checkpoints_.log_state());
    } else {
      run_log_->open();
    }
    write_file_atomically(config_.output_dir + "/resolved_config.yaml", resolved_yaml(config_));
    write_file_atomically(config_.output_dir + "/version.txt", request_.version);
    std::string plan;
    for (const std::string& line : engine_->plan_lines()) plan += line + "\n";
    write_file_atomically(config_.output_dir + "/memory_plan.txt", plan);
  });
  EvalWay way;
  way.batch_rows = config_.per_device_eval_batch_size;
  way.mean = config_.stage == "pt" ? EvalWay::over_rows : EvalWay::over_batches;
  way.drop_last = config_.dataloader_drop_last;
  if (config_.evaluates()) evaluator_.emplace(*engine_, std::move(eval_rows_), way, log_, run_log_ ? &*run_log_ : nullptr);
  if (request_.watchdog) request_.watchdog->watch(engine_->communicators());
  if (config_.do_train && config_.max_hours && config_.save_only_model) {
    log_.warn("max_hours with save_only_model: true: if the time runs out first, nothing is left to resume from, and the run ends with exit code 1");
  }
  phases_.done("output");
  log_.info(phases_.line());
}

bool Run::train() {
  std::optional<Progress> progress;
  if (log_.speaks()) progress.emplace(log_, parse_progress(config_.progress), mpi_.active(), plan_->total_steps());
  TrainerParts parts{config_, *engine_, log_};
  parts.run_log = run_log_ ? &*run_log_ : nullptr;
  parts.progress = progress ? &*progress : nullptr;
  parts.rows = &rows_;
  parts.sampler = &*sampler_;
  parts.evaluator = evaluator_ ? &*evaluator_ : nullptr;
  parts.save_checkpoint = [this](int64_t step, const Json& state) { save_checkpoint(step, state); };
  parts.between_steps = [this] { checkpoints_.poll(); };
  parts.stop = request_.stop;
  parts.watchdog = request_.watchdog;
  parts.host = mpi_.host();
  if (config_.overwrite_output_dir && !checkpoints_.found()) parts.begun_well = [this] { remove_old_checkpoints(); };
  std::optional<Trace> trace;
  if (!request_.trace.empty()) trace.emplace(request_.trace, group_, mpi_.host(), engine_->spans(), engine_->compute_stream());
  parts.trace = trace ? &*trace : nullptr;
  Trainer trainer(std::move(parts), *plan_, *schedule_);
  if (checkpoints_.found()) trainer.restore(checkpoints_.step(), checkpoints_.trainer_state());
  TrainSummary summary = trainer.train();
  if (request_.watchdog) request_.watchdog->pause("the end of the run");  // may take long on a slow disk
  if (trace) log_.info(trace->write());
  checkpoints_.finish();
  if (trainer.stopped()) return false;
  const bool evaluated = trainer.evaluate_last();
  if (request_.watchdog) request_.watchdog->pause("the end of the run");
  checkpoints_.finish();
  if (!evaluated) return false;
  // 6 operations a parameter and token, the embedding's table left out, as transformers estimates it.
  const int64_t table = model_.config.vocab_size * model_.config.hidden_size;
  summary.total_flos = 6.0 * static_cast<double>(summary.tokens) * static_cast<double>(parameter_count(model_.config) - table);
  if (run_log_) run_log_->finish_training(summary);
  return true;
}

// Those of the run that this one replaces. Together, with the watchdog's clock stopped: it may take long.
void Run::remove_old_checkpoints() {
  const WatchdogPause pause(request_.watchdog, "removing old checkpoints");
  run_on_all_or_fail(group_, [&] { remove_folders(old_checkpoints_); });  // only rank 0 knows of any
}

// A run whose last step is in a checkpoint of this folder and whose outputs are there has nothing to do.
bool Run::nothing_left() {
  char done = 0;
  if (writes_ && plan_ && checkpoints_.found() && checkpoints_.step() >= plan_->total_steps()) {
    done = checkpoints_.goes_on_in_place() && holds_outputs_of(config_.output_dir, checkpoints_.found()->folder);
  }
  group_.broadcast(&done, 1, 0);
  if (done) {
    log_.info("the run in " + config_.output_dir + " is finished: step " + std::to_string(checkpoints_.step()) + " of " + std::to_string(plan_->total_steps()) +
              ", nothing is left to do (overwrite_output_dir: true starts afresh)");
  }
  return done != 0;
}

int Run::stop() {
  if (run_log_) run_log_->write_state(config_.output_dir);
  const std::string reason = request_.stop->reason().empty() ? "a request to another rank" : request_.stop->reason();
  if (resumable()) {
    // The same command would begin elsewhere under these keys, but for a job that Slurm requeues.
    const std::string from = config_.resume_from_checkpoint.value_or("");
    const bool elsewhere = from == "true" ? false : config_.overwrite_output_dir || (!from.empty() && from != "false");
    log_.info("stopped on request (" + reason + "): a checkpoint is committed, start again " + (elsewhere ? "with resume_from_checkpoint=true " : "") + "to go on");
    return kExitStopped;
  }
  log_.warn("stopped on request (" + reason + ") with exit code 1: save_only_model: true left nothing to resume from, the same command begins at step 0 again");
  return kExitFailed;
}

void Run::evaluate_only() {
  if (request_.watchdog) request_.watchdog->progress("evaluation", 0);
  evaluator_->run(0, 0, std::chrono::duration<double>(Clock::now() - begun_).count(), true);
}

void Run::save_checkpoint(int64_t step, const Json& trainer_state) {
  if (resumable()) {
    const DType compute = config_.bf16 ? DType::bfloat16 : DType::float32;
    checkpoints_.save(step, *engine_, compute, trainer_state, run_log_ ? &*run_log_ : nullptr, rows_.size(), export_files_);
    return;
  }
  save_model_only(step);
}

// Under a temporary name until it is whole: a folder of this name may hold a checkpoint that was gone back from, and must not become a mixture with it.
void Run::save_model_only(int64_t step) {
  const std::string folder = config_.output_dir + "/checkpoint-" + std::to_string(step), temporary = folder + ".tmp";
  log_.warn_once("save_only_model: checkpoints are plain Hugging Face folders, from which a run cannot be resumed");
  run_on_all_or_fail(group_, [&] {
    if (writes_) remove_folder(temporary);
  });
  export_model(*engine_, group_, temporary, export_dtype(config_), export_files_);
  run_on_all_or_fail(group_, [&] {
    if (!run_log_) return;
    run_log_->write_state(temporary);
    sync_folder(temporary);
    const std::string old = put_folder_in_place(temporary, folder);
    sync_folder(config_.output_dir);
    if (!old.empty()) remove_folder(old);
    try {
      keep_newest(config_.output_dir, config_.save_total_limit.value_or(0), step);
      remove_leftovers(config_.output_dir);
    } catch (const std::exception& e) {  // the new one is safe
      log_.warn(std::string("old checkpoints could not be removed: ") + e.what());
    }
  });
}

void Run::export_final() {
  export_model(*engine_, group_, config_.output_dir, export_dtype(config_), export_files_);
  log_.info("model: " + config_.output_dir + " (" + name_of(export_dtype(config_)) + ")");
}

void Run::finish() {
  double peaks[2] = {static_cast<double>(peak_resident_bytes()), static_cast<double>(engine_->device_bytes_used())};
  engine_->communicator().all_reduce_max(peaks, 2);
  if (!run_log_) return;
  if (config_.do_train) run_log_->write_state(config_.output_dir);
  std::map<std::string, double> results{{"peak_host_bytes_per_rank", peaks[0]}};
  if (engine_->device().kind() == DeviceKind::cuda) results["peak_device_bytes_per_rank"] = peaks[1];
  run_log_->write_results(results);
  if (config_.do_train) run_log_->write_plots();
}

}  // namespace

int run_training(MpiRuntime& mpi, RankGroup& group, const RunRequest& request, Log& log) {
  auto run = std::make_unique<Run>(mpi, group, request, log);
  const auto fail = [&](const std::string& message, bool heard) {
    if (request.watchdog) request.watchdog->failed(message, heard);
    // Taking the engine down could wait for ranks that never answer. The program is about to end.
    if (group.size() > 1) static_cast<void>(run.release());
  };
  const std::string me = "rank " + std::to_string(group.rank()) + " on " + mpi.host() + ": ";  // the others repeat what they hear
  try {
    return run->go();
  } catch (const InputError&) {
    throw;
  } catch (const NotHere&) {
    throw;
  } catch (const PeerFailure& e) {
    fail(e.what(), true);
    throw;
  } catch (const std::bad_alloc&) {
    fail(me + "out of host memory", false);
    throw;
  } catch (const FailureOfAll& e) {
    fail(e.what(), false);
    throw;
  } catch (const std::exception& e) {
    fail(me + e.what(), false);
    throw;
  }
}

}  // namespace llmtrain
