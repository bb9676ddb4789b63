// Between model_config.cpp and model_config_rope.cpp only.
#pragma once

#include "model/families/family.h"

namespace llmtrain {

// Fills config.rope and config.rotary_dim from rope_parameters or rope_theta + rope_scaling. The sizes and heads are already read.
void read_rope(const ConfigReader& reader, const Family& family, ModelConfig& config);

}  // namespace llmtrain
