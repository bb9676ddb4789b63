// Writes the files of run_log.h. Keys and their order follow transformers' TrainerState and LLaMA-Factory's log callback.
#include "train/run_log.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "train/plot.h"
#include "train/progress.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxResultsBytes = size_t{1} << 20;

double rounded(double value) { return std::round(value * 100) / 100; }  // as Python's round(value, 2)

// Seconds that remain when `done` of `total` steps took `elapsed`.
double remaining_seconds(double elapsed, int64_t done, int64_t total) {
  return done > 0 ? elapsed / static_cast<double>(done) * static_cast<double>(total - done) : 0;
}

double per_second(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

Json eval_metrics(const EvalRecord& e) {
  Json json;
  json[e.prefix + "_loss"] = e.loss;
  json[e.prefix + "_runtime"] = e.seconds;
  json[e.prefix + "_samples_per_second"] = per_second(static_cast<double>(e.rows), e.seconds);
  json[e.prefix + "_steps_per_second"] = per_second(static_cast<double>(e.batches), e.seconds);
  return json;
}

Json train_metrics(const TrainSummary& s) {
  Json json;
  if (s.input_tokens) json["num_input_tokens_seen"] = *s.input_tokens;
  json["total_flos"] = s.total_flos;
  json["train_loss"] = s.train_loss;
  json["train_runtime"] = s.seconds;
  json["train_samples_per_second"] = per_second(static_cast<double>(s.rows), s.seconds);
  json["train_steps_per_second"] = per_second(static_cast<double>(s.step), s.seconds);
  return json;
}

void write_json(const std::string& path, const Json& json) { write_file_atomically(path, dump_json(json, 4) + "\n"); }

}  // namespace

RunLog::RunLog(RunShape shape) : shape_(std::move(shape)) {}

void RunLog::open() { log_ = File::create(shape_.output_dir + "/trainer_log.jsonl"); }

void RunLog::append_text(const std::string& line) {
  lines_.push_back(line);
  if (log_.fd() < 0) return;  // evaluation alone keeps the log of the training before it
  const std::string text = line + "\n";
  log_.write_at(text.data(), text.size(), log_bytes_);
  log_bytes_ += text.size();
}

void RunLog::step(const StepRecord& r) {
  steps_.push_back(r);
  epoch_ = r.epoch;
  global_step_ = r.step;
  tokens_ = r.input_tokens.value_or(r.tokens);
  Json entry;
  entry["epoch"] = r.epoch;
  entry["grad_norm"] = r.grad_norm;
  entry["learning_rate"] = r.learning_rate;
  entry["loss"] = r.loss;
  if (r.input_tokens) {
    entry["num_input_tokens_seen"] = *r.input_tokens;
    entry["train_runtime"] = r.elapsed_seconds;
    entry["train_tokens_per_second"] = per_second(static_cast<double>(*r.input_tokens), r.elapsed_seconds);
  }
  entry["step"] = r.step;
  history_.push_back(dump_json(entry));

  Json line = line_at(r.step);
  line["loss"] = r.loss;
  line["lr"] = r.learning_rate;
  append(line, r.epoch, r.elapsed_seconds, tokens_);
}

Json RunLog::line_at(int64_t step) const { return {{"current_steps", step}, {"total_steps", shape_.total_steps}}; }

// With what every line of the log ends with.
void RunLog::append(Json line, double epoch, double elapsed_seconds, std::optional<int64_t> tokens) {
  const auto step = line["current_steps"].get<int64_t>();
  line["epoch"] = epoch;
  line["percentage"] = shape_.total_steps > 0 ? rounded(100.0 * static_cast<double>(step) / static_cast<double>(shape_.total_steps)) : 100.0;
  line["elapsed_time"] = duration_text(elapsed_seconds);
  line["remaining_time"] = duration_text(remaining_seconds(elapsed_seconds, step, shape_.total_steps));
  if (tokens) {
    line["throughput"] = rounded(per_second(static_cast<double>(*tokens), elapsed_seconds));
    line["total_tokens"] = *tokens;
  }
  append_text(dump_json(line));
}

void RunLog::evaluation(const EvalRecord& e) {
  evaluations_.push_back(e);
  last_evaluation_[e.prefix] = e;
  Json entry;
  entry["epoch"] = e.epoch;
  entry.update(eval_metrics(e));
  entry["step"] = e.step;
  history_.push_back(dump_json(entry));
  epoch_ = std::max(epoch_, e.epoch);
  global_step_ = std::max(global_step_, e.step);

  Json line = line_at(e.step);
  if (e.prefix == "eval") line["eval_loss"] = e.loss;  // as LLaMA-Factory, which leaves the losses of single sets to trainer_state.json
  append(line, e.epoch, e.elapsed_seconds, std::nullopt);
}

void RunLog::best(double metric, int64_t step, const std::string& checkpoint) {
  best_metric_ = metric;
  best_step_ = step;
  best_checkpoint_ = checkpoint;
}

std::string RunLog::state_text() const {
  Json state;
  state["best_global_step"] = best_step_ ? Json(*best_step_) : Json(nullptr);
  state["best_metric"] = best_metric_ ? Json(*best_metric_) : Json(nullptr);
  state["best_model_checkpoint"] = best_checkpoint_.empty() ? Json(nullptr) : Json(best_checkpoint_);
  state["epoch"] = epoch_;
  state["eval_steps"] = shape_.eval_steps;
  state["global_step"] = global_step_;
  state["is_hyper_param_search"] = false;
  state["is_local_process_zero"] = true;
  state["is_world_process_zero"] = true;
  state["log_history"] = Json::array();
  for (const std::string& entry : history_) state["log_history"].push_back(parse_json(entry, "log_history"));
  state["logging_steps"] = shape_.logging_steps;
  state["max_steps"] = shape_.total_steps;
  state["num_input_tokens_seen"] = tokens_;
  state["num_train_epochs"] = shape_.epochs_wanted;
  state["save_steps"] = shape_.save_steps;
  state["stateful_callbacks"] = Json::object();
  state["total_flos"] = summary_ ? summary_->total_flos : 0.0;
  state["train_batch_size"] = shape_.train_batch_size;
  state["trial_name"] = nullptr;
  state["trial_params"] = nullptr;
  return dump_json(state, 4) + "\n";
}

void RunLog::write_state(const std::string& folder) const { write_file_atomically(folder + "/trainer_state.json", state_text()); }

Json RunLog::save() const {
  Json steps = Json::array(), evaluations = Json::array();
  for (const StepRecord& r : steps_) steps.push_back({r.step, r.epoch, exact_number(r.loss), exact_number(r.grad_norm), r.learning_rate, r.elapsed_seconds, r.tokens});
  for (const EvalRecord& e : evaluations_) evaluations.push_back({e.prefix, e.step, e.epoch, exact_number(e.loss), e.seconds, e.rows, e.batches, e.elapsed_seconds});
  return {{"history", history_}, {"lines", lines_},  {"steps", steps},   {"evaluations", evaluations},
          {"epoch", epoch_},     {"step", global_step_}, {"tokens", tokens_}};
}

void RunLog::restore(const Json& saved) {
  const std::string where = "checkpoint: its log history";
  const auto whole = [&where](const Json& v) {  // Json::get casts whatever number stands there
    if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))) throw InputError(where, "a whole number is not one");
    return v.get<int64_t>();
  };
  try {
    history_ = saved.at("history").get<std::vector<std::string>>();
    for (const std::string& entry : history_) parse_json(entry, where);
    lines_ = saved.at("lines").get<std::vector<std::string>>();
    steps_.clear();
    for (const Json& r : saved.at("steps")) {
      steps_.push_back({whole(r.at(0)), r.at(1).get<double>(), from_exact(r.at(2), where), from_exact(r.at(3), where), r.at(4).get<double>(), r.at(5).get<double>(),
                        whole(r.at(6))});
    }
    evaluations_.clear();
    for (const Json& e : saved.at("evaluations")) {
      evaluations_.push_back({e.at(0).get<std::string>(), whole(e.at(1)), e.at(2).get<double>(), from_exact(e.at(3), where), e.at(4).get<double>(), whole(e.at(5)),
                              whole(e.at(6)), e.at(7).get<double>()});
      last_evaluation_[evaluations_.back().prefix] = evaluations_.back();
    }
    epoch_ = saved.at("epoch").get<double>();
    global_step_ = whole(saved.at("step"));
    tokens_ = whole(saved.at("tokens"));
  } catch (const nlohmann::json::exception& e) {
    throw InputError("checkpoint", std::string("its log history cannot be read: ") + e.what());
  }
  std::string text;
  for (const std::string& line : lines_) text += line + "\n";
  write_file_atomically(shape_.output_dir + "/trainer_log.jsonl", text);
  log_ = File::open_for_writing(shape_.output_dir + "/trainer_log.jsonl");
  log_bytes_ = text.size();
}

void RunLog::finish_training(const TrainSummary& summary) {
  summary_ = summary;
  epoch_ = summary.epoch;
  global_step_ = summary.step;
  tokens_ = summary.input_tokens.value_or(summary.tokens);
  Json entry;
  entry["epoch"] = summary.epoch;
  entry["step"] = summary.step;
  entry.update(train_metrics(summary));
  history_.push_back(dump_json(entry));
  append(line_at(summary.step), summary.epoch, summary.seconds, tokens_);  // LLaMA-Factory's log ends with a line of the run as a whole
  Json results;
  results["epoch"] = summary.epoch;
  results.update(train_metrics(summary));
  write_json(shape_.output_dir + "/train_results.json", results);
}

void RunLog::write_results(const std::map<std::string, double>& more) const {
  const std::string path = shape_.output_dir + "/all_results.json";
  Json eval;
  eval["epoch"] = epoch_;
  // Results of evaluation alone join those of the training before it, as transformers' save_metrics has it.
  Json all = !summary_ && is_regular_file(path) ? parse_json_file(path, kMaxResultsBytes) : eval;
  for (const auto& [prefix, record] : last_evaluation_) {
    eval.update(eval_metrics(record));
    if (shape_.perplexity) eval[prefix + "_perplexity"] = std::exp(record.loss);
  }
  if (!last_evaluation_.empty()) write_json(shape_.output_dir + "/eval_results.json", eval);
  for (const auto& [name, value] : eval.items())
    if (summary_ || name != "epoch" || !all.contains(name)) all[name] = value;
  if (summary_) all.update(train_metrics(*summary_));
  for (const auto& [name, value] : more) {
    if (value == std::floor(value) && std::abs(value) < 9e15) {
      all[name] = static_cast<int64_t>(value);
    } else {
      all[name] = value;
    }
  }
  write_json(path, all);
}

void RunLog::write_plots() const {
  if (!shape_.plot) return;
  Curve training;
  for (const StepRecord& r : steps_) {
    training.steps.push_back(static_cast<double>(r.step));
    training.values.push_back(r.loss);
  }
  if (!training.steps.empty())
    write_file_atomically(shape_.output_dir + "/training_loss.png", draw_curve(training, "training loss of " + shape_.output_dir, "loss"));
  std::map<std::string, Curve> curves;
  for (const EvalRecord& e : evaluations_) {
    curves[e.prefix].steps.push_back(static_cast<double>(e.step));
    curves[e.prefix].values.push_back(e.loss);
  }
  for (const auto& [prefix, curve] : curves)
    write_file_atomically(shape_.output_dir + "/training_" + prefix + "_loss.png", draw_curve(curve, "training " + prefix + "_loss of " + shape_.output_dir, prefix + "_loss"));
}

}  // namespace llmtrain
