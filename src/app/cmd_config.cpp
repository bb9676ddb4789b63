// llmtrain config: checks a configuration as `train` would, and prints it with every default.
#include <boost/program_options/value_semantic.hpp>

#include "app/commands.h"
#include "app/config_check.h"
#include "app/help.h"
#include "core/error.h"

namespace po = boost::program_options;

namespace llmtrain {

int command_config(const std::vector<std::string>& args, App& app) {
  CommandLine line("config", "--config F [--no-files] [key=value…]",
                   "Checks every key of a configuration, the names of its datasets and its DeepSpeed file as train would, and prints it with\n"
                   "every default. The model folder and the data files need not exist. Exit code 0: accepted, 2: refused by name.");
  line.options.add_options()("config", po::value<std::string>(), "the YAML file")(
      "no-files", "nothing that the YAML names has to exist: its keys are checked only")(
      "keys", "print the documentation of all keys (docs/configuration.md) in place of checking a file");
  line.take_words("key=value", -1);
  line.set_epilog(keys_help());
  if (!line.parse(args, app)) return kExitDone;
  if (line.has("keys")) {
    app.print(configuration_markdown());
    return kExitDone;
  }
  if (!line.has("config")) throw InputError("llmtrain config", "--config is missing", "name the YAML file: llmtrain config --config F");
  const CheckedConfig checked = check_configuration(line.get<std::string>("config"), line.words(), !line.has("no-files"));
  for (const std::string& note : checked.notes) app.log.info(note);
  app.print(resolved_yaml(checked.config));
  return kExitDone;
}

}  // namespace llmtrain
