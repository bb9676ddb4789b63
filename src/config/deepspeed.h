// A DeepSpeed JSON file as Hugging Face users write it (https://www.deepspeed.ai/docs/config-json,
// https://huggingface.co/docs/transformers/deepspeed): every key is known by name; "auto" means: from the YAML. Batch sizes, clipping,
// element type and stage count; the sizes that steer DeepSpeed's heuristics have no effect, since the schedule of gathers is static here.
//
// Errors: InputError naming file:line and key. Thread rules: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"

namespace llmtrain {

struct DeepSpeed {
  std::string path;
  // Nothing: "auto" or left out.
  std::optional<int64_t> train_batch_size;  // rows of an optimizer step over all ranks
  std::optional<int64_t> train_micro_batch_size_per_gpu;
  std::optional<int64_t> gradient_accumulation_steps;
  std::optional<double> gradient_clipping;
  std::optional<bool> bf16, fp16;
  std::optional<double> learning_rate, weight_decay, adam_epsilon, adam_beta1, adam_beta2;  // of an "optimizer" section
  bool optimizer_section = false;          // then transformers makes no groups of parameters: norms and biases decay too

  int64_t stage = 0;                       // DeepSpeed's default
  std::string offload_optimizer = "none";  // none, cpu, nvme
  std::string offload_param = "none";

  std::vector<std::string> notes;                            // one line for each key that is accepted without effect, or means something else here
  std::vector<std::pair<std::string, std::string>> not_yet;  // {file:line: key, why}: refused by check_trainable
  std::string stage_place;                                   // "file:line: zero_optimization.stage"
};

DeepSpeed read_deepspeed(const std::string& path);
DeepSpeed parse_deepspeed(const std::string& text, const std::string& where);

// Numbers of the JSON take the place of keys that the YAML left out. InputError where both give one and they differ (as transformers).
void apply_deepspeed(Config& config, const DeepSpeed& deepspeed);

// Stage, offload and whatever else this version's training does not take: InputError listing all.
void check_trainable(const DeepSpeed& deepspeed);

// train_batch_size = micro-batch x accumulation x ranks. Sets gradient_accumulation_steps where neither file gives it and
// train_batch_size does; InputError with the arithmetic where it does not come out. Call after apply_deepspeed.
void resolve_batch(Config& config, const DeepSpeed& deepspeed, int64_t ranks);

}  // namespace llmtrain
