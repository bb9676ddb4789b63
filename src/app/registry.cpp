// The commands that exist, in the order of `llmtrain --help`.
#include "app/commands.h"

namespace llmtrain {

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"train", "train as a configuration says", command_train},
      {"config", "check a configuration and print it with every default", command_config},
      {"data", "tokenise datasets and show what became of their rows", command_data},
      {"generate", "continue a prompt with a model", command_generate},
      {"bench", "measure training steps on random tokens", command_bench},
      {"init", "write a model with random weights", command_init},
      {"convert", "copy a model to another element type or shard size", command_convert},
      {"inspect", "list and verify a checkpoint", command_inspect},
      {"report", "compare the results of runs", command_report},
      {"diagnose", "name the rank that held a hung job up", command_diagnose},
  };
  return all;
}

}  // namespace llmtrain
