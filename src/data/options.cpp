// Checks of DataOptions and the names of its enumerations.
#include "data/options.h"

#include <cmath>

#include "core/error.h"

namespace llmtrain {

const char* name_of(Stage stage) {
  switch (stage) {
    case Stage::pt: return "pt";
    case Stage::sft: return "sft";
    case Stage::dpo: return "dpo";
  }
  return "?";
}

Stage parse_stage(const std::string& name, const std::string& where) {
  if (name == "pt") return Stage::pt;
  if (name == "sft") return Stage::sft;
  if (name == "dpo" || name == "rm") return Stage::dpo;
  throw InputError(where, "data cannot be prepared for stage \"" + name + "\"", "Known stages: pt, sft, dpo, rm.");
}

MixStrategy parse_mix_strategy(const std::string& name, const std::string& where) {
  if (name == "concat") return MixStrategy::concat;
  if (name == "interleave_under") return MixStrategy::interleave_under;
  if (name == "interleave_over") return MixStrategy::interleave_over;
  throw InputError(where, "unknown mixing strategy \"" + name + "\"", "Known: concat, interleave_under, interleave_over.");
}

Truncation parse_truncation(const std::string& name, const std::string& where) {
  if (name == "llamafactory") return Truncation::llamafactory;
  if (name == "drop") return Truncation::drop;
  if (name == "error") return Truncation::error;
  throw InputError(where, "unknown truncation \"" + name + "\"", "Known: llamafactory, drop, error.");
}

void check_data_options(const DataOptions& o) {
  const auto demand = [](bool fine, const char* key, const std::string& what, const std::string& advice = "") {
    if (!fine) throw InputError(key, what, advice);
  };
  demand(effective_cutoff(o) >= 1, "cutoff_len", std::to_string(o.cutoff_len) + " leaves no room for a token", "It is a number of tokens, 2048 say.");
  demand(o.cutoff_len <= (int64_t{1} << 30), "cutoff_len", std::to_string(o.cutoff_len) + " is more than a row can hold");
  demand(!o.max_samples || *o.max_samples >= 1, "max_samples", "must be at least 1");
  demand(!(o.mask_history && o.train_on_prompt), "mask_history", "cannot be combined with train_on_prompt", "Leave one of them out.");
  demand(!o.neat_packing || o.stage == Stage::sft, "neat_packing", std::string("has no meaning in stage ") + name_of(o.stage),
         "Use it with stage: sft.");
  demand(!(o.stage == Stage::dpo && o.packing.value_or(false)), "packing", "has no meaning in stage dpo", "Leave it out.");
  demand(o.preprocessing_batch_size >= 1, "preprocessing_batch_size", "must be at least 1");
  demand(o.preprocessing_num_workers >= 1, "preprocessing_num_workers", "must be at least 1");
  demand(std::isfinite(o.val_size) && o.val_size >= 0, "val_size", "must not be negative");
  demand(o.val_size < 1e15, "val_size", "is more than any dataset has rows");
  demand(o.val_size != 1, "val_size", "1 is neither a fraction nor a count", "Use a fraction below 1, or a number of rows above 1.");
  demand(o.val_size <= 1e-6 || o.eval_dataset.empty(), "val_size", "cannot be combined with eval_dataset", "Leave one of them out.");
  if (o.interleave_probs.empty()) return;
  demand(o.mix_strategy != MixStrategy::concat, "interleave_probs", "needs mix_strategy: interleave_under or interleave_over");
  demand(o.interleave_probs.size() == o.dataset.size(), "interleave_probs",
         "has " + std::to_string(o.interleave_probs.size()) + " numbers for " + std::to_string(o.dataset.size()) + " datasets");
  double sum = 0;
  for (const double p : o.interleave_probs) {
    demand(std::isfinite(p) && p > 0, "interleave_probs", "each must be above 0");
    sum += p;
  }
  demand(std::abs(sum - 1) < 1e-6, "interleave_probs", "add up to " + std::to_string(sum) + ", not to 1");
}

}  // namespace llmtrain
