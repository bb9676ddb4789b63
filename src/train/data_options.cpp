#include "train/data_options.h"

namespace llmtrain {

DataOptions make_data_options(const Config& c, const std::string& store_dir, int threads) {
  DataOptions o;
  o.stage = parse_stage(c.stage, c.origin("stage") + ": stage");
  o.template_name = c.template_name.value_or("");
  o.dataset = c.dataset;
  o.eval_dataset = c.eval_dataset;
  o.eval_on_each_dataset = c.eval_on_each_dataset;
  o.dataset_dir = c.dataset_dir;
  o.cutoff_len = c.cutoff_len;
  o.max_samples = c.max_samples;
  o.packing = c.packing;
  o.neat_packing = c.neat_packing;
  o.train_on_prompt = c.train_on_prompt;
  o.mask_history = c.mask_history;
  o.mix_strategy = parse_mix_strategy(c.mix_strategy, c.origin("mix_strategy") + ": mix_strategy");
  o.interleave_probs = c.interleave_probs;
  o.val_size = c.val_size;
  o.enable_thinking = c.enable_thinking;
  o.default_system = c.default_system;
  o.tool_format = c.tool_format.value_or("");
  o.truncation = parse_truncation(c.truncation, c.origin("truncation") + ": truncation");
  o.preprocessing_batch_size = c.preprocessing_batch_size;
  o.preprocessing_num_workers = c.preprocessing_num_workers.value_or(1);
  o.overwrite_cache = c.overwrite_cache;
  o.tokenized_path = c.tokenized_path.value_or("");
  o.store_dir = store_dir;
  o.seed = c.seed;
  o.threads = threads;
  return o;
}

}  // namespace llmtrain
