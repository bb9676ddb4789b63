// Wrong input ends every rank with exit code 2, within seconds, with one clear message from one rank, and changes nothing.
#include <gtest/gtest.h>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

using namespace testing_support;

constexpr double kMostSeconds = 5;

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

struct Wrong {
  const char* name;
  std::vector<std::string> overrides;
  std::string says;  // part of the message
};

void PrintTo(const Wrong& w, std::ostream* out) { *out << w.name; }

void expect_refused(const RunOutcome& run, const std::string& says) {
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_LT(run.seconds, kMostSeconds);
  EXPECT_EQ(count_of(run.err, "llmtrain: "), 1u) << "one message: " << run.err;
  EXPECT_NE(run.err.find(says), std::string::npos) << "expected '" << says << "' in: " << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err.find("MPI_ABORT"), std::string::npos) << "left together, not aborted";
}

class WrongOverride : public testing::TestWithParam<Wrong> {};

TEST_P(WrongOverride, IsRefusedOnAllRanks) {
  const ScratchFolder out;
  const RunOutcome run = own().train(out / "new", 2, GetParam().overrides);
  expect_refused(run, GetParam().says);
  EXPECT_FALSE(std::filesystem::exists(out / "new/trainer_log.jsonl"));
}

INSTANTIATE_TEST_SUITE_P(
    Train, WrongOverride,
    testing::Values(Wrong{"misspelt_key", {"learning_rat=1e-3"}, "learning_rate"}, Wrong{"wrong_type", {"num_train_epochs=many"}, "num_train_epochs"},
                    Wrong{"negative_length", {"cutoff_len=-5"}, "cutoff_len"}, Wrong{"unsupported_stage", {"stage=ppo"}, "ppo"},
                    Wrong{"unsupported_key", {"use_galore=true"}, "use_galore"}, Wrong{"missing_dataset", {"dataset=nothing"}, "nothing"},
                    Wrong{"missing_dataset_dir", {"dataset_dir=nowhere"}, "nowhere"},
                    Wrong{"missing_model", {"model_name_or_path=no_model"}, "no_model"},
                    Wrong{"missing_hub_model", {"model_name_or_path=Nobody/Nothing-1B"}, "Nobody/Nothing-1B"},
                    Wrong{"unknown_template", {"template=llama33"}, "llama3"}, Wrong{"missing_deepspeed", {"deepspeed=ds.json"}, "ds.json"},
                    Wrong{"resume", {"resume_from_checkpoint=true"}, "resume_from_checkpoint"}, Wrong{"cuda", {"device=cuda"}, "cuda"},
                    Wrong{"own_folder", {"output_dir=model"}, "folder of the model"},
                    Wrong{"freeze_module", {"finetuning_type=freeze", "freeze_trainable_modules=attn"}, "self_attn"},
                    Wrong{"schedule_argument", {"lr_scheduler_type=cosine_with_min_lr"}, "min_lr"}, Wrong{"half", {"fp16=true"}, "fp16"}),
    [](const testing::TestParamInfo<Wrong>& info) { return std::string(info.param.name); });

// A copy of the own model with one file changed.
class BrokenModel : public testing::Test {
 protected:
  BrokenModel() { std::filesystem::copy(own().path() + "/model", folder_ / "model"); }
  std::string file(const std::string& name) const { return folder_ / ("model/" + name); }
  void expect(const std::string& says) { expect_refused(own().train(folder_ / "out", 2, {"model_name_or_path=" + (folder_ / "model")}), says); }
  ScratchFolder folder_;
};

TEST_F(BrokenModel, TokenizerLargerThanTheEmbedding) {
  std::string config = read_file(file("config.json"));
  // The weights keep their shape, so the fault must be found from the two sizes alone, both of which the message names.
  const size_t at = config.find("320");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, 3, "300");
  write_file_atomically(file("config.json"), config);
  expect("320");
}

TEST_F(BrokenModel, TruncatedWeights) {
  std::filesystem::resize_file(file("model.safetensors"), std::filesystem::file_size(file("model.safetensors")) - 100);
  expect("model.safetensors");
}

TEST_F(BrokenModel, PickleInPlaceOfSafetensors) {
  write_file_atomically(file("model.safetensors"), std::string("PK\x03\x04", 4) + std::string(100, 'x'));
  expect("model.safetensors");
}

TEST_F(BrokenModel, BrokenConfigJson) {
  write_file_atomically(file("config.json"), "{\"model_type\": \"llama\",");
  expect("config.json");
}

TEST_F(BrokenModel, UnsupportedArchitecture) {
  write_file_atomically(file("config.json"), R"({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]})");
  expect("mixtral");
}

TEST_F(BrokenModel, NoTokenizer) {
  std::filesystem::remove(file("tokenizer.json"));
  expect("tokenizer");
}

TEST(WrongFiles, BrokenYaml) {
  own().write("broken.yaml", "stage: sft\n  dataset: [a\n");
  RunOptions options;
  options.ranks = 2;
  options.folder = own().path();
  expect_refused(run_llmtrain({"--config", "broken.yaml"}, options), "broken.yaml");
}

TEST(WrongFiles, MissingYaml) {
  RunOptions options;
  options.ranks = 2;
  options.folder = own().path();
  expect_refused(run_llmtrain({"--config", "nowhere.yaml"}, options), "nowhere.yaml");
}

TEST(WrongFiles, BrokenRows) {
  own().write("data/bad.json", "[{\"instruction\": \"a\", ");
  own().write("data/dataset_info.json",
              R"({"colours": {"file_name": "colours.json"}, "bad": {"file_name": "bad.json"}, "gone": {"file_name": "gone.json"}})");
  const ScratchFolder out;
  expect_refused(own().train(out / "o", 2, {"dataset=bad"}), "bad.json");
  expect_refused(own().train(out / "o", 2, {"dataset=gone"}), "gone.json");
}

TEST(WrongFiles, DeepSpeedBatchThatDoesNotComeOut) {
  own().write("ds.json",
              R"({"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "zero_optimization": {"stage": 3}})");
  const ScratchFolder out;
  expect_refused(own().train(out / "o", 2, {"deepspeed=ds.json"}), "7");
}

// A node that sees other files under the same names: rank 1 works in a folder of its own.
class OneRankElsewhere : public testing::Test {
 protected:
  OneRankElsewhere() : other_(own().path() + "/other-node") {
    std::filesystem::remove_all(other_);
    std::filesystem::create_directories(other_);
    for (const char* name : {"model", "data", "train.yaml"})
      std::filesystem::copy(own().path() + "/" + name, other_ + "/" + name, std::filesystem::copy_options::recursive);
    own().write("elsewhere.sh", "if [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then cd other-node || exit 9; fi\nexec \"$@\"\n");
    options_.ranks = 2;
    options_.folder = own().path();
    options_.wrapper = own().path() + "/elsewhere.sh";
  }
  RunOutcome train() const { return run_llmtrain({"--config", "train.yaml", "output_dir=" + (out_ / "o"), "max_steps=1"}, options_); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(other_ + "/" + name, std::ios::binary) << text; }

  std::string other_;
  RunOptions options_;
  ScratchFolder out_;
};

TEST_F(OneRankElsewhere, TrainsWhereTheFilesAreTheSame) { EXPECT_EQ(train().exit_code, 0); }

TEST_F(OneRankElsewhere, WithoutTheConfiguration) {
  std::filesystem::remove(other_ + "/train.yaml");
  expect_refused(train(), "train.yaml");
}

TEST_F(OneRankElsewhere, WithAFaultInTheConfiguration) {
  write("train.yaml", "stage: sft\ncutof_len: 3\n");
  expect_refused(train(), "cutof_len");
}

TEST_F(OneRankElsewhere, WithoutTheModel) {
  std::filesystem::remove_all(other_ + "/model");
  expect_refused(train(), "(rank 1 on ");
}

TEST_F(OneRankElsewhere, WithOtherWeights) {
  const std::string file = other_ + "/model/model.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() - 1] = static_cast<char>(bytes[bytes.size() - 1] ^ 1);
  const size_t middle = bytes.size() / 2;
  for (size_t i = middle; i < bytes.size(); ++i) bytes[i] = static_cast<char>(bytes[i] ^ 1);
  write("model/model.safetensors", bytes);
  expect_refused(train(), "model.safetensors is not the one that rank 0 reads");
}

TEST_F(OneRankElsewhere, WithAnotherConfigJson) {
  std::string text = read_file(other_ + "/model/config.json");
  const size_t brace = text.find('{');
  text.insert(brace + 1, "\"rope_theta\": 77777.0,");
  const size_t again = text.find("\"rope_theta\"", brace + 30);
  if (again != std::string::npos) text.erase(again, text.find(',', again) + 1 - again);
  write("model/config.json", text);
  expect_refused(train(), "config.json is not the one that rank 0 reads");
}

TEST(WrongCommands, OtherCommandsRefuseInTheSameWay) {
  RunOptions options;
  options.ranks = 2;
  options.folder = own().path();
  expect_refused(run_llmtrain({"bench", "nowhere"}, options), "nowhere");
  expect_refused(run_llmtrain({"bench", "model", "--seq", "0"}, options), "--seq");
  expect_refused(run_llmtrain({"generate", "--model", "nowhere", "--prompt", "x"}, options), "nowhere");
  expect_refused(run_llmtrain({"generate", "--model", "model", "--prompt", "x", "--temperature", "-1"}, options), "--temperature");
  expect_refused(run_llmtrain({"data", "--config", "train.yaml", "dataset=nothing"}, options), "nothing");
}

}  // namespace
}  // namespace llmtrain
