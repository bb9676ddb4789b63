// llmtrain diagnose: names the laggard from the dumps that the watchdogs of a job wrote (comm/watchdog.h).
#include <boost/program_options/value_semantic.hpp>

#include "app/commands.h"
#include "app/help.h"
#include "comm/diagnosis.h"
#include "core/error.h"

namespace llmtrain {

int command_diagnose(const std::vector<std::string>& args, App& app) {
  CommandLine line(
      "diagnose", "DUMP… [--json]",
      "Reads the dumps that the ranks of a hung job left (rank-*.json, or the folder that holds them) and names the rank that held the others up.");
  line.options.add_options()("json", "one JSON object on one line");
  line.take_words("DUMP", -1);
  if (!line.parse(args, app)) return kExitDone;
  if (line.words().empty()) throw InputError("llmtrain diagnose", "DUMP is missing", "name the dumps, or their folder: output_dir/dumps");
  const Diagnosis d = diagnose(read_dumps(line.words()));
  if (line.has("json")) {
    app.print(dump_json({{"size", d.size}, {"guilty", d.guilty()}, {"stopped", d.stopped}, {"failed", d.failed}, {"error", d.error}, {"without_dump", d.without_dump},
                          {"laggards", d.laggards}, {"collective", d.collective}}) + "\n");
  } else {
    app.print(d.text());
  }
  return kExitDone;
}

}  // namespace llmtrain
