// Checks that need more than one key: combinations without a meaning, and what this version's training takes.
#include <cmath>

#include "config/table.h"

namespace llmtrain {
namespace {

// The place of a key for a message: its line, or the key's name where it was left out.
std::string place(const Config& config, const std::string& key) { return config.is_default(key) ? key : config.origin(key) + ": " + key; }

void check_data(const Config& c, Faults& faults) {
  if (c.mask_history && c.train_on_prompt)
    faults.add(place(c, "mask_history"), "means nothing together with train_on_prompt", "choose one of the two");
  if (c.stage != "sft") {
    const struct {
      const char* name;
      bool set;
    } only_sft[] = {{"neat_packing", c.neat_packing}, {"train_on_prompt", c.train_on_prompt}, {"mask_history", c.mask_history}};
    for (const auto& [name, set] : only_sft)
      if (set) faults.add(place(c, name), std::string("is for stage: sft only, and the stage is ") + c.stage, "remove it");
  }
  if (c.val_size >= 1 && c.val_size != std::floor(c.val_size)) faults.add(place(c, "val_size"), "from 1 on it is a number of rows and must be whole");
  // 1 is what LLaMA-Factory fails on too: it reads 1 as the fraction 1.0, which leaves nothing to train on.
  if (c.val_size == 1) faults.add(place(c, "val_size"), "1 is neither a fraction nor a count", "use a fraction below 1, or a number of rows above 1");
  if (c.val_size > 0 && !c.eval_dataset.empty())
    faults.add(place(c, "val_size"), "means nothing together with eval_dataset", "choose one of the two");
  if (c.val_size > 0 && c.dataset.empty()) faults.add(place(c, "val_size"), "is taken from dataset, which is not given");
  if (!c.interleave_probs.empty()) {
    if (c.mix_strategy == "concat")
      faults.add(place(c, "interleave_probs"), "means nothing with mix_strategy: concat", "set mix_strategy to interleave_under or interleave_over");
    if (!c.dataset.empty() && c.dataset.size() != c.interleave_probs.size()) {
      faults.add(place(c, "interleave_probs"),
                 std::to_string(c.interleave_probs.size()) + " numbers for " + std::to_string(c.dataset.size()) + " datasets", "give one for each");
    }
    double sum = 0;
    for (const double share : c.interleave_probs) {
      if (share == 0)
        faults.add(place(c, "interleave_probs"), "0 would never take a row of its dataset", "leave that dataset out, or give a number above 0");
      sum += share;
    }
    if (std::abs(sum - 1) >= 1e-6) faults.add(place(c, "interleave_probs"), "adds up to " + format_number(sum) + ", not to 1");
  }
}

void check_machine(const Config& c, Faults& faults) {
  if (c.use_cpu && c.device == "cuda") faults.add(place(c, "use_cpu"), "contradicts device: cuda", "remove one of the two");
  if (c.wants_cpu() && (c.communicator == "nccl" || c.communicator == "staged")) {
    faults.add(place(c, "communicator"), c.communicator + " is for GPUs, and the run is to be on the CPU", "use auto");
  }
  if (c.bf16 && c.fp16) faults.add(place(c, "fp16"), "contradicts bf16: true", "choose one of the two");
  if (c.disable_gradient_checkpointing && (c.recompute == "cheap" || c.recompute == "full")) {
    faults.add(place(c, "recompute"), c.recompute + " contradicts disable_gradient_checkpointing: true", "remove one of the two");
  }
}

void check_stage_and_method(const Config& c, Faults& faults) {
  if (c.stage == "ppo") {
    faults.add(place(c, "stage"), "ppo (reinforcement learning with a reward model) is not supported", "training takes pt and sft");
  } else if (c.stage != "pt" && c.stage != "sft") {
    faults.add(place(c, "stage"), c.stage + " is not supported in this version", "training takes pt and sft");
  }
  if (c.finetuning_type == "oft") {
    faults.add(place(c, "finetuning_type"), "oft (orthogonal finetuning) is not supported", "training takes full and freeze");
  } else if (c.finetuning_type == "lora" && c.is_default("finetuning_type")) {
    faults.add("finetuning_type", "is left out, and its default is lora, as in LLaMA-Factory: adapters are not supported in this version",
               "write finetuning_type: full, or freeze");
  } else if (c.finetuning_type == "lora") {
    faults.add(place(c, "finetuning_type"), "lora is not supported in this version", "write finetuning_type: full, or freeze");
  }
  if (c.finetuning_type == "freeze" && c.freeze_trainable_layers == 0 && c.freeze_extra_modules.empty()) {
    faults.add(place(c, "freeze_trainable_layers"), "0 leaves nothing to train", "give a number of blocks, or name freeze_extra_modules");
  }
}

// Values that are known and that this version cannot do.
void check_supported(const Config& c, Faults& faults) {
  if (c.states == "bfloat16" && !c.bf16) faults.add(place(c, "states"), "bfloat16 states need bfloat16 compute", "set bf16: true, or choose float32 or mixed");
  if (c.train_sampling_strategy == "group_by_length")
    faults.add(place(c, "train_sampling_strategy"), "group_by_length is not supported in this version", "use random or sequential; rows are not padded anyway");
  if (c.save_strategy == "best")
    faults.add(place(c, "save_strategy"), "best is not supported in this version", "use steps, epoch or no");
}

// fraction or whole number of steps; 0 only where `may_be_zero`.
void check_steps(const Config& c, const char* key, double value, bool may_be_zero, Faults& faults) {
  if (value >= 1 && value != std::floor(value))
    faults.add(place(c, key), format_number(value) + " is neither a whole number of steps nor a share below 1");
  if (value == 0 && !may_be_zero)
    faults.add(place(c, key), "0 steps: nothing would ever happen", "give a number of steps, or set its strategy to no");
}

void check_schedule(const Config& c, Faults& faults) {
  if (c.logging_strategy == "steps") check_steps(c, "logging_steps", c.logging_steps, false, faults);
  if (c.save_strategy == "steps") check_steps(c, "save_steps", c.save_steps, false, faults);
  if (c.eval_strategy == "steps") check_steps(c, "eval_steps", c.evaluation_steps(), false, faults);
  check_steps(c, "warmup_steps", c.warmup_steps, true, faults);
  if (c.adam_beta1 >= 1) faults.add(place(c, "adam_beta1"), "1 would keep the first moment at 0 for ever", "give a number below 1");
  if (c.adam_beta2 >= 1) faults.add(place(c, "adam_beta2"), "1 would keep the second moment at 0 for ever", "give a number below 1");
  const bool has_evaluation_rows = !c.eval_dataset.empty() || c.val_size > 0 || c.tokenized_path;
  if (c.eval_strategy != "no" && !has_evaluation_rows)
    faults.add(place(c, "eval_strategy"), "there are no rows to evaluate on", "name eval_dataset, or give val_size");
  if (c.eval_on_start && c.eval_strategy == "no") faults.add(place(c, "eval_on_start"), "is for runs that evaluate", "set eval_strategy, or remove it");
  if (c.do_eval && !has_evaluation_rows) faults.add(place(c, "do_eval"), "there are no rows to evaluate on", "name eval_dataset, or give val_size");
}

void check_model_named(const Config& c, Faults& faults) {
  if (c.model_name_or_path.empty()) faults.add("model_name_or_path", "is missing", "name a Hugging Face folder");
}

void refuse_what_is_not_trainable(const Config& c, Faults& faults) {
  for (const Key& key : key_table()) {
    if (key.standing != Standing::not_trainable) continue;
    const bool member = !std::holds_alternative<std::monostate>(key.member);
    const Value value = member ? get_member(c, key) : Value();
    const bool differs = member ? !std::holds_alternative<std::monostate>(value) && value != default_value(key) : c.extra.contains(key.name);
    if (differs) faults.add(place(c, key.name), (member ? to_yaml(value) : c.extra.at(key.name)) + ": " + key.reason);
  }
}

}  // namespace

void check_combinations(const Config& config) {
  Faults faults;
  check_data(config, faults);
  check_machine(config, faults);
  faults.raise();
}

void check_trainable(const Config& config) {
  Faults faults;
  check_model_named(config, faults);
  if (!config.do_train && !config.do_eval) {
    faults.add("do_train", "neither do_train nor do_eval is true, so there is nothing to do",
               "to train, write do_train: true. Texts are generated by llmtrain generate, folders converted by llmtrain convert");
    faults.raise();
  }
  if (config.do_train && config.dataset.empty() && !config.tokenized_path)
    faults.add("dataset", "is missing", "name one or more sets of dataset_info.json");
  if (config.output_dir.empty()) faults.add("output_dir", "is missing", "name the folder for the model and the logs");
  check_stage_and_method(config, faults);
  check_supported(config, faults);
  refuse_what_is_not_trainable(config, faults);
  check_schedule(config, faults);
  faults.raise();
}

void check_tokenizable(const Config& config) {
  Faults faults;
  check_model_named(config, faults);
  if (config.dataset.empty() && config.eval_dataset.empty() && !config.tokenized_path)
    faults.add("dataset", "is missing", "name one or more sets of dataset_info.json");
  faults.raise();
}

}  // namespace llmtrain
