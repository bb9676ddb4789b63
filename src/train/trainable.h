// Which tensors a run trains: all of them (finetuning_type: full), or those that LLaMA-Factory's freeze_* keys name (finetuning_type: freeze).
// Thread rules: pure functions.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/model_config.h"

namespace llmtrain {

struct FreezeChoice {
  int64_t layers = 2;                          // the last n blocks; negative: the first n
  std::vector<std::string> modules{"all"};     // "all", or parts of a block ("self_attn", "mlp", "input_layernorm", …)
  std::vector<std::string> extra_modules;      // modules outside the blocks ("embed_tokens", "norm", "lm_head"): all tensors with such a name in theirs
};

// True for the tensors to train, by Hugging Face name. InputError naming freeze_trainable_modules or freeze_extra_modules for a module that the model
// does not have, with the list of those that it has; or when nothing would be trained.
std::function<bool(const std::string&)> frozen_training(const ModelConfig& config, const FreezeChoice& choice);

}  // namespace llmtrain
