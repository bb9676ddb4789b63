// Training steps on random tokens and random weights: what `llmtrain bench` measures. Every token is trained; AdamW with learning rate 1e-4 and weight
// decay 0.1, clipping at 1.0, ZeRO-3, float32 reduction.
// Collective: every rank calls run_bench().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/context.h"
#include "train/engine.h"

namespace llmtrain {

struct BenchOptions {
  std::string model;  // folder with config.json, or a config.json
  int64_t sequence = 512, micro_batch = 1, accumulate = 1;
  int64_t steps = 12, warmup = 3;
  double seconds = 0;  // no further step once so much time is spent, the start included, and one step is measured; 0: no limit
  bool float32 = false;  // compute in float32, else bfloat16
  StateTypes states;
  std::string device = "auto", communicator = "auto";
  bool deterministic = false;
  std::optional<Recompute> recompute;
  std::optional<bool> overlap;
  int prefetch_depth = 1;
  NodeOptions nodes;
  uint64_t seed = 7;
  bool breakdown = false;
};

struct BenchResult {
  int64_t parameters = 0;
  int world = 1;
  double seconds_per_step = 0;    // median after the warm-up, of the slowest rank
  double fastest_step = 0, slowest_step = 0;  // of those steps
  int64_t measured_steps = 0;
  double tokens_per_second = 0;   // all ranks
  double seconds_optimizer = 0;   // of it: the optimizer's step, median, slowest rank
  double peak_rss_mib = 0;        // largest rank
  double planned_device_mib = 0, peak_device_mib = 0;  // on a GPU: as planned before step 0; as its driver counted them, largest rank
  std::vector<double> losses;     // a step, mean over all tokens
  std::vector<std::string> breakdown;  // lines of a table, rank 0's view
  std::string device, compute, states, recompute;
  bool overlap = false;
  int threads = 1;
};

BenchResult run_bench(MpiRuntime& mpi, RankGroup& group, const BenchOptions& options, Log& log);
// One line.
std::string bench_json(const BenchResult& result);
std::string bench_text(const BenchResult& result);

}  // namespace llmtrain
