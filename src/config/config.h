// Config: what a run is to do, typed, from a LLaMA-Factory YAML and key=value words. One table (config/table.h) holds each key's type,
// default, limits, meaning and standing; parsing, defaults, --help, docs/configuration.md and the resolved YAML all come from it.
//
// Keys and defaults are those of LLaMA-Factory 0.9.6 (https://llamafactory.readthedocs.io) and transformers' TrainingArguments
// (https://huggingface.co/docs/transformers/main_classes/trainer); keys of llmtrain itself are in the table's group "llmtrain".
// Errors: InputError naming file:line and key, all faults of a file in one message. Thread rules: plain values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/value.h"

namespace llmtrain {

struct Config {
  Config();  // every member has the table's default

  // model
  std::string model_name_or_path;           // a Hugging Face folder, or a name in Hugging Face's cache; "" = left out
  std::optional<std::string> rope_scaling;  // linear, dynamic, yarn, llama3
  bool disable_gradient_checkpointing;

  // method
  std::string stage;                                  // pt, sft, dpo, kto, rm, ppo (train refuses all but pt and sft)
  std::string finetuning_type;                        // full, freeze, lora, oft (train refuses all but full and freeze)
  int64_t freeze_trainable_layers;                    // blocks; negative: the first ones
  std::vector<std::string> freeze_trainable_modules;  // {"all"} or parts of a block
  std::vector<std::string> freeze_extra_modules;      // outside the blocks
  std::optional<std::string> deepspeed;               // path of a DeepSpeed JSON

  // data
  std::vector<std::string> dataset, eval_dataset;  // names in dataset_info.json
  std::string dataset_dir;
  std::optional<std::string> template_name;  // key "template"; nothing: the folder's own chat template
  std::optional<std::string> tokenized_path;
  int64_t cutoff_len;                  // tokens a row
  std::optional<int64_t> max_samples;  // rows per dataset
  bool overwrite_cache;
  int64_t preprocessing_batch_size;  // rows that are packed together
  std::optional<int64_t> preprocessing_num_workers;
  std::optional<bool> packing;  // as written; see packs()
  bool neat_packing;
  bool train_on_prompt, mask_history;
  std::string mix_strategy;
  std::vector<double> interleave_probs;
  bool eval_on_each_dataset;
  double val_size;  // < 1: fraction of the rows; >= 1: rows
  std::optional<std::string> tool_format, default_system;
  std::optional<bool> enable_thinking;  // nothing: reasoning stays as the data has it
  std::string truncation;               // llamafactory, drop, error

  // training
  bool do_train, do_eval;
  int64_t per_device_train_batch_size, per_device_eval_batch_size, gradient_accumulation_steps;
  double learning_rate;
  double num_train_epochs;
  int64_t max_steps;  // > 0 wins over num_train_epochs
  std::string lr_scheduler_type;
  TextMap lr_scheduler_kwargs;        // the schedule itself knows which (optim/schedules.h)
  double warmup_steps;  // see warmup_steps_of()
  std::optional<double> warmup_ratio;
  double weight_decay, adam_beta1, adam_beta2, adam_epsilon;
  double max_grad_norm;  // 0: no clipping
  int64_t seed;
  std::optional<int64_t> data_seed;  // see sampler_seed()
  bool bf16, fp16;
  bool disable_shuffling, dataloader_drop_last;
  std::string train_sampling_strategy;        // random, sequential; see shuffles()
  std::string include_num_input_tokens_seen;  // no, all (padding counts), non_padding
  bool use_cpu;

  // output
  std::string output_dir;  // "" = left out
  bool overwrite_output_dir;
  std::string logging_strategy, save_strategy;  // no, steps, epoch
  double logging_steps, save_steps;             // >= 1: steps; < 1: fraction of all steps; see steps_of()
  bool logging_first_step;
  std::optional<int64_t> save_total_limit;
  bool save_only_model;
  bool plot_loss;
  std::optional<std::string> resume_from_checkpoint;  // "true": the newest valid one; else a path
  std::optional<std::string> run_name;

  // evaluation
  std::string eval_strategy;
  std::optional<double> eval_steps;  // see evaluation_steps()
  bool eval_on_start;
  double eval_delay;                 // no evaluation before so many steps, or epochs
  bool load_best_model_at_end;
  std::optional<std::string> metric_for_best_model;
  std::optional<bool> greater_is_better;
  std::optional<int64_t> early_stopping_steps;

  // llmtrain's own
  std::string device;  // auto, cpu, cuda
  bool deterministic;
  std::string communicator;  // auto, mpi, shared, nccl, staged
  int64_t ranks_per_node;    // 0: as the machine is
  int64_t prefetch_depth;    // gathers issued ahead
  std::string overlap;       // auto, on, off
  std::string recompute;     // auto, none, cheap, full; see recompute_mode()
  std::string states;        // float32, mixed, bfloat16
  std::optional<double> max_hours;
  double hang_timeout;        // seconds
  std::string progress;  // auto, bar, lines
  bool async_save, save_hf_model;
  std::optional<std::string> export_dtype;  // float32, bfloat16, float16

  // Keys that have no member (accepted without effect, or needed by no command here), as canonical YAML. Only those that differ from their default.
  std::map<std::string, std::string> extra;

  // Of the DeepSpeed file: it has an "optimizer" section, under which norms and biases decay too (apply_deepspeed).
  bool decays_everything = false;

  // Where a key's value came from: "file.yaml:12", "command line" or "default".
  std::string origin(std::string_view key) const;
  bool is_default(std::string_view key) const { return origin(key) == "default"; }
  std::map<std::string, std::string, std::less<>> origins;  // only keys that were given

  // Derived, as LLaMA-Factory and transformers derive them.
  bool packs() const;                                                               // packing or neat_packing, or pt with packing left out
  bool packing_written() const { return neat_packing || packing.value_or(false); }  // then rows are cut to cutoff_len - 1 (formats.md trap)
  bool shuffles() const { return !disable_shuffling && train_sampling_strategy != "sequential"; }
  int64_t sampler_seed() const { return data_seed.value_or(seed); }
  double evaluation_steps() const { return eval_steps && *eval_steps > 0 ? *eval_steps : logging_steps; }
  std::string recompute_mode() const;  // none, cheap, full or auto
  bool wants_cpu() const { return use_cpu || device == "cpu"; }
  bool evaluates() const { return do_eval || eval_strategy != "no"; }
};

// Reads, checks each key by itself and the combinations that make no sense to any command. `overrides`: "key=value" words; a key may be
// dotted for maps (lr_scheduler_kwargs.min_lr_rate=0.1).
Config load_config(const std::string& path, const std::vector<std::string>& overrides = {});
Config parse_config(std::string_view yaml, const std::string& where, const std::vector<std::string>& overrides = {});

// What the commands need beyond that: InputError that lists everything that stands in the way.
void check_trainable(const Config& config);    // stage, method, precision … of this version; model, data and output named
void check_tokenizable(const Config& config);  // for `data`: model and datasets named; any stage

// One line each, to be logged once: keys that are accepted without effect, and why.
std::vector<std::string> notes_of(const Config& config);

// Every key with its value, grouped, with a comment where it came from unless it is the default. Parsing it gives the same values.
std::string resolved_yaml(const Config& config);
bool same_values(const Config& a, const Config& b);  // all keys, origins aside

// From steps as the YAML gives them to whole steps: >= 1 is a count, < 1 a fraction of `total_steps`, rounded up. 0 gives 0.
int64_t steps_of(double value, int64_t total_steps);
// ceil(total * warmup_ratio) where that is above 0, as transformers 5 has it where both are given (4 took warmup_steps); else warmup_steps (>= 1: steps,
// < 1: fraction).
int64_t warmup_steps_of(const Config& config, int64_t total_steps);

// Help text for people: every honoured key with default and meaning. `width`: columns.
std::string keys_help(int width = 100);
// docs/configuration.md.
std::string configuration_markdown();

}  // namespace llmtrain
