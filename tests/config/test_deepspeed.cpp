// DeepSpeed files: every key by name, "auto", batch arithmetic, what this version refuses.
#include <gtest/gtest.h>

#include <filesystem>

#include "config/deepspeed.h"
#include "core/error.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

template <class Work>
std::string error_of(Work work) {
  try {
    work();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
std::string parse_error(const std::string& json) {
  return error_of([&] { parse_deepspeed(json, "ds.json"); });
}
std::string train_error(const std::string& json) {
  return error_of([&] { check_trainable(parse_deepspeed(json, "ds.json")); });
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::string kStage3 = "\"zero_optimization\": {\"stage\": 3}";

TEST(DeepSpeed, AutoComesFromTheYaml) {
  const auto ds = parse_deepspeed(
      "{\"train_batch_size\": \"auto\", \"gradient_clipping\": \"auto\", \"bf16\": {\"enabled\": \"auto\"}, " + kStage3 + "}", "ds.json");
  Config c = parse_config("per_device_train_batch_size: 3\nbf16: true\nmax_grad_norm: 0.5\n", "c.yaml");
  const Config before = c;
  apply_deepspeed(c, ds);
  resolve_batch(c, ds, 4);
  EXPECT_TRUE(same_values(c, before));
  EXPECT_EQ(train_error("{" + kStage3 + "}"), "");
}

TEST(DeepSpeed, NumbersFillWhatTheYamlLeavesOut) {
  const auto ds = parse_deepspeed(
      "{\"train_micro_batch_size_per_gpu\": 2, \"gradient_clipping\": 0.3, \"bf16\": {\"enabled\": true}, \"optimizer\": {\"type\": \"AdamW\", "
      "\"params\": {\"lr\": 1e-4, \"betas\": [0.9, 0.95], "
      "\"eps\": \"auto\", \"weight_decay\": 0}}, " +
          kStage3 + "}",
      "ds.json");
  Config c = parse_config("stage: sft", "c.yaml");
  apply_deepspeed(c, ds);
  EXPECT_EQ(c.per_device_train_batch_size, 2);
  EXPECT_EQ(c.max_grad_norm, 0.3);
  EXPECT_TRUE(c.bf16);
  EXPECT_EQ(c.learning_rate, 1e-4);
  EXPECT_EQ(c.adam_beta2, 0.95);
  EXPECT_EQ(c.origin("bf16"), "ds.json");
  EXPECT_TRUE(c.decays_everything) << "transformers hands DeepSpeed's optimizer all parameters as one group";
  Config without = parse_config("stage: sft", "c.yaml");
  apply_deepspeed(without, parse_deepspeed("{" + kStage3 + "}", "ds.json"));
  EXPECT_FALSE(without.decays_everything);
}

TEST(DeepSpeed, AnotherAdamIsRefusedByName) {
  const auto with = [](const std::string& params) {
    return train_error("{\"optimizer\": {\"type\": \"Adam\", \"params\": {" + params + "}}, " + kStage3 + "}");
  };
  EXPECT_EQ(with("\"adam_w_mode\": true, \"bias_correction\": true, \"torch_adam\": false"), "");
  EXPECT_TRUE(has(with("\"adam_w_mode\": false"), "optimizer.params.adam_w_mode: false is not supported"));
  EXPECT_TRUE(has(with("\"bias_correction\": false"), "optimizer.params.bias_correction"));
}

TEST(DeepSpeed, NumbersThatDifferFromTheYamlAreRefused) {
  const auto ds = parse_deepspeed("{\"train_micro_batch_size_per_gpu\": 2, \"gradient_accumulation_steps\": 4, " + kStage3 + "}", "ds.json");
  Config c = parse_config("per_device_train_batch_size: 1\ngradient_accumulation_steps: 4\n", "c.yaml");
  const std::string e = error_of([&] { apply_deepspeed(c, ds); });
  EXPECT_TRUE(has(e, "c.yaml:1: per_device_train_batch_size") && has(e, "1 differs from train_micro_batch_size_per_gpu 2 of ds.json")) << e;
  EXPECT_FALSE(has(e, "accumulation")) << e;
}

TEST(DeepSpeed, BatchArithmeticIsShown) {
  const auto ds = parse_deepspeed("{\"train_batch_size\": 24, " + kStage3 + "}", "ds.json");
  Config c = parse_config("per_device_train_batch_size: 2\ngradient_accumulation_steps: 3\n", "c.yaml");
  EXPECT_NO_THROW(resolve_batch(c, ds, 4));
  const std::string e = error_of([&] { resolve_batch(c, ds, 5); });
  EXPECT_TRUE(has(e, "micro-batch 2 x accumulation 3 x 5 ranks = 30, but train_batch_size is 24")) << e;
  Config open = parse_config("per_device_train_batch_size: 2", "c.yaml");
  resolve_batch(open, ds, 3);
  EXPECT_EQ(open.gradient_accumulation_steps, 4);
  Config uneven = parse_config("per_device_train_batch_size: 5", "c.yaml");
  EXPECT_TRUE(has(error_of([&] { resolve_batch(uneven, ds, 1); }), "5 x accumulation 1 x 1 rank = 5"));
}

TEST(DeepSpeed, OtherStagesAndOffloadAreRefusedByName) {
  const std::string e =
      train_error("{\n\"zero_optimization\": {\n \"stage\": 2,\n \"offload_optimizer\": {\"device\": \"cpu\", \"pin_memory\": true}}}");
  EXPECT_TRUE(has(e, "ds.json:3: zero_optimization.stage: 2 is not supported in this version")) << e;
  EXPECT_TRUE(has(e, "ds.json:4: zero_optimization.offload_optimizer.device: offload to cpu is not supported")) << e;
  EXPECT_TRUE(has(train_error("{}"), "zero_optimization.stage: 0"));
  EXPECT_TRUE(has(train_error("{\"tensor_parallel\": {\"autotp_size\": 2}, " + kStage3 + "}"), "tensor_parallel"));
  EXPECT_TRUE(has(train_error("{\"zero_optimization\": {\"stage\": 3, \"zero_hpz_partition_size\": 8}}"), "zero_hpz_partition_size"));
  EXPECT_EQ(train_error("{\"zero_optimization\": {\"stage\": 3, \"zero_hpz_partition_size\": 1, \"zero_quantized_weights\": false, "
                        "\"offload_param\": {\"device\": \"none\"}}}"),
            "");
  Config c = parse_config("model_name_or_path: m\ndo_train: true\nfinetuning_type: full\ndataset: a\noutput_dir: o", "c.yaml");
  apply_deepspeed(c, parse_deepspeed("{\"fp16\": {\"enabled\": true}, " + kStage3 + "}", "ds.json"));
  EXPECT_TRUE(has(error_of([&] { check_trainable(c); }), "fp16"));
}

TEST(DeepSpeed, FaultsNameTheLineAndTheNearestKey) {
  const std::string e = parse_error("{\n\"zero_optimization\": {\n\"stage\": 3,\n\"overlap_com\": true}}");
  EXPECT_TRUE(has(e, "ds.json:4: unknown key 'zero_optimization.overlap_com'") && has(e, "nearest known key: zero_optimization.overlap_comm")) << e;
  EXPECT_TRUE(has(parse_error("{\"zero_optimization\": {\"stage\": 3, \"offload_param\": {\"devices\": \"cpu\"}}}"), "offload_param.device"));
  EXPECT_TRUE(has(parse_error("{\"zero_optimization\": {\"stage\": 7}}"), "7 is not a stage"));
  EXPECT_TRUE(has(parse_error("{\"train_batch_size\": -3}"), "train_batch_size"));
  EXPECT_TRUE(has(parse_error("{\"bf16\": true}"), "bf16: is not a map"));
  EXPECT_TRUE(has(parse_error("{\"gradient_clipping\": \"much\"}"), "gradient_clipping"));
  EXPECT_TRUE(has(parse_error("[]"), "not a JSON object"));
  EXPECT_TRUE(has(parse_error("{\"stage\": "), "broken JSON"));
  EXPECT_TRUE(has(parse_error("{\"bf16\": {}, \"bf16\": {}}"), "twice"));
  EXPECT_EQ(parse_error("{\"_comment\": \"x\", \"bf16\": null}"), "");
}

TEST(DeepSpeed, EveryKeyWithoutEffectIsSaidOnItsOwnLine) {
  const auto ds = parse_deepspeed(
      "{\"steps_per_print\": 10, \"zero_optimization\": {\"stage\": 3, \"sub_group_size\": 1e9, \"reduce_bucket_size\": \"auto\"}}", "ds.json");
  ASSERT_EQ(ds.notes.size(), 4u);
  EXPECT_TRUE(has(ds.notes[3], "gradient_clipping is left out"));
  EXPECT_TRUE(parse_deepspeed("{\"gradient_clipping\": \"auto\"}", "ds.json").notes.empty());
  EXPECT_TRUE(has(ds.notes[1], "zero_optimization.sub_group_size: accepted without effect"));
}

TEST(DeepSpeed, TheFilesOfLLaMAFactoryAreRead) {
  SKIP_WITHOUT_SHARED();
  int accepted = 0, all = 0;
  for (const auto& entry : std::filesystem::directory_iterator(testing_support::shared_dir() + "/compat/llamafactory/examples/deepspeed")) {
    const auto ds = read_deepspeed(entry.path().string());
    const bool trains = error_of([&] { check_trainable(ds); }).empty();
    EXPECT_EQ(trains, entry.path().filename() == "ds_z3_config.json") << entry.path();
    accepted += trains;
    ++all;
  }
  EXPECT_EQ(accepted, 1);
  EXPECT_GE(all, 7);
}

}  // namespace
}  // namespace llmtrain
