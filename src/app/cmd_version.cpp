// llmtrain --version [--json]
#include "app/commands.h"
#include "app/help.h"
#include "app/version.h"
#include "core/error.h"

namespace llmtrain {

int command_version(const std::vector<std::string>& args, App& app) {
  CommandLine line("--version", "[--json]", "Prints versions: compiled against, and found at run time.");
  line.options.add_options()("json", "one JSON object on one line");
  if (!line.parse(args, app)) return kExitDone;
  app.print(line.has("json") ? version_json() + "\n" : version_block());
  return kExitDone;
}

}  // namespace llmtrain
