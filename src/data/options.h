// What the data room needs to know about a run: which datasets, which template, how rows become tokens. A plain struct: the command line,
// YAML and defaults belong to config, which fills this in. Names and meanings are those of LLaMA-Factory 0.9.6 unless said otherwise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace llmtrain {

enum class Stage : uint8_t { pt, sft, dpo };                                            // dpo also serves reward models: chosen and rejected
enum class MixStrategy : uint8_t { concat, interleave_under, interleave_over };
enum class Truncation : uint8_t { llamafactory, drop, error };                          // what happens to a row that is longer than cutoff_len

struct DataOptions {
  Stage stage = Stage::sft;
  std::string template_name;                 // "" = left out: matched from the tokenizer folder's chat template
  std::vector<std::string> dataset;          // names in dataset_info.json
  std::vector<std::string> eval_dataset;
  bool eval_on_each_dataset = false;         // one evaluation set per name in place of one of all
  std::string dataset_dir = "data";

  int64_t cutoff_len = 2048;                 // tokens of a row; with written packing one less is filled (see effective_cutoff)
  std::optional<int64_t> max_samples;        // rows per dataset, from its start
  std::optional<bool> packing;               // left out: on for pt
  bool neat_packing = false;                 // sft: samples of a pack do not attend to each other; implies packing
  bool train_on_prompt = false;
  bool mask_history = false;                 // only the last turn carries loss
  MixStrategy mix_strategy = MixStrategy::concat;
  std::vector<double> interleave_probs;      // one for each dataset, or empty: in turn
  double val_size = 0;                       // < 1 a fraction, > 1 a count, 0 none
  std::optional<bool> enable_thinking = true;
  std::optional<std::string> default_system; // in place of the template's own
  std::string tool_format;                   // "" = the template's own
  std::string tool_date;                     // "20 Nov 2026": written by llama3's tool list; "" = today, as LLaMA-Factory writes it
  Truncation truncation = Truncation::llamafactory;

  int64_t preprocessing_batch_size = 1000;   // rows among which packs and blocks are formed
  int64_t preprocessing_num_workers = 1;     // contiguous parts of the rows; packs and blocks do not cross parts. Not a thread count
  bool overwrite_cache = false;              // build the token store anew even where one with the same hash exists
  std::string tokenized_path;                // load the token store from here, or save it here if there is none; "" = store_dir
  std::string store_dir;                     // where token stores lie: store_dir/tokens-<hash>
  int64_t seed = 42;                         // of num_samples, interleave_probs and val_size
  int threads = 0;                           // of this rank; 0 = as many as the process may run on
};

// InputError for a combination that means nothing (mask_history with train_on_prompt, neat_packing outside sft, negative lengths …).
void check_data_options(const DataOptions& options);

// Whether rows are packed (sft) or cut into blocks (pt).
inline bool is_packed(const DataOptions& o) { return o.neat_packing || o.packing.value_or(o.stage == Stage::pt); }

// The length that truncation, packs and blocks work with. LLaMA-Factory takes one off where `packing` or `neat_packing` was written, so that a
// pack always ends in padding; where pt packs by default it does not.
inline int64_t effective_cutoff(const DataOptions& o) { return o.cutoff_len - ((o.neat_packing || o.packing.value_or(false)) ? 1 : 0); }

const char* name_of(Stage stage);
// "pt", "sft", "dpo", "rm" (rows as dpo); InputError naming what is known.
Stage parse_stage(const std::string& name, const std::string& where);
MixStrategy parse_mix_strategy(const std::string& name, const std::string& where);
Truncation parse_truncation(const std::string& name, const std::string& where);

}  // namespace llmtrain
