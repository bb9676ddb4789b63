// The loop of trainer.h.
#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>

#include "core/error.h"
#include "train/trace.h"

namespace llmtrain {
namespace {

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string number(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

Every make_every(const std::string& strategy, double value, int64_t total_steps) {
  if (strategy == "epoch") return {Every::epochs, 0};
  if (strategy == "steps") return {Every::steps, std::max<int64_t>(1, steps_of(value, total_steps))};
  return {};
}

Trainer::Trainer(TrainerParts parts, StepPlan plan, Schedule schedule)
    : parts_(std::move(parts)), plan_(plan), schedule_(std::move(schedule)), stragglers_(parts_.engine.communicator().size()) {
  const Config& c = parts_.config;
  logging_ = make_every(c.logging_strategy, c.logging_steps, plan_.total_steps());
  evaluating_ = make_every(c.eval_strategy, c.evaluation_steps(), plan_.total_steps());
  evaluating_.delay = c.eval_delay;
  if (parts_.save_checkpoint) saving_ = make_every(c.save_strategy, c.save_steps, plan_.total_steps());
  begun_ = logged_at_ = now_seconds();
}

double Trainer::elapsed() const { return elapsed_before_ + now_seconds() - begun_; }

// What the next run needs to go on as if nothing had happened. The loss that has not been logged yet is kept rank by rank: added up in another grouping it
// would round differently.
Json Trainer::state() {
  Communicator& communicator = parts_.engine.communicator();
  std::vector<double> losses(static_cast<size_t>(communicator.size()));
  communicator.all_gather(&loss_sum_, losses.data(), sizeof loss_sum_);
  Json sums = Json::array();
  for (const double loss : losses) sums.push_back(exact_number(loss));
  return {{"loss_sums", sums},          {"unreduced_steps", unreduced_steps_},     {"total_loss", exact_number(total_loss_)}, {"tokens", tokens_},     {"padded_tokens", padded_tokens_},
          {"skipped_in_a_row", skipped_in_a_row_}, {"skipped", skipped_}, {"evaluated_at", evaluated_at_},   {"elapsed_seconds", elapsed()},
          {"evaluation_due", evaluation_due_}, {"optimizer_steps", parts_.engine.optimizer().steps_done()}};
}

void Trainer::restore(int64_t step, const Json& state) {
  const std::string where = "checkpoint: its trainer state";
  constexpr int64_t kMostTokens = int64_t{1} << 62;
  constexpr double kMostSeconds = 1e11;  // three thousand years
  try {
    std::vector<double> losses;
    if (!state.at("loss_sums").is_array()) throw InputError(where, "\"loss_sums\" is not a list");
    for (const Json& loss : state.at("loss_sums")) losses.push_back(from_exact(loss, where));
    const auto rank = static_cast<size_t>(parts_.engine.communicator().rank());
    loss_sum_ = 0;
    if (losses.size() == static_cast<size_t>(parts_.engine.communicator().size())) {
      loss_sum_ = losses[rank];
    } else if (rank == 0) {  // another number of ranks: their sum, once
      for (const double loss : losses) loss_sum_ += loss;
    }
    unreduced_steps_ = whole_number(state, "unreduced_steps", 0, step, where);
    total_loss_ = from_exact(state.at("total_loss"), where);
    tokens_ = tokens_logged_ = whole_number(state, "tokens", 0, kMostTokens, where);
    padded_tokens_ = state.contains("padded_tokens") ? whole_number(state, "padded_tokens", 0, kMostTokens, where) : tokens_;  // earlier versions did not count them
    skipped_in_a_row_ = whole_number(state, "skipped_in_a_row", 0, kMaxSkippedSteps - 1, where);
    skipped_ = whole_number(state, "skipped", 0, step, where);
    evaluated_at_ = whole_number(state, "evaluated_at", -1, step, where);
    elapsed_before_ = state.at("elapsed_seconds").get<double>();
    evaluation_due_ = state.contains("evaluation_due") && state["evaluation_due"].get<bool>();  // an earlier version did not write it
  } catch (const nlohmann::json::exception& e) {
    throw InputError("checkpoint", std::string("its trainer state cannot be read: ") + e.what());
  }
  if (!(elapsed_before_ >= 0 && elapsed_before_ <= kMostSeconds)) throw InputError(where, "\"elapsed_seconds\" is out of range: " + dump_json(Json(elapsed_before_)));
  done_ = saved_at_ = step;
}

// What the ranks tell each other at the end of each step: whether to stop (one answer on all: a signal may have reached only some, and clocks differ),
// and what each did, which every rank judges alike.
bool Trainer::meet(int64_t step, RankWork own) {
  struct Word {
    double asked;
    RankWork work;
  };
  Communicator& communicator = parts_.engine.communicator();
  const Word mine{parts_.stop && parts_.stop->requested() ? 1.0 : 0.0, own};
  std::vector<Word> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(&mine, all.data(), sizeof mine);
  std::vector<RankWork> work;
  for (const Word& word : all) work.push_back(word.work);
  if (const auto straggler = stragglers_.add(work)) say_straggler(step, *straggler);
  return std::any_of(all.begin(), all.end(), [](const Word& word) { return word.asked > 0; });
}

// Collective: the host is known to the rank alone.
void Trainer::say_straggler(int64_t step, const Straggler& straggler) {
  Communicator& communicator = parts_.engine.communicator();
  const std::string host = broadcast_string(communicator, parts_.host, straggler.rank);
  parts_.log.warn("step " + std::to_string(step) + ": rank " + std::to_string(straggler.rank) + " on " + host + " is a straggler: it computes for " + number("%.1f", straggler.factor) +
                  " times as long as the other ranks, which wait for it (median of " + std::to_string(StragglerDetector::kWindow) + " steps)");
}

TrainSummary Trainer::train() {
  begun_ = logged_at_ = now_seconds();
  parts_.engine.reset_times();
  const int64_t first = done_ + 1;
  if (done_ == 0 && parts_.config.eval_on_start) evaluation_due_ = true;
  if (evaluation_due_) aside([&] { stopped_ = !evaluate_at(done_); });
  for (int64_t step = first; step <= plan_.total_steps() && !stopped_; ++step) {
    if (parts_.watchdog) parts_.watchdog->progress("training", step);
    if (parts_.trace) parts_.trace->step(step);
    const StepOutcome outcome = one_step(step);
    done_ = step;
    if (step == first && parts_.begun_well) parts_.begun_well();
    if (logging_.at(step, plan_) || (step == 1 && parts_.config.logging_first_step)) {
      log_step(step, outcome);
    } else {
      show(step);
    }
    if (evaluating_.at(step, plan_)) aside([&] { evaluate_at(step); });
    stopped_ = meet(step, outcome.own) && step < plan_.total_steps();
    if (parts_.save_checkpoint && (stopped_ || saving_.at(step, plan_))) aside([&] { save(step); });
    if (parts_.between_steps) {
      const WatchdogPause pause(parts_.watchdog, "saving");
      parts_.between_steps();
    }
  }
  if (!stopped_) reduce_losses();
  if (parts_.progress) parts_.progress->finish();
  if (skipped_ > 0) parts_.log.warn(std::to_string(skipped_) + " step(s) were skipped because their gradient was not finite");
  TrainSummary summary;
  summary.step = done_;
  summary.epoch = plan_.epochs_after(done_);
  const int64_t trained = done_ - skipped_;
  summary.train_loss = trained > 0 ? total_loss_ / static_cast<double>(trained) : std::numeric_limits<double>::quiet_NaN();
  summary.seconds = elapsed();
  summary.tokens = tokens_;
  summary.input_tokens = input_tokens();
  summary.rows = static_cast<int64_t>(std::llround(summary.epoch * static_cast<double>(parts_.rows->size())));
  return summary;
}

// Runs what is not training: its time counts neither in tokens per second nor as exposed communication.
template <class Work>
void Trainer::aside(Work&& work) {
  const Engine::Times before = parts_.engine.times();
  exposed_ += before.exposed_gather + before.exposed_reduce;
  const double begin = now_seconds();
  work();
  logged_at_ += now_seconds() - begin;
  parts_.engine.reset_times();
}

Trainer::StepOutcome Trainer::one_step(int64_t step) {
  const RowSet& rows = *parts_.rows;
  const Sampler& sampler = *parts_.sampler;
  const uint64_t epoch = plan_.epoch_of(step), in_epoch = plan_.step_in_epoch(step);
  int64_t labels = 0;
  for (const size_t row : sampler.rows_of_step(epoch, in_epoch)) {
    labels += rows.labels(row);
    tokens_ += rows.length(row);
  }
  if (parts_.config.include_num_input_tokens_seen == "all") padded_tokens_ += padded_tokens_of(epoch, in_epoch);
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, labels));

  double token_losses = 0;
  int64_t own_labels = 0;
  StepOutcome outcome;
  const double begin = now_seconds();
  const Engine::Times before = parts_.engine.times();
  for (int64_t micro = 0; micro < sampler.micro_steps(in_epoch); ++micro) {
    const std::vector<size_t> mine = sampler.rows_of(epoch, in_epoch, micro, parts_.engine.communicator().rank());
    batch_.clear();
    rows.append(batch_, mine);
    for (const size_t row : mine) {
      own_labels += rows.labels(row);
      outcome.own.tokens += static_cast<double>(rows.length(row));
    }
    token_losses += parts_.engine.forward_backward(batch_, scale);
  }
  const Engine::Times after = parts_.engine.times();
  outcome.own.seconds = now_seconds() - begin - (after.exposed_gather + after.exposed_reduce - before.exposed_gather - before.exposed_reduce);
  outcome.rate = schedule_.rate(step);
  const AdamW::Result result = parts_.engine.update(outcome.rate);
  outcome.grad_norm = result.grad_norm;
  ++timed_steps_;
  shown_loss_ = own_labels > 0 ? token_losses / static_cast<double>(own_labels) : shown_loss_;
  if (result.applied) {
    skipped_in_a_row_ = 0;
    loss_sum_ += token_losses * scale;
    ++unreduced_steps_;
  } else {
    skip(step, result);
  }
  return outcome;
}

// What the batches of a step would have with the padding that LLaMA-Factory gives them: to the longest row, and beyond stage pt to a multiple of 8.
int64_t Trainer::padded_tokens_of(uint64_t epoch, uint64_t in_epoch) const {
  const Sampler& sampler = *parts_.sampler;
  const int64_t multiple = parts_.config.stage == "pt" ? 1 : 8;
  int64_t sum = 0;
  for (int64_t micro = 0; micro < sampler.micro_steps(in_epoch); ++micro) {
    for (int rank = 0; rank < parts_.engine.communicator().size(); ++rank) {
      int64_t longest = 0;
      const std::vector<size_t> rows = sampler.rows_of(epoch, in_epoch, micro, rank);
      for (const size_t row : rows) longest = std::max(longest, static_cast<int64_t>(parts_.rows->store().padded_tokens(row)));
      sum += (longest + multiple - 1) / multiple * multiple * static_cast<int64_t>(rows.size());
    }
  }
  return sum;
}

std::optional<int64_t> Trainer::input_tokens() const {
  const std::string& how = parts_.config.include_num_input_tokens_seen;
  if (how == "no") return std::nullopt;
  return how == "all" ? padded_tokens_ : tokens_;
}

// Every rank holds the same result, so all skip, and all stop.
void Trainer::skip(int64_t step, const AdamW::Result& result) {
  ++skipped_;
  const std::string what = "step " + std::to_string(step) + ": the gradient is not finite (found first in " + result.origin + ")";
  if (++skipped_in_a_row_ >= kMaxSkippedSteps)
    throw FailureOfAll(what + ", " + std::to_string(skipped_in_a_row_) +
                       " steps in a row; the run ends. A lower learning_rate, a longer warm-up or a look at the data may help.");
  parts_.log.warn(what + "; the step is skipped, weights stay as they are");
}

// The mean loss of the steps since the last reduction, over all ranks. Skipped steps do not count: nothing was learned in them, and a loss that is no number
// would hide all others. NaN where none is left.
double Trainer::reduce_losses() {
  if (unreduced_steps_ == 0) return std::numeric_limits<double>::quiet_NaN();
  parts_.engine.communicator().all_reduce_sum(&loss_sum_, 1);
  const double mean = loss_sum_ / static_cast<double>(unreduced_steps_);
  total_loss_ += loss_sum_;
  loss_sum_ = 0;
  unreduced_steps_ = 0;
  return mean;
}

void Trainer::log_step(int64_t step, const StepOutcome& outcome) {
  const int64_t steps = std::max<int64_t>(1, timed_steps_);
  timed_steps_ = 0;
  const double loss = reduce_losses();
  const Engine::Times times = parts_.engine.times();
  parts_.engine.reset_times();
  double exposed = (exposed_ + times.exposed_gather + times.exposed_reduce) / static_cast<double>(steps);
  exposed_ = 0;
  parts_.engine.communicator().all_reduce_max(&exposed, 1);
  const double now = now_seconds();
  tokens_per_second_ = static_cast<double>(tokens_ - tokens_logged_) / std::max(1e-9, now - logged_at_);
  logged_at_ = now;
  tokens_logged_ = tokens_;
  shown_loss_ = loss;
  if (parts_.run_log) {
    StepRecord record;
    record.step = step;
    record.epoch = plan_.epochs_after(step);
    record.loss = loss;
    record.grad_norm = outcome.grad_norm;
    record.learning_rate = outcome.rate;
    record.elapsed_seconds = elapsed();
    record.tokens = tokens_;
    record.input_tokens = input_tokens();
    parts_.run_log->step(record);
  }
  if (parts_.progress) {
    parts_.progress->line(progress_state(step), "grad_norm " + number("%.3g", outcome.grad_norm) + "  lr " + number("%.3g", outcome.rate) +
                                                    "  exposed communication " + number("%.1f", 1e3 * exposed) + " ms a step");
  }
}

Progress::State Trainer::progress_state(int64_t step) const {
  Progress::State state;
  state.step = step;
  state.epoch = plan_.epochs_after(step);
  state.loss = shown_loss_;
  state.elapsed_seconds = elapsed();
  state.tokens_per_second = tokens_per_second_ > 0 ? tokens_per_second_ : static_cast<double>(tokens_) / std::max(1e-9, state.elapsed_seconds);
  state.remaining_seconds = state.elapsed_seconds / static_cast<double>(std::max<int64_t>(1, step)) * static_cast<double>(plan_.total_steps() - step);
  return state;
}

void Trainer::show(int64_t step) {
  if (parts_.progress) parts_.progress->update(progress_state(step));
}

void Trainer::save(int64_t step) {
  const Json now = state();
  const WatchdogPause pause(parts_.watchdog, "saving");  // a slow disk is nobody's fault
  parts_.save_checkpoint(step, now);
  saved_at_ = step;
}

// One answer on all ranks. Collective.
bool Trainer::asked_to_stop() {
  Communicator& communicator = parts_.engine.communicator();
  const char mine = parts_.stop && parts_.stop->requested() ? 1 : 0;
  std::vector<char> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(&mine, all.data(), 1);
  return std::any_of(all.begin(), all.end(), [](char c) { return c != 0; });
}

// At `step`, unless that was done already. It may take longer than the time that is left after a request to stop: false where it was interrupted.
bool Trainer::evaluate_at(int64_t step) {
  evaluation_due_ = false;
  if (!parts_.evaluator || evaluated_at_ == step) return true;
  if (parts_.watchdog) parts_.watchdog->progress("evaluation", step);
  const bool bar = parts_.progress && parts_.progress->draws_bar();
  const bool done = parts_.evaluator->run(step, plan_.epochs_after(step), elapsed(), !bar || step == plan_.total_steps(), [this] { return asked_to_stop(); });
  if (done) evaluated_at_ = step;
  evaluation_due_ = !done;
  return done;
}

bool Trainer::evaluate_last() {
  if (evaluate_at(done_)) return true;
  stopped_ = true;
  if (parts_.save_checkpoint && saved_at_ != done_) save(done_);
  return false;
}

}  // namespace llmtrain
