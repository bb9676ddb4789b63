// What a resumed run must share with the run that it goes on from: rows in their sequence, the model's mathematics, the global batch; and steps that were
// skipped because something in them was not a number, which must not spoil what comes after.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const std::vector<std::string> kRun{"max_steps=7", "save_strategy=steps", "save_steps=2", "logging_steps=3"};

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

RunOutcome program(const std::vector<std::string>& words) {
  RunOptions options;
  options.ranks = 0;
  return run_llmtrain(words, options);
}

// Sets a row of a tensor to NaN.
void poison_row(const std::string& model, const std::string& tensor, int64_t row) {
  std::string bytes = read_file(model + "/model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const Json entry = parse_json(bytes.substr(8, header), "header")[tensor];
  ASSERT_EQ(entry["dtype"], "F32");
  const int64_t columns = entry["shape"].back().get<int64_t>();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int64_t c = 0; c < columns; ++c)
    std::memcpy(bytes.data() + 8 + header + entry["data_offsets"][0].get<int64_t>() + (row * columns + c) * 4, &nan, sizeof nan);
  std::ofstream(model + "/model.safetensors", std::ios::binary) << bytes;
}

// The embedding of one token: a row with it has a loss that is no number.
void poison(const std::string& model, const std::string& token) {
  const Json tokenizer = parse_json_file(model + "/tokenizer.json");
  poison_row(model, "model.embed_tokens.weight", tokenizer["model"]["vocab"][token].get<int64_t>());
}

void copy_checkpoint(const OwnModel& model, const std::string& from, const std::string& to, int step) {
  fs::create_directories(model.output(to));
  const std::string name = "/checkpoint-" + std::to_string(step);
  fs::copy(model.output(from) + name, model.output(to) + name, fs::copy_options::recursive);
}

TEST(Resume, ASkippedStepSpoilsNeitherCheckpointsNorResultsNorTheResumedRun) {
  const OwnModel model;
  std::string rows = read_file(model.path() + "/data/colours.json");
  rows.insert(rows.find("the sky?"), "\xe2\x82\xac");  // bytes that no other row has
  model.write("data/colours.json", rows);
  poison(model.path() + "/model", "\xc3\xa2");  // the byte e2 in the byte-level alphabet
  const RunOutcome whole = model.train("whole", 2, kRun);
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  ASSERT_NE(whole.err.find("the step is skipped"), std::string::npos) << whole.err;
  const Json results = parse_json_file(model.output("whole") + "/all_results.json");
  EXPECT_TRUE(std::isfinite(results["train_loss"].get<double>())) << "skipped steps do not count in the mean";
  const RunOutcome inspected = program({"inspect", model.output("whole") + "/checkpoint-6"});
  EXPECT_EQ(inspected.exit_code, 0) << inspected.out;
  EXPECT_EQ(program({"convert", model.output("whole") + "/checkpoint-6", model.output("converted")}).exit_code, 0);
  copy_checkpoint(model, "whole", "resumed", 6);
  const RunOutcome resumed = model.train("resumed", 2, kRun);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("resuming from"), std::string::npos) << resumed.err;
  EXPECT_EQ(bits_of_run(model.output("resumed")), bits_of_run(model.output("whole")));
  EXPECT_EQ(parse_json_file(model.output("resumed") + "/all_results.json")["train_loss"], results["train_loss"]);

  std::ofstream(model.output("resumed") + "/all_results.json") << "{\"train_loss\": NaN, \"eval_loss\": -Infinity, \"train_runtime\": 77.0}\n";  // as Python writes it
  const RunOutcome report = program({"report", model.output("whole"), model.output("resumed")});
  EXPECT_EQ(report.exit_code, 0) << report.err;
  EXPECT_NE(report.out.find("77"), std::string::npos) << report.out;
}

// Ten in a row end a run, however often it is started again in between.
TEST(Resume, SkippedStepsInARowAreCountedAcrossAResume) {
  const OwnModel model;
  poison_row(model.path() + "/model", "model.norm.weight", 0);
  const std::vector<std::string> words{"max_steps=14", "save_strategy=steps", "save_steps=6", "async_save=false"};
  for (const char* start : {"first", "second"}) {
    const RunOutcome run = model.train("out", 0, words);
    EXPECT_EQ(run.exit_code, 1) << start << ": " << run.err;
    EXPECT_NE(run.err.find("step 10: the gradient is not finite"), std::string::npos) << start << ": " << run.err;
    EXPECT_EQ(run.err.find("resuming from out/checkpoint-6") != std::string::npos, std::string(start) == "second") << run.err;
  }
}

TEST(Resume, TwoRanksThenOneThenThreeKeepTheGlobalBatch) {
  const OwnModel model;
  const std::vector<std::string> batch = with(kRun, {"gradient_accumulation_steps=3", "max_steps=4"}), cut = with(batch, {"max_hours=0.00001"});
  EXPECT_EQ(model.train("out", 2, cut).exit_code, 85);
  EXPECT_EQ(model.train("out", 1, cut).exit_code, 85);
  const RunOutcome three = model.train("out", 3, batch);
  EXPECT_EQ(three.exit_code, 0) << three.err;
  EXPECT_NE(three.err.find("= 12"), std::string::npos) << three.err;
  EXPECT_NE(three.err.find("gradient_accumulation_steps becomes 2"), std::string::npos) << three.err;
}

TEST(Resume, AnotherSequenceOfRowsOrAnotherModelIsRefusedByItsKey) {
  const OwnModel model;
  ASSERT_EQ(model.train("whole", 0, kRun).exit_code, 0);
  fs::copy(model.path() + "/model", model.path() + "/other", fs::copy_options::recursive);
  Json config = parse_json_file(model.path() + "/other/config.json");
  config["rms_norm_eps"] = 1e-6;
  model.write("other/config.json", dump_json(config));
  fs::copy(model.path() + "/data", model.path() + "/data2", fs::copy_options::recursive);
  std::string rows = read_file(model.path() + "/data/colours.json");
  rows[rows.find("white")] = 'W';  // as many rows, as many tokens or nearly
  model.write("data2/colours.json", rows);
  copy_checkpoint(model, "whole", "refused", 4);
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {"seed=7", {"seed", "42", "7", "overwrite_output_dir"}},
      {"disable_shuffling=true", {"disable_shuffling", "false"}},
      {"train_sampling_strategy=sequential", {"disable_shuffling", "false"}},
      {"dataloader_drop_last=true", {"dataloader_drop_last", "false"}},
      {"cutoff_len=16", {"cutoff_len was 96 and is 16"}},
      {"train_on_prompt=true", {"train_on_prompt was false and is true"}},  // the same tokens, others of them trained
      {"dataset_dir=data2", {"dataset_dir was data and is data2", "other training rows"}},
      {"model_name_or_path=other", {"another model", "rms_norm_eps", "1e-05", "1e-06"}}};
  for (const auto& [word, says] : cases) {
    const RunOutcome run = model.train("refused", 0, with(kRun, {word}));
    EXPECT_EQ(run.exit_code, 2) << word << "\n" << run.err;
    for (const std::string& part : says) EXPECT_NE(run.err.find(part), std::string::npos) << "\"" << part << "\" is not said: " << run.err;
  }
  const RunOutcome run = model.train("refused", 0, with(kRun, {"learning_rate=0.001", "logging_steps=1", "save_steps=3", "max_steps=6"}));
  EXPECT_EQ(run.exit_code, 0) << "what does not touch the rows may change\n" << run.err;
}

}  // namespace
}  // namespace llmtrain
