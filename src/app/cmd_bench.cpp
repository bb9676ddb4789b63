// llmtrain bench: training steps on random tokens and random weights.
#include <boost/program_options/value_semantic.hpp>
#include <cstdint>
#include <string>

#include "app/commands.h"
#include "app/help.h"
#include "app/ranks.h"
#include "core/error.h"
#include "train/bench.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

BenchOptions options_of(const CommandLine& line) {
  BenchOptions o;
  if (line.words().size() != 1) throw InputError("llmtrain bench", "names no MODEL", "llmtrain bench MODEL, a folder with config.json");
  o.model = line.words()[0];
  o.sequence = line.get<int64_t>("seq");
  o.micro_batch = line.get<int64_t>("micro-batch");
  o.accumulate = line.get<int64_t>("accumulate");
  o.steps = line.get<int64_t>("steps");
  o.warmup = line.get<int64_t>("warmup");
  o.seconds = line.get<double>("seconds");
  o.float32 = line.has("float32");
  o.breakdown = line.has("breakdown");
  o.recompute = parse_recompute(line.get<std::string>("recompute"), "--recompute");
  o.overlap = parse_overlap(line.get<std::string>("overlap"), "--overlap");
  o.seed = line.get<uint64_t>("seed");
  const auto depth = line.get<int64_t>("prefetch-depth"), per_node = line.get<int64_t>("ranks-per-node");
  if (depth < 1 || depth > 64) throw InputError("--prefetch-depth", "must be from 1 to 64", "");
  if (per_node < 0 || per_node > (1 << 20)) throw InputError("--ranks-per-node", "must be from 0 to 1048576", "");
  o.prefetch_depth = static_cast<int>(depth);
  o.nodes.ranks_per_node = static_cast<int>(per_node);
  o.device = line.get<std::string>("device");
  if (o.device != "auto" && o.device != "cpu" && o.device != "cuda") throw InputError("--device", "'" + o.device + "' is unknown", "choose auto, cpu or cuda");
  o.communicator = line.get<std::string>("communicator");
  o.deterministic = line.has("deterministic");
  o.states = parse_states(line.get<std::string>("states"), o.float32 ? DType::float32 : DType::bfloat16, "--states");
  return o;
}

}  // namespace

int command_bench(const std::vector<std::string>& args, App& app) {
  CommandLine line("bench", "MODEL [--seq S] [--micro-batch B] [--steps N] [options]",
                   "Trains MODEL (a folder with config.json; nothing else is read) for a few steps on random tokens and random weights, and reports\n"
                   "tokens per second over all ranks (median step after the warm-up) and the largest resident set of a rank. bfloat16 compute,\n"
                   "float32 reduction, AdamW, clipping at 1.0, ZeRO-3. Start it with mpirun for several ranks.");
  // clang-format off: one option a line
  line.options.add_options()
      ("seq", po::value<int64_t>()->default_value(512), "tokens of a row")
      ("micro-batch", po::value<int64_t>()->default_value(1), "rows of a rank's micro-batch")
      ("steps", po::value<int64_t>()->default_value(12), "optimizer steps, the warm-up included")
      ("warmup", po::value<int64_t>()->default_value(3), "first steps that are not measured")
      ("seconds", po::value<double>()->default_value(0), "begin no step that would end later than so long after the start (one is measured all the same); 0: all steps")
      ("accumulate", po::value<int64_t>()->default_value(1), "micro-batches of a step")
      ("device", po::value<std::string>()->default_value("auto"), "auto, cpu or cuda")
      ("communicator", po::value<std::string>()->default_value("auto"), "auto, mpi, shared, nccl or staged")
      ("deterministic", "GPUs: bitwise equal results from run to run")
      ("states", po::value<std::string>()->default_value("float32"), "float32, mixed or bfloat16")
      ("recompute", po::value<std::string>()->default_value("auto"), "none, cheap, full; auto: cheap, or full where memory asks for it")
      ("overlap", po::value<std::string>()->default_value("auto"), "communicate while computing: auto, on or off")
      ("prefetch-depth", po::value<int64_t>()->default_value(1), "units gathered ahead")
      ("ranks-per-node", po::value<int64_t>()->default_value(0), "for tests: so many ranks count as a node")
      ("seed", po::value<uint64_t>()->default_value(7), "of tokens and weights")
      ("float32", "compute in float32")
      ("breakdown", "a table of where a step's time goes")
      ("json", "one JSON object on one line");
  // clang-format on
  line.take_words("MODEL", 1);
  if (!line.parse(args, app)) return kExitDone;
  return run_on_ranks(app, [&](MpiRuntime& mpi, RankGroup& group) {
    BenchOptions options;
    run_on_all_or_fail(group, [&] { options = options_of(line); });
    const BenchResult result = run_bench(mpi, group, options, app.log);
    std::string table;
    for (const std::string& text : result.breakdown) table += text + "\n";
    if (line.has("json")) {
      if (!table.empty()) app.log.info(table.substr(0, table.size() - 1));
      app.print(bench_json(result) + "\n");
    } else {
      app.print(table + bench_text(result) + "\n");
    }
    return int{kExitDone};
  });
}

}  // namespace llmtrain
