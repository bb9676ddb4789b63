// The mean of evaluation.h, batch by batch.
#include "train/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <numeric>
#include <utility>
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

std::optional<EvalResult> evaluate(Engine& engine, const RowSet& rows, const EvalWay& way, const Interrupted& interrupted) {
  Communicator& communicator = engine.communicator();
  const int rank = communicator.rank(), ranks = communicator.size();
  EvalResult result;
  result.batches = (rows.size() + (way.drop_last ? 0 : way.batch_rows - 1)) / way.batch_rows;
  result.rows = std::min(rows.size(), result.batches * way.batch_rows);
  std::vector<double> sums(static_cast<size_t>(result.batches), 0.0);  // this rank's batches; the others stay 0
  Batch batch;
  const int64_t rounds = (result.batches + ranks - 1) / ranks;
  for (int64_t round = 0; round < rounds; ++round) {
    if (interrupted && interrupted()) return std::nullopt;
    const int64_t b = round * ranks + rank;
    batch.clear();
    if (b < result.batches) rows.append(batch, rows_of(b, way.batch_rows, result.rows));
    const double loss = engine.transformer().forward_loss(batch);  // without rows too: every rank takes part in the gathers
    if (b < result.batches) sums[static_cast<size_t>(b)] = loss;
  }
  communicator.all_reduce_sum(sums.data(), static_cast<int>(sums.size()));
  double total = 0;
  int64_t counted = 0;
  for (int64_t b = 0; b < result.batches; ++b) {
    const std::vector<size_t> members = rows_of(b, way.batch_rows, result.rows);
    const auto count = static_cast<int64_t>(members.size());
    int64_t labels = 0;
    for (const size_t row : members) labels += rows.labels(row);
    if (labels == 0) {
      result.rows_without_labels += count;
      continue;
    }
    const int64_t weight = way.mean == EvalWay::over_rows ? count : 1;
    total += static_cast<double>(weight) * sums[static_cast<size_t>(b)] / static_cast<double>(labels);
    counted += weight;
  }
  result.loss = counted > 0 ? total / static_cast<double>(counted) : std::numeric_limits<double>::quiet_NaN();
  return result;
}

Evaluator::Evaluator(Engine& engine, std::vector<EvalRows> sets, const EvalWay& way, Log& log, RunLog* run_log)
    : engine_(engine), sets_(std::move(sets)), way_(way), log_(log), run_log_(run_log) {}

bool Evaluator::run(int64_t step, double epoch, double elapsed_seconds, bool say, const Interrupted& interrupted) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::pair<EvalRecord, EvalResult>> done;
  double before = elapsed_seconds;
  for (const EvalRows& set : sets_) {
    const Clock::time_point begin = Clock::now();
    const std::optional<EvalResult> result = evaluate(engine_, set.rows, way_, interrupted);
    if (!result) return false;
    EvalRecord record;
    record.prefix = set.prefix;
    record.step = step;
    record.epoch = epoch;
    record.loss = result->loss;
    record.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    record.rows = result->rows;
    record.batches = result->batches;
    record.elapsed_seconds = before += record.seconds;
    done.emplace_back(record, *result);
  }
  for (const auto& [entry, result] : done) record(entry, result, say);
  return true;
}

void Evaluator::record(const EvalRecord& record, const EvalResult& result, bool say) {
  if (run_log_) run_log_->evaluation(record);
  if (result.rows_without_labels > 0)
    log_.warn_once(record.prefix + ": " + std::to_string(result.rows_without_labels) + " row(s) lie in batches without any label and do not count in the loss");
  if (!say) return;
  char text[160];
  std::snprintf(text, sizeof text, "step %lld  %s_loss %.4f  (%lld rows, %.1f s)", static_cast<long long>(record.step), record.prefix.substr(0, 80).c_str(), record.loss,
                static_cast<long long>(record.rows), record.seconds);
  log_.info(text);
}

}  // namespace llmtrain
