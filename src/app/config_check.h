// The checks of a configuration that need more rooms than config: dataset names, template, schedule, DeepSpeed file. `config` and `train` share them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/deepspeed.h"

namespace llmtrain {

struct CheckedConfig {
  Config config;  // numbers of the DeepSpeed file applied
  std::optional<DeepSpeed> deepspeed;
  std::vector<std::string> notes;  // accepted without effect: to be logged once
};

// Reads and checks everything that does not need the model, the data files or the number of ranks. With `files` false nothing that the YAML
// names has to exist: dataset names and the DeepSpeed file are not looked at. InputError.
CheckedConfig check_configuration(const std::string& path, const std::vector<std::string>& overrides, bool files = true);

}  // namespace llmtrain
