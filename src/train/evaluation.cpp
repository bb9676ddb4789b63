// The mean of evaluation.h, batch by batch.
#include "train/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <numeric>
#include <vector>

namespace llmtrain {
namespace {

// The rows of batch b.
std::vector<size_t> rows_of(int64_t b, int64_t batch_rows, int64_t rows) {
  std::vector<size_t> result(static_cast<size_t>(std::min((b + 1) * batch_rows, rows) - b * batch_rows));
  std::iota(result.begin(), result.end(), static_cast<size_t>(b * batch_rows));
  return result;
}

}  // namespace

EvalResult evaluate(Engine& engine, const RowSet& rows, int64_t batch_rows) {
  Communicator& communicator = engine.communicator();
  const int rank = communicator.rank(), ranks = communicator.size();
  EvalResult result;
  result.rows = rows.size();
  result.batches = (rows.size() + batch_rows - 1) / batch_rows;
  std::vector<double> sums(static_cast<size_t>(result.batches), 0.0);  // this rank's batches; the others stay 0
  Batch batch;
  const int64_t rounds = (result.batches + ranks - 1) / ranks;
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t b = round * ranks + rank;
    batch.clear();
    if (b < result.batches) rows.append(batch, rows_of(b, batch_rows, rows.size()));
    const double loss = engine.transformer().forward_loss(batch);  // without rows too: every rank takes part in the gathers
    if (b < result.batches) sums[static_cast<size_t>(b)] = loss;
  }
  communicator.all_reduce_sum(sums.data(), static_cast<int>(sums.size()));
  double total = 0;
  int64_t counted = 0;
  for (int64_t b = 0; b < result.batches; ++b) {
    const std::vector<size_t> members = rows_of(b, batch_rows, rows.size());
    const auto count = static_cast<int64_t>(members.size());
    int64_t labels = 0;
    for (const size_t row : members) labels += rows.labels(row);
    if (labels == 0) {
      result.rows_without_labels += count;
      continue;
    }
    total += sums[static_cast<size_t>(b)] / static_cast<double>(labels);
    ++counted;
  }
  result.loss = counted > 0 ? total / static_cast<double>(counted) : std::numeric_limits<double>::quiet_NaN();
  return result;
}

Evaluator::Evaluator(Engine& engine, std::vector<EvalRows> sets, int64_t batch_rows, Log& log, RunLog* run_log)
    : engine_(engine), sets_(std::move(sets)), batch_rows_(batch_rows), log_(log), run_log_(run_log) {}

void Evaluator::run(int64_t step, double epoch, double elapsed_seconds, bool say) {
  using Clock = std::chrono::steady_clock;
  for (const EvalRows& set : sets_) {
    const Clock::time_point begin = Clock::now();
    const EvalResult result = evaluate(engine_, set.rows, batch_rows_);
    EvalRecord record;
    record.prefix = set.prefix;
    record.step = step;
    record.epoch = epoch;
    record.loss = result.loss;
    record.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    record.rows = result.rows;
    record.batches = result.batches;
    record.elapsed_seconds = elapsed_seconds + record.seconds;
    if (run_log_) run_log_->evaluation(record);
    if (result.rows_without_labels > 0)
      log_.warn_once(set.prefix + ": " + std::to_string(result.rows_without_labels) + " row(s) lie in batches without any label and do not count in the loss");
    if (!say) continue;
    char text[160];
    std::snprintf(text, sizeof text, "step %lld  %s_loss %.4f  (%lld rows, %.1f s)", static_cast<long long>(step), set.prefix.substr(0, 80).c_str(), record.loss,
                  static_cast<long long>(record.rows), record.seconds);
    log_.info(text);
  }
}

}  // namespace llmtrain
