// The benchmark of bench.h.
#include "train/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "core/json.h"
#include "core/philox.h"

namespace llmtrain {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kLearningRate = 1e-4, kWeightDecay = 0.1, kMaxGradNorm = 1.0;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

Batch random_batch(const BenchOptions& o, int64_t vocabulary, int rank, int64_t step, int64_t micro_step) {
  Batch batch;
  batch.clear();
  std::vector<int32_t> ids(static_cast<size_t>(o.sequence));
  for (int64_t row = 0; row < o.micro_batch; ++row) {
    for (size_t i = 0; i < ids.size(); ++i) {
      const PhiloxCounter bits = philox({static_cast<uint32_t>(i), static_cast<uint32_t>(row), static_cast<uint32_t>(step * o.accumulate + micro_step), 0},
                                        {static_cast<uint32_t>(o.seed), static_cast<uint32_t>(rank)});
      ids[i] = static_cast<int32_t>(bits[0] % static_cast<uint64_t>(vocabulary));
    }
    batch.add_row(ids, ids, {}, true);
  }
  batch.rope_length = o.sequence;
  return batch;
}

void check(const BenchOptions& o, const ModelConfig& model) {
  const auto positive = [](const char* name, int64_t value) {
    if (value < 1) throw InputError(name, "must be at least 1", "");
  };
  positive("--seq", o.sequence);
  positive("--micro-batch", o.micro_batch);
  positive("--accumulate", o.accumulate);
  positive("--steps", o.steps);
  if (!(o.seconds >= 0)) throw InputError("--seconds", "must be 0 or more", "");
  if (o.warmup < 0 || o.warmup >= o.steps) throw InputError("--warmup", "must be from 0 to --steps - 1", "");
  if (o.sequence > model.max_position_embeddings && model.max_position_embeddings > 0)
    throw InputError("--seq", std::to_string(o.sequence) + " exceeds the model's max_position_embeddings " + std::to_string(model.max_position_embeddings), "use a shorter --seq");
  if (o.sequence * o.micro_batch > (int64_t{1} << 30)) throw InputError("--seq", "times --micro-batch exceeds 2^30 tokens", "");
}

EngineOptions engine_options(const BenchOptions& o) {
  EngineOptions e;
  e.compute = o.float32 ? DType::float32 : DType::bfloat16;
  e.prefetch_depth = o.prefetch_depth;
  e.overlap = o.overlap;
  e.recompute = o.recompute;
  e.nodes = o.nodes;
  e.max_tokens = o.sequence * o.micro_batch;
  e.longest_sequence = e.max_positions = o.sequence;
  e.time_kernels = o.breakdown;
  e.device = o.device;
  e.communicator = o.communicator;
  e.device_where = "--device";
  e.communicator_where = "--communicator";
  e.deterministic = o.deterministic;
  e.adamw.states = o.states;
  e.adamw.seed = o.seed;
  e.adamw.weight_decay = kWeightDecay;
  e.adamw.max_grad_norm = kMaxGradNorm;
  return e;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::string row(const std::string& name, double milliseconds, double share, int64_t calls) {
  char text[160];
  std::snprintf(text, sizeof text, "%-40s %9.2f ms %6.1f %% %8lld calls", name.c_str(), milliseconds, 100 * share, static_cast<long long>(calls));
  return text;
}

// Where the time of the measured steps went, a step: operations by name, waiting for communication, and the rest.
std::vector<std::string> breakdown_lines(const Engine::Times& times, double seconds, int64_t steps) {
  std::vector<std::pair<std::string, KernelTime>> sorted(times.kernels.begin(), times.kernels.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  const auto per_step = [&](double s) { return 1e3 * s / static_cast<double>(steps); };
  std::vector<std::string> lines{"phase, a step of rank 0"};
  double known = 0;
  for (const auto& [name, time] : sorted) {
    lines.push_back(row(name, per_step(time.seconds), time.seconds / seconds, time.calls / steps));
    known += time.seconds;
  }
  lines.push_back(row("waiting for gathers", per_step(times.exposed_gather), times.exposed_gather / seconds, times.gathers / steps));
  lines.push_back(row("waiting for reductions", per_step(times.exposed_reduce), times.exposed_reduce / seconds, times.reductions / steps));
  known += times.exposed_gather + times.exposed_reduce;
  lines.push_back(row("rest", per_step(seconds - known), (seconds - known) / seconds, 1));
  lines.push_back(row("step", per_step(seconds), 1.0, 1));
  return lines;
}

}  // namespace

BenchResult run_bench(MpiRuntime& mpi, RankGroup& group, const BenchOptions& options, Log& log) {
  const Clock::time_point start = Clock::now();
  ModelConfig model;
  run_on_all_or_fail(group, [&] {
    model = load_model_config(options.model);
    check(options, model);
  });
  Engine engine(mpi, group, model, engine_options(options), log);
  engine.random_weights(options.seed);
  if (options.breakdown) engine.spans();  // operations are measured from here on

  BenchResult result;
  const double tokens_a_step = static_cast<double>(options.sequence * options.micro_batch * options.accumulate) * group.size();
  std::vector<double> seconds, optimizer_seconds;
  double measured = 0;
  for (int64_t step = 0; step < options.steps; ++step) {
    if (step == options.warmup) engine.reset_times();
    group.barrier();
    const Clock::time_point begin = Clock::now();
    double loss = 0;
    // The mean over predicted tokens, as the peers take it: the last token of a row predicts nothing.
    const double trained = static_cast<double>((options.sequence - 1) * options.micro_batch * options.accumulate) * group.size();
    for (int64_t micro = 0; micro < options.accumulate; ++micro)
      loss += engine.forward_backward(random_batch(options, model.vocab_size, group.rank(), step, micro), 1.0 / trained);
    engine.compute_stream().synchronize();
    const Clock::time_point update_begin = Clock::now();
    engine.update(kLearningRate);
    engine.compute_stream().synchronize();
    const double update_seconds = seconds_since(update_begin);
    group.barrier();
    double values[2] = {seconds_since(begin), update_seconds};
    if (step >= options.warmup) measured += values[0];
    engine.communicator().all_reduce_max(values, 2);
    if (step >= options.warmup) {
      seconds.push_back(values[0]);
      optimizer_seconds.push_back(values[1]);
    }
    engine.communicator().all_reduce_sum(&loss, 1);
    result.losses.push_back(std::round(loss / trained * 1e4) / 1e4);
    if (options.seconds > 0) {
      double when_next_ends = seconds_since(start) + values[0];
      engine.communicator().all_reduce_max(&when_next_ends, 1);  // all ranks stop at the same step
      if (!seconds.empty() && when_next_ends > options.seconds) break;
    }
  }
  if (options.breakdown) result.breakdown = breakdown_lines(engine.times(), measured, static_cast<int64_t>(seconds.size()));
  double peaks[2] = {static_cast<double>(peak_resident_bytes()), static_cast<double>(engine.device_bytes_used())};
  engine.communicator().all_reduce_max(peaks, 2);
  result.parameters = parameter_count(model);
  result.world = group.size();
  result.seconds_per_step = median(seconds);
  result.fastest_step = *std::min_element(seconds.begin(), seconds.end());
  result.slowest_step = *std::max_element(seconds.begin(), seconds.end());
  result.measured_steps = static_cast<int64_t>(seconds.size());
  result.tokens_per_second = tokens_a_step / result.seconds_per_step;
  result.seconds_optimizer = median(optimizer_seconds);
  result.peak_rss_mib = peaks[0] / (1 << 20);
  result.device = engine.device().kind() == DeviceKind::cuda ? "cuda" : "cpu";
  if (result.device == "cuda") {
    result.planned_device_mib = static_cast<double>(engine.planned_bytes()) / (1 << 20);
    result.peak_device_mib = peaks[1] / (1 << 20);
  }
  result.states = name_of(options.states);
  result.compute = options.float32 ? "float32" : "bfloat16";
  result.recompute = name_of(engine.recompute());
  result.overlap = engine.overlaps();
  result.threads = engine.threads();
  return result;
}

std::string bench_json(const BenchResult& r) {
  Json json;
  json["tokens_per_second"] = std::round(r.tokens_per_second * 10) / 10;
  json["seconds_per_step"] = std::round(r.seconds_per_step * 1e4) / 1e4;
  json["fastest_step"] = std::round(r.fastest_step * 1e4) / 1e4;
  json["slowest_step"] = std::round(r.slowest_step * 1e4) / 1e4;
  json["measured_steps"] = r.measured_steps;
  json["peak_rss_mib"] = static_cast<int64_t>(std::llround(r.peak_rss_mib));
  json["params"] = r.parameters;
  json["world"] = r.world;
  json["losses"] = r.losses;
  json["device"] = r.device;
  if (r.device == "cuda") {
    json["planned_device_mib"] = static_cast<int64_t>(std::llround(r.planned_device_mib));
    json["peak_device_mib"] = static_cast<int64_t>(std::llround(r.peak_device_mib));
  }
  json["seconds_optimizer"] = std::round(r.seconds_optimizer * 1e5) / 1e5;
  json["compute"] = r.compute;
  json["states"] = r.states;
  json["recompute"] = r.recompute;
  json["overlap"] = r.overlap;
  json["threads_per_rank"] = r.threads;
  return dump_json(json);
}

std::string bench_text(const BenchResult& r) {
  char text[400];
  std::snprintf(text, sizeof text,
                "%.1f tokens/s over %d rank(s), %.4f s a step, %.0f MiB peak of a rank, %.2f M parameters, %s, recompute %s, loss %.4f -> %.4f", r.tokens_per_second,
                r.world, r.seconds_per_step, r.peak_rss_mib, static_cast<double>(r.parameters) / 1e6, r.compute.c_str(), r.recompute.c_str(), r.losses.front(),
                r.losses.back());
  return text;
}

}  // namespace llmtrain
