// Keys of LLaMA-Factory's DataArguments and GeneratingArguments.
#include "config/table.h"

namespace llmtrain {

void add_data_keys(std::vector<Key>& t) {
  t.push_back(key("dataset", &Config::dataset, "null", "names of the training sets in dataset_info.json, separated by commas"));
  t.push_back(key("eval_dataset", &Config::eval_dataset, "null", "names of the evaluation sets"));
  t.push_back(key("dataset_dir", &Config::dataset_dir, "data", "folder of dataset_info.json and the data files"));
  t.push_back(
      key("template", &Config::template_name, "null", "chat template; left out: the model folder's own chat template is matched to a known one"));
  t.push_back(key("cutoff_len", &Config::cutoff_len, "2048", "tokens a row may have").range(1, 1 << 24));
  t.push_back(key("max_samples", &Config::max_samples, "null", "rows taken from each dataset, from its start").at_least(1));
  t.push_back(key("truncation", &Config::truncation, "llamafactory",
                  "a row longer than cutoff_len: llamafactory cuts prompt and answer in proportion, drop leaves it out, error stops")
                  .one_of({"llamafactory", "drop", "error"}));
  t.push_back(key("packing", &Config::packing, "null", "fill rows of cutoff_len with several samples; left out: on for pt, off for sft"));
  t.push_back(key("neat_packing", &Config::neat_packing, "false", "packing in which the samples of a row do not attend to each other"));
  t.push_back(key("train_on_prompt", &Config::train_on_prompt, "false", "the prompt carries loss too"));
  t.push_back(key("mask_history", &Config::mask_history, "false", "only the last turn carries loss"));
  t.push_back(
      key("mix_strategy", &Config::mix_strategy, "concat", "how datasets are joined").one_of({"concat", "interleave_under", "interleave_over"}));
  t.push_back(key("interleave_probs", &Config::interleave_probs, "null", "interleave: the share of each dataset").range(0, 1));
  t.push_back(key("val_size", &Config::val_size, "0.0", "part of the training rows kept for evaluation: below 1 a fraction, above 1 rows").at_least(0));
  t.push_back(key("eval_on_each_dataset", &Config::eval_on_each_dataset, "false", "a loss for each evaluation set, eval_<name>_loss, in place of one for all"));
  t.push_back(key("default_system", &Config::default_system, "null", "system text in place of the template's own"));
  t.push_back(key("tool_format", &Config::tool_format, "null", "how tool calls are written, in place of the template's way"));
  t.push_back(key("enable_thinking", &Config::enable_thinking, "true",
                  "reasoning templates: true adds an empty thought with loss, false without; null leaves answers as they are"));
  t.push_back(key("preserve_thinking", ValueKind::boolean, "false", "keep thoughts of earlier turns")
                  .never("keeping the thoughts of earlier turns is not supported; remove the key"));
  t.push_back(key("tokenized_path", &Config::tokenized_path, "null", "folder of the token store: read if it exists, else written"));
  t.push_back(key("overwrite_cache", &Config::overwrite_cache, "false", "tokenise again even where a store of the same content exists"));
  t.push_back(key("preprocessing_batch_size", &Config::preprocessing_batch_size, "1000", "rows among which packs are formed").at_least(1));
  t.push_back(key("preprocessing_num_workers", &Config::preprocessing_num_workers, "null",
                  "parts of the rows within which packs are formed; all ranks and threads tokenise, whatever it says")
                  .at_least(1));
  t.push_back(
      key("data_shared_file_system", ValueKind::boolean, "false", "the ranks share a file system").without_effect("llmtrain finds out by itself"));
  t.push_back(key("media_dir", ValueKind::text, "null", "folder of images").without_effect("there are no images"));
  t.push_back(
      key("ignore_pad_token_for_loss", ValueKind::boolean, "true", "no loss on padding").never("there is no padding, so there is no loss on it"));
  t.push_back(key("streaming", ValueKind::boolean, "false", "read rows while training")
                  .never("rows are tokenised once into a memory-mapped store, which needs no streaming; remove the key"));
  t.push_back(key("buffer_size", ValueKind::integer, "16384", "rows shuffled while streaming").without_effect("it matters only beside streaming"));
  t.push_back(
      key("eval_num_beams", ValueKind::integer, "null", "beams of generation").without_effect("settings of generation belong to llmtrain generate"));

  const char* const generation = "settings of generation belong to llmtrain generate";
  t.push_back(key("do_sample", ValueKind::boolean, "true", "sample").without_effect(generation));
  t.push_back(key("temperature", ValueKind::number, "0.95", "temperature").without_effect(generation));
  t.push_back(key("top_p", ValueKind::number, "0.7", "nucleus").without_effect(generation));
  t.push_back(key("top_k", ValueKind::integer, "50", "candidates").without_effect(generation));
  t.push_back(key("num_beams", ValueKind::integer, "1", "beams").without_effect(generation));
  t.push_back(key("max_length", ValueKind::integer, "1024", "tokens in all").without_effect(generation));
  t.push_back(key("max_new_tokens", ValueKind::integer, "1024", "new tokens").without_effect(generation));
  t.push_back(key("repetition_penalty", ValueKind::number, "1.0", "penalty").without_effect(generation));
  t.push_back(key("length_penalty", ValueKind::number, "1.0", "penalty").without_effect(generation));
  t.push_back(key("skip_special_tokens", ValueKind::boolean, "true", "hide special tokens").without_effect(generation));
}

}  // namespace llmtrain
