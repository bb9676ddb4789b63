// llmtrain diagnose: names the laggard from the dumps that the watchdogs of a job wrote (comm/watchdog.h).
#include <boost/program_options/value_semantic.hpp>

#include <ctime>

#include "app/commands.h"
#include "app/help.h"
#include "core/printable.h"
#include "comm/diagnosis.h"
#include "core/error.h"

namespace llmtrain {
namespace {

Json json_of(const Diagnosis& d) {
  return {{"job", d.job}, {"time", d.time}, {"size", d.size}, {"guilty", d.guilty()}, {"stopped", d.stopped}, {"failed", d.failed}, {"error", d.error},
          {"without_dump", d.without_dump}, {"laggards", d.laggards}, {"collective", d.collective}};
}

// "job 17f3… at 2026-11-21 18:40:12, 1 of 2 ranks left a dump": only where there are several to tell apart.
std::string heading(const Diagnosis& d) {
  char time[32] = "an unknown time";
  const bool sensible = d.time > 0 && d.time < 1e11;  // up to the year 5138
  const auto seconds = static_cast<std::time_t>(sensible ? d.time : 0);
  std::tm parts{};
  if (sensible && ::localtime_r(&seconds, &parts)) std::strftime(time, sizeof time, "%Y-%m-%d %H:%M:%S", &parts);
  const size_t dumps = static_cast<size_t>(d.size) - d.without_dump.size();
  return "job " + (d.job.empty() ? "unknown" : d.job) + " at " + time + ", " + std::to_string(dumps) + " of " + std::to_string(d.size) + " ranks left a dump:\n";
}

}  // namespace

int command_diagnose(const std::vector<std::string>& args, App& app) {
  CommandLine line(
      "diagnose", "DUMP… [--json]",
      "Reads the dumps that the ranks of a hung job left (rank-*.json, or the folder that holds them) and names the rank that held the others up.\n"
      "Dumps of several jobs, or of several starts of one, are told apart: the newest comes first.");
  line.options.add_options()("json", "one JSON object on one line");
  line.take_words("DUMP", -1);
  if (!line.parse(args, app)) return kExitDone;
  if (line.words().empty()) throw InputError("llmtrain diagnose", "DUMP is missing", "name the dumps, or their folder: output_dir/dumps");
  const std::vector<Diagnosis> found = diagnose_all(read_dumps(line.words()));
  if (line.has("json")) {
    Json out = json_of(found.front());
    if (found.size() > 1) out["earlier"] = Json::array();
    for (size_t i = 1; i < found.size(); ++i) out["earlier"].push_back(json_of(found[i]));
    app.print(dump_json(out) + "\n");
    return kExitDone;
  }
  for (const Diagnosis& d : found) app.print(printable((found.size() > 1 ? heading(d) : "") + d.text(), true));
  return kExitDone;
}

}  // namespace llmtrain
