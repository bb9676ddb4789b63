// llmtrain train: a whole training run; do_train: false with do_eval: true only evaluates.
#include <algorithm>
#include <boost/program_options/value_semantic.hpp>
#include <exception>
#include <optional>
#include <string>

#include "app/commands.h"
#include "app/config_check.h"
#include "app/help.h"
#include "app/ranks.h"
#include "app/version.h"
#include "comm/watchdog.h"
#include "core/error.h"
#include "core/json.h"
#include "train/run.h"
#include "train/stop_request.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

// Where a value came from (file names may differ between nodes) stands in comments.
std::string without_comments(const std::string& yaml) {
  std::string out;
  for (size_t at = 0; at < yaml.size();) {
    const size_t end = std::min(yaml.find('\n', at), yaml.size());
    const std::string line = yaml.substr(at, end - at);
    out += line.substr(0, line.find("  #")) + "\n";
    at = end + 1;
  }
  return out;
}

// Ranks that read different files (a stale copy on one node) would wait for each other for ever, or train different runs. Collective.
void check_same_configuration(RankGroup& group, const Config& config) {
  const std::string mine = without_comments(resolved_yaml(config)), first = broadcast_string(group, mine, 0);
  run_on_all_or_fail(group, [&] {
    if (mine == first) return;
    const auto at = std::mismatch(mine.begin(), mine.end(), first.begin(), first.end()).first;
    const size_t begin = mine.rfind('\n', static_cast<size_t>(at - mine.begin())) + 1;
    throw InputError("configuration", "this rank reads another one than rank 0; it says: " + mine.substr(begin, mine.find('\n', begin) - begin),
                     "give every node the same file");
  });
}

// MPI's own start and end take seconds on a busy machine, whatever a person thinks of a training step.
constexpr double kLeastPatienceSeconds = 20;

struct Reset {
  std::optional<Watchdog>& watchdog;
  ~Reset() { watchdog.reset(); }
};

}  // namespace

int command_train(const std::vector<std::string>& args, App& app) {
  CommandLine line("train", "--config F [key=value…]",
                   "Trains as the configuration says: LLaMA-Factory's YAML, with key=value words that override it. mpirun -np N llmtrain --config F\n"
                   "trains on N ranks under ZeRO-3. The model, logs and results are written into output_dir.");
  line.options.add_options()("config", po::value<std::string>(), "the YAML file")("max-hours", po::value<double>(), "stop with a checkpoint after so many hours (the key max_hours)")(
      "trace", po::value<std::string>(), "a file for a trace of all ranks' training steps: computing, gathers, reductions, waits (Perfetto, chrome://tracing)");
  line.take_words("key=value", -1);
  line.set_epilog(keys_help());
  if (!line.parse(args, app)) return kExitDone;
  // Read before MPI starts: how long to wait for the other ranks is said there, and a signal may come at any time.
  CheckedConfig checked;
  std::exception_ptr fault;
  try {
    if (!line.has("config")) throw InputError("llmtrain train", "--config is missing", "name the YAML file: llmtrain train --config F");
    std::vector<std::string> words = line.words();
    if (line.has("max-hours")) words.push_back("max_hours=" + dump_json(line.get<double>("max-hours")));
    checked = check_configuration(line.get<std::string>("config"), words);
  } catch (...) {
    fault = std::current_exception();
  }
  const StopRequest stop(fault ? std::nullopt : checked.config.max_hours);
  std::optional<Watchdog> watchdog;
  RanksOptions options;
  if (!fault) options.patience_seconds = std::max(kLeastPatienceSeconds, checked.config.hang_timeout);
  options.prepare = [&](MpiRuntime& mpi, RankGroup& group) {
    run_on_all_or_fail(group, [&] {  // before anything collective that a rank with a fault would not take part in
      if (fault) std::rethrow_exception(fault);
    });
    if (group.size() == 1) return;
    watchdog.emplace(WatchdogOptions{checked.config.hang_timeout, checked.config.output_dir + "/dumps", mpi.host()}, group, flight_recorder_of(group));
  };
  const auto work = [&](MpiRuntime& mpi, RankGroup& group) {
    const Reset reset{watchdog};  // before the group goes
    RunRequest request;
    run_on_all_or_fail(group, [&] {
      if (checked.deepspeed) resolve_batch(checked.config, *checked.deepspeed, group.size());
      request.config = std::move(checked.config);
      request.notes = std::move(checked.notes);
    });
    check_same_configuration(group, request.config);
    if (group.rank() == 0) request.version = version_block();
    if (line.has("trace")) request.trace = line.get<std::string>("trace");
    request.stop = &stop;
    request.watchdog = watchdog ? &*watchdog : nullptr;
    return run_training(mpi, group, request, app.log);
  };
  return run_on_ranks(app, work, options);
}

}  // namespace llmtrain
