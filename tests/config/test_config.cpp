// The configuration: types, defaults, limits, overrides, combinations, the resolved YAML.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <set>

#include "config/config.h"
#include "config/deepspeed.h"
#include "config/table.h"
#include "config/yaml.h"
#include "core/error.h"
#include "core/file.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::shared_dir;

const std::string kGood = "model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: full\ndataset: a,b\noutput_dir: out\n";

template <class Work>
std::string error_of(Work work) {
  try {
    work();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
std::string parse_error(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return error_of([&] { parse_config(yaml, "c.yaml", overrides); });
}
std::string train_error(const std::string& yaml) {
  return error_of([&] { check_trainable(parse_config(yaml, "c.yaml")); });
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Config, DefaultsAreThoseOfLLaMAFactoryAndTransformers) {
  const Config c;
  EXPECT_EQ(c.finetuning_type, "lora");
  EXPECT_EQ(c.cutoff_len, 2048);
  EXPECT_EQ(c.per_device_train_batch_size, 8);
  EXPECT_EQ(c.learning_rate, 5e-5);
  EXPECT_EQ(c.num_train_epochs, 3.0);
  EXPECT_EQ(c.max_steps, -1);
  EXPECT_EQ(c.adam_beta2, 0.999);
  EXPECT_EQ(c.logging_steps, 500);
  EXPECT_EQ(c.freeze_trainable_modules, std::vector<std::string>{"all"});
  EXPECT_FALSE(c.packing.has_value());
  EXPECT_EQ(c.enable_thinking, true);
  EXPECT_FALSE(c.template_name.has_value());
  EXPECT_EQ(c.prefetch_depth, 1);
  EXPECT_TRUE(c.dataset.empty());
}

// A member that the table forgets would be uninitialised memory.
TEST(Config, EveryMemberStandsInTheTableOnce) {
  std::set<std::string> named;
  for (const char* part : {"model", "method", "data", "training", "output"}) {
    const std::string text = read_file("src/config/table_" + std::string(part) + ".cpp");
    for (size_t at = 0; (at = text.find("&Config::", at)) != std::string::npos; ++at) {
      const size_t end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789", at + 9);
      EXPECT_TRUE(named.insert(text.substr(at + 9, end - at - 9)).second) << text.substr(at, 40);
    }
  }
  std::string header = read_file("src/config/config.h");
  header = header.substr(0, header.find("// Keys that have no member"));
  header = header.substr(header.find("  Config();"));
  size_t members = 0;
  for (size_t begin = header.find('\n'); begin != std::string::npos; begin = header.find('\n', begin + 1)) {
    std::string line = header.substr(begin + 1, header.find('\n', begin + 1) - begin - 1);
    line = line.substr(0, line.find("//"));
    const size_t semicolon = line.find(';');
    if (semicolon == std::string::npos) continue;
    line = line.substr(line.find_first_not_of(' '), semicolon - line.find_first_not_of(' '));
    line = line.substr(line.find(' ') + 1);
    for (const std::string& name : split_commas(line)) {
      EXPECT_TRUE(named.contains(name)) << "'" << name << "' has no line in the table";
      ++members;
    }
  }
  EXPECT_EQ(members, named.size());
}

TEST(Config, TheTableIsSound) {
  std::set<std::string> names;
  for (const Key& key : key_table()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    if (!key.alias_of.empty()) {
      EXPECT_NE(find_key(key.alias_of), nullptr);
      continue;
    }
    EXPECT_NO_THROW(default_value(key)) << key.name;
    EXPECT_FALSE(key.meaning.empty()) << key.name;
    EXPECT_EQ(key.standing == Standing::honoured, key.reason.empty()) << key.name;
    const bool member = !std::holds_alternative<std::monostate>(key.member);
    EXPECT_TRUE(member || key.standing != Standing::honoured) << key.name;
  }
}

TEST(Config, ValuesParseAsPythonYamlMakesThem) {
  const Config c = parse_config(
      "learning_rate: 1e-5\nweight_decay: '0.1'\nnum_train_epochs: 3\nmax_steps: 10.0\ndo_train: True\nplot_loss: yes\nbf16: "
      "FALSE\nresume_from_checkpoint: null\n"
      "max_samples: ~\neval_strategy: no\nrun_name: 123\ndataset: a, b\neval_dataset: [c, d]\nenable_thinking: null\noverlap: on\nsave_strategy: "
      "'no'\nlogging_steps: 0.1\n",
      "c.yaml");
  EXPECT_EQ(c.learning_rate, 1e-5);
  EXPECT_EQ(c.weight_decay, 0.1);
  EXPECT_EQ(c.num_train_epochs, 3.0);
  EXPECT_EQ(c.max_steps, 10);
  EXPECT_TRUE(c.do_train);
  EXPECT_TRUE(c.plot_loss);
  EXPECT_FALSE(c.bf16);
  EXPECT_FALSE(c.resume_from_checkpoint);
  EXPECT_FALSE(c.max_samples);
  EXPECT_EQ(c.eval_strategy, "no");
  EXPECT_EQ(c.run_name, "123");
  EXPECT_EQ(c.dataset, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.eval_dataset, (std::vector<std::string>{"c", "d"}));
  EXPECT_FALSE(c.enable_thinking);
  EXPECT_EQ(c.overlap, "on");
  EXPECT_EQ(c.save_strategy, "no");
  EXPECT_EQ(c.logging_steps, 0.1);
  EXPECT_EQ(parse_config("eval_strategy: false\noverlap: true", "c.yaml").overlap, "on");
  EXPECT_EQ(parse_config("eval_strategy: false", "c.yaml").eval_strategy, "no");
}

TEST(Config, OriginsNameFileAndLine) {
  const Config c = parse_config("stage: pt\n\ncutoff_len: 5\n", "c.yaml", {"seed=7"});
  EXPECT_EQ(c.origin("cutoff_len"), "c.yaml:3");
  EXPECT_EQ(c.origin("seed"), "command line");
  EXPECT_EQ(c.origin("bf16"), "default");
}

TEST(Config, MisspeltKeysNameTheNearest) {
  const std::string e = parse_error("stage: sft\ncutof_len: 128\n");
  EXPECT_TRUE(has(e, "c.yaml:2")) << e;
  EXPECT_TRUE(has(e, "cutof_len"));
  EXPECT_TRUE(has(e, "nearest known key: cutoff_len"));
  EXPECT_TRUE(has(parse_error("stage: sft", {"learing_rate=1"}), "nearest known key: learning_rate"));
  const std::string both = parse_error("per_device_train_batchsize: 1\ndatasets: a\n");  // all faults in one message
  EXPECT_TRUE(has(both, "c.yaml:1") && has(both, "c.yaml:2") && has(both, "per_device_train_batch_size")) << both;
}

TEST(Config, WrongTypesAndRangesNameWhatIsAllowed) {
  const struct {
    const char *line, *part;
  } cases[] = {{"cutoff_len: -5", "from 1 to 16777216"},
               {"cutoff_len: abc", "a whole number"},
               {"cutoff_len: 12.5", "a whole number"},
               {"bf16: maybe", "true or false"},
               {"bf16: 2", "true or false"},
               {"learning_rate: fast", "a number"},
               {"learning_rate: .nan", "a number"},
               {"per_device_train_batch_size: 0", "from 1"},
               {"warmup_ratio: 1.5", "from 0 to 1"},
               {"num_train_epochs: 0", "above 0"},
               {"stage: sfft", "nearest: sft"},
               {"lr_scheduler_type: cosin", "nearest: cosine"},
               {"max_samples: 0", "of at least 1"},
               {"dataset: [a, [b]]", "not a plain value"},
               {"dataset: a,,b", "empty"},
               {"cutoff_len: null", "the default is 2048"},
               {"deepspeed: {stage: 3}", "a map is not a text"},
               {"cutoff_len: [1]", "a list is not"},
               {"optim: adafactor", "one of adamw_torch"},
               {"interleave_probs: 0.5,x", "not a number"},
               {"lr_scheduler_kwargs: 3", "a map"}};
  for (const auto& [line, part] : cases) {
    const std::string e = parse_error("seed: 1\n" + std::string(line));
    EXPECT_TRUE(has(e, "c.yaml:2: ")) << line << " -> " << e;
    EXPECT_TRUE(has(e, part)) << line << " -> " << e;
  }
}

TEST(Config, OverridesWinAndReachIntoMaps) {
  const Config c = parse_config("cutoff_len: 5\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\n  num_cycles: 2\ndataset: x\n", "c.yaml",
                                {"cutoff_len=9", "lr_scheduler_kwargs.min_lr_rate=0.2", "dataset=[p, q]", "max_samples=", "default_system=be: kind",
                                 "evaluation_strategy=epoch"});
  EXPECT_EQ(c.cutoff_len, 9);
  EXPECT_EQ(c.lr_scheduler_kwargs, (TextMap{{"min_lr_rate", "0.2"}, {"num_cycles", "2"}}));
  EXPECT_EQ(c.dataset, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(c.default_system, "be: kind");
  EXPECT_EQ(c.eval_strategy, "epoch");
  EXPECT_EQ(parse_config("stage: sft", "c", {"lr_scheduler_kwargs={\"min_lr\": 1e-6}"}).lr_scheduler_kwargs, (TextMap{{"min_lr", "1e-6"}}));
  EXPECT_EQ(parse_config("lr_scheduler_kwargs: '{\"min_lr\": 1e-6}'", "c").lr_scheduler_kwargs, (TextMap{{"min_lr", "1e-6"}}));
  EXPECT_TRUE(has(parse_error("stage: sft", {"cutoff_len"}), "key=value"));
  EXPECT_TRUE(has(parse_error("stage: sft", {"stage.x=1"}), "not a map"));
  EXPECT_TRUE(has(parse_error("no_cuda: true\nuse_cpu: true"), "same key"));
}

TEST(Config, UnsupportedKeysAreRefusedByName) {
  EXPECT_TRUE(has(parse_error("use_galore: true"), "c.yaml:1: use_galore: true: GaLore is not supported"));
  EXPECT_EQ(parse_error("use_galore: false\nuse_unsloth: no\npush_to_hub: false"), "");  // the default asks for nothing
  for (const char* line : {"use_badam: true", "use_unsloth: true", "image_max_pixels: 262144", "freeze_vision_tower: false", "ppo_epochs: 2",
                           "reward_model: x", "export_dir: out", "save_safetensors: false", "fsdp: full_shard", "streaming: true", "use_apollo: true",
                           "average_tokens_across_devices: false"}) {
    const std::string key(line, std::string(line).find(':'));
    EXPECT_TRUE(has(parse_error(line), "c.yaml:1: " + key)) << line;
  }
  // Several keys for one reason are one line.
  const std::string vision = parse_error("image_max_pixels: 1\nvideo_max_pixels: 2\n");
  EXPECT_TRUE(has(vision, "image_max_pixels, video_max_pixels: images")) << vision;
}

TEST(Config, SecretsAreNeverPrinted) {
  const std::string e = parse_error("hf_hub_token: canary-8f3a\nswanlab_api_key: canary-77\nhub_token: [canary-5]\n");
  EXPECT_TRUE(has(e, "hf_hub_token"));
  EXPECT_FALSE(has(e, "canary")) << e;
}

TEST(Config, CombinationsWithoutAMeaningAreRefused) {
  EXPECT_TRUE(has(parse_error("mask_history: true\ntrain_on_prompt: true"), "mask_history"));
  EXPECT_TRUE(has(parse_error("stage: pt\nneat_packing: true"), "neat_packing"));
  EXPECT_TRUE(has(parse_error("stage: dpo\nmask_history: true"), "sft only"));
  EXPECT_TRUE(has(parse_error("use_cpu: true\ndevice: cuda"), "contradicts device: cuda"));
  EXPECT_TRUE(has(parse_error("bf16: true\nfp16: true"), "fp16"));
  EXPECT_TRUE(has(parse_error("dataset: a\nval_size: 0.1\neval_dataset: b"), "val_size"));
  EXPECT_TRUE(has(parse_error("dataset: a\nval_size: 1.5"), "whole"));
  EXPECT_TRUE(has(parse_error("dataset: a\nval_size: 1"), "neither a fraction nor a count"));
  EXPECT_TRUE(has(parse_error("dataset: a,b\nmix_strategy: interleave_under\ninterleave_probs: 0.3"), "1 numbers for 2"));
  EXPECT_TRUE(has(parse_error("dataset: a,b\nmix_strategy: interleave_under\ninterleave_probs: 0.3,0.3"), "adds up to 0.6"));
  EXPECT_TRUE(has(parse_error("dataset: a,b\nmix_strategy: interleave_under\ninterleave_probs: 0,1"), "never take a row"));
  EXPECT_TRUE(has(parse_error("dataset: a,b\ninterleave_probs: 0.3,0.7"), "concat"));
  EXPECT_TRUE(has(parse_error("device: cpu\ncommunicator: nccl"), "nccl"));
  EXPECT_TRUE(has(parse_error("disable_gradient_checkpointing: true\nrecompute: full"), "recompute"));
}

TEST(Trainable, AGoodConfigurationPasses) {
  EXPECT_EQ(train_error(kGood), "");
  EXPECT_EQ(train_error(kGood + "eval_strategy: steps\neval_dataset: c\n"), "");
  EXPECT_EQ(train_error("model_name_or_path: m\nfinetuning_type: freeze\ndo_train: true\ntokenized_path: t\noutput_dir: o\n"), "");
}

TEST(Trainable, WhatIsMissingIsNamed) {
  EXPECT_TRUE(has(train_error("stage: sft\ndo_train: true\nfinetuning_type: full\ndataset: a\noutput_dir: o"), "model_name_or_path: is missing"));
  EXPECT_TRUE(has(train_error("model_name_or_path: m\ndo_train: true\nfinetuning_type: full\noutput_dir: o"), "dataset: is missing"));
  EXPECT_TRUE(has(train_error("model_name_or_path: m\ndo_train: true\nfinetuning_type: full\ndataset: a"), "output_dir: is missing"));
  EXPECT_TRUE(has(train_error("model_name_or_path: m\ntemplate: llama3"), "do_train"));
  EXPECT_TRUE(has(train_error(kGood + "eval_strategy: steps"), "eval_strategy: there are no rows"));
}

TEST(Trainable, LaterCapabilitiesAreRefusedByNameButRead) {
  const std::string base = "model_name_or_path: m\ndo_train: true\ndataset: a\noutput_dir: o\n";
  EXPECT_TRUE(has(train_error(base), "default is lora"));
  EXPECT_TRUE(has(train_error(base + "finetuning_type: lora\nlora_rank: 8"), "finetuning_type: lora is not supported in this version"));
  for (const char* stage : {"dpo", "kto", "rm", "ppo"}) {
    EXPECT_TRUE(has(train_error(base + "finetuning_type: full\nstage: " + stage), std::string("stage: ") + stage)) << stage;
    EXPECT_NO_THROW(check_tokenizable(parse_config(base + "stage: " + stage, "c")));
  }
  for (const char* line : {"quantization_bit: 4", "fp16: true", "load_best_model_at_end: true", "early_stopping_steps: 2",
                           "neftune_noise_alpha: 5", "pure_bf16: true", "do_predict: true", "compute_accuracy: true"}) {
    const std::string key(line, std::string(line).find(':'));
    EXPECT_TRUE(has(train_error(kGood + line), "c.yaml:7: " + key)) << train_error(kGood + line);
    EXPECT_EQ(parse_error(kGood + line), "") << line;
  }
  EXPECT_EQ(train_error(kGood + "resume_from_checkpoint: true\nmax_hours: 2\nquantization_bit: null\n"), "");
}

TEST(Trainable, ValuesThatThisVersionCannotDoAreRefusedByName) {
  for (const char* line : {"train_sampling_strategy: group_by_length", "save_strategy: best", "eval_on_start: true"}) {
    const std::string key(line, std::string(line).find(':'));
    EXPECT_TRUE(has(train_error(kGood + line), "c.yaml:7: " + key)) << train_error(kGood + line);
  }
  const Config c = parse_config(kGood + "train_sampling_strategy: sequential\ninclude_num_input_tokens_seen: true\n", "c.yaml");
  EXPECT_FALSE(c.shuffles());
  EXPECT_EQ(c.include_num_input_tokens_seen, "all");
  EXPECT_TRUE(has(parse_error("include_num_input_tokens_seen: some"), "one of no, all or non_padding"));
}

TEST(Trainable, StepsAreCountsOrShares) {
  EXPECT_TRUE(has(train_error(kGood + "logging_steps: 2.5"), "logging_steps"));
  EXPECT_TRUE(has(train_error(kGood + "logging_steps: 0"), "logging_steps"));
  EXPECT_EQ(train_error(kGood + "logging_steps: 0\nlogging_strategy: epoch"), "");
  EXPECT_EQ(steps_of(0.1, 95), 10);
  EXPECT_EQ(steps_of(7, 95), 7);
  Config c;
  c.warmup_ratio = 0.1;
  EXPECT_EQ(warmup_steps_of(c, 32), 4);
  c.warmup_steps = 2;
  EXPECT_EQ(warmup_steps_of(c, 32), 4) << "transformers 5: the ratio wins";
  c.warmup_ratio = 0;
  EXPECT_EQ(warmup_steps_of(c, 32), 2);
  c.warmup_ratio.reset();
  EXPECT_EQ(warmup_steps_of(c, 32), 2);
  c.warmup_steps = 0.25;  // transformers 5: below 1 a share
  EXPECT_EQ(warmup_steps_of(c, 30), 8);
  c.logging_steps = 5;
  EXPECT_EQ(c.evaluation_steps(), 5);
  c.eval_steps = 3;
  EXPECT_EQ(c.evaluation_steps(), 3);
}

TEST(Notes, AreSaidOnlyWhereSomethingWasAskedFor) {
  EXPECT_TRUE(notes_of(parse_config(kGood + "trust_remote_code: false\nreport_to: none\nddp_timeout: 1800\n", "c")).empty());
  const auto notes =
      notes_of(parse_config(kGood + "trust_remote_code: true\nddp_timeout: 180000000\nlora_rank: 16\nlora_dropout: 0.1\nreport_to: [wandb]\n", "c"));
  ASSERT_EQ(notes.size(), 4u);
  const std::string all = notes[0] + notes[1] + notes[2] + notes[3];
  EXPECT_TRUE(has(all, "trust_remote_code: accepted without effect"));
  EXPECT_TRUE(has(all, "detection of hangs stays on"));
  EXPECT_TRUE(has(all, "lora_rank, lora_dropout: accepted without effect"));
}

TEST(Resolved, RoundTripsAndNamesOrigins) {
  const std::string yaml = kGood +
                           "default_system: \"line\\n # \\\"x\\\": [y]\"\nlr_scheduler_kwargs: {min_lr_rate: 0.1, decay_type: cosine, flag: "
                           "'no'}\nlearning_rate: 0.00012345678901234567\n"
                           "interleave_probs: 0.25,0.75\nmix_strategy: interleave_over\nmax_samples: 7\npacking: false\nenable_thinking: "
                           "null\nrun_name: 'null'\ndataset_dir: 'C: x'\nresume_from_checkpoint: 'True'\n"
                           "trust_remote_code: true\ngradient_checkpointing_kwargs: {use_reentrant: false}\nreport_to: [wandb, "
                           "tensorboard]\nexport_dtype: float32\noverlap: off\n";
  const Config first = parse_config(yaml, "c.yaml");
  const std::string text = resolved_yaml(first);
  const Config second = parse_config(text, "again.yaml");
  EXPECT_TRUE(same_values(first, second)) << text;
  EXPECT_TRUE(has(text, "finetuning_type: full  # c.yaml:4\n")) << text;
  EXPECT_TRUE(has(text, "cutoff_len: 2048\n"));
  EXPECT_TRUE(has(text, "trust_remote_code: true  # c.yaml:"));
  EXPECT_TRUE(same_values(Config(), parse_config(resolved_yaml(Config()), "d")));
  Config other = second;
  other.cutoff_len += 1;
  EXPECT_FALSE(same_values(first, other));
}

TEST(Resolved, PackingFollowsLLaMAFactory) {
  EXPECT_TRUE(parse_config("stage: pt", "c").packs());
  EXPECT_FALSE(parse_config("stage: pt", "c").packing_written());
  EXPECT_FALSE(parse_config("stage: pt\npacking: false", "c").packs());
  EXPECT_FALSE(parse_config("stage: sft", "c").packs());
  EXPECT_TRUE(parse_config("stage: sft\nneat_packing: true", "c").packing_written());
  EXPECT_EQ(parse_config("disable_gradient_checkpointing: true", "c").recompute_mode(), "none");
}

TEST(Compatibility, TheGoldenRunsParse) {
  SKIP_WITHOUT_SHARED();
  int accepted = 0, all = 0;
  for (const auto& entry : std::filesystem::directory_iterator(shared_dir() + "/compat/runs")) {
    const std::string path = entry.path().string() + "/config.yaml";
    if (!std::filesystem::exists(path)) continue;
    const Config c = load_config(path);
    ++all;
    EXPECT_EQ(c.warmup_ratio, c.is_default("warmup_ratio") ? std::nullopt : std::optional(0.1));
    EXPECT_TRUE(same_values(c, parse_config(resolved_yaml(c), "r")));
    const bool trains = (c.stage == "sft" || c.stage == "pt") && (c.finetuning_type == "full" || c.finetuning_type == "freeze");
    accepted += trains;
    EXPECT_EQ(error_of([&] { check_trainable(c); }).empty(), trains) << path << error_of([&] { check_trainable(c); });
  }
  EXPECT_GE(all, 22);
  EXPECT_GE(accepted, 12);
}

TEST(Config, AHundredThousandUnknownKeysAreRefusedAtOnce) {
  std::string yaml, json = "{";
  for (int i = 0; i < 100000; ++i) {
    yaml += "k" + std::to_string(i) + ": 1\n";
    json += std::string(i ? "," : "") + "\"k" + std::to_string(i) + "\":1";
  }
  yaml.resize(yaml.rfind('\n', kYamlMaxBytes - 1) + 1);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(has(parse_error(yaml), "more faults"));
  try {
    parse_deepspeed(json + "}", "ds.json");
    ADD_FAILURE() << "accepted";
  } catch (const InputError& e) {
    EXPECT_TRUE(has(e.what(), "more faults")) << e.what();
  }
  // Took ten seconds when the nearest key was looked for each time. A machine may be busy: five seconds.
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 5.0);
}

}  // namespace
}  // namespace llmtrain
