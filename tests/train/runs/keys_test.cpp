// Keys of the configuration that the golden runs of shared/compat leave out, each against a run that LLaMA-Factory itself did (values/run_values.json, by
// values/make_run_values.py): all that it logged, the lines of its trainer_log.jsonl, its results.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/file.h"
#include "train/runs/support.h"

namespace llmtrain {
namespace {

using namespace testing_support;

const CompatFolder& compat() {
  static const CompatFolder folder;
  return folder;
}

const Json& values() {
  static const Json all = parse_json_file("tests/train/runs/values/run_values.json", size_t{1} << 20);
  return all;
}

// Datasets with num_samples, as make_run_values.py has them.
void write_drawn_datasets() {
  const std::string folder = compat().path() + "/drawn";
  if (std::filesystem::exists(folder)) return;
  std::filesystem::create_directory(folder);
  const Json rows = parse_json_file(compat().path() + "/llamafactory/data/alpaca_en_demo.json", size_t{1} << 26);
  Json five = Json::array();
  for (size_t i = 0; i < 5; ++i) five.push_back(rows[i]);
  std::ofstream(folder + "/five.json") << dump_json(five);
  std::ofstream(folder + "/dataset_info.json") << R"({"seven": {"file_name": "../llamafactory/data/identity.json", "num_samples": 7},
    "more": {"file_name": "five.json", "num_samples": 8}, "five": {"file_name": "five.json", "num_samples": 5}})";
}

std::string yaml_of(const Json& options) {
  Json all = values()["base"];
  for (const auto& [key, value] : options.items()) all[key] = value;
  std::string yaml;
  for (const auto& [key, value] : all.items()) yaml += key + ": " + dump_json(value) + "\n";  // JSON is YAML
  return yaml;
}

// A step has up to three kinds of entries; sets that are evaluated by themselves have an entry each.
std::string place_of(const Json& entry) {
  std::string kind = entry.contains("train_loss") ? "run" : "step";
  for (const auto& [key, value] : entry.items())
    if (key.starts_with("eval_") && key.ends_with("_loss")) kind = key;
  return std::to_string(entry["step"].get<int64_t>()) + " " + kind;
}

double tolerance_of(const std::string& key) {
  if (key == "grad_norm") return 2e-4;  // as compare_run
  return key.ends_with("loss") ? 2e-5 : key.ends_with("perplexity") ? 2e-4 : 1e-9;
}

void expect_same(const Json& have, const Json& want, const std::string& what) {
  for (const auto& [key, value] : want.items()) {
    ASSERT_TRUE(have.contains(key)) << what << " has no " << key;
    const double wanted = value, had = have[key];
    EXPECT_NEAR(had, wanted, tolerance_of(key) * std::max(std::abs(wanted), 1e-12)) << what << ", " << key;
    EXPECT_TRUE(value.is_number_float() || have[key].is_number_integer() || key == "epoch") << what << ", " << key << " is a whole number";
  }
}

class KeyRun : public testing::TestWithParam<const char*> {};

TEST_P(KeyRun, GivesWhatLLaMAFactoryGave) {
  SKIP_WITHOUT_SHARED();
  const Json& want = values()["cases"][GetParam()];
  if (!std::filesystem::exists(compat().path() + "/models/tiny-phi3")) GTEST_SKIP() << "shared data without all models";  // part of it was carried to a GPU
  write_drawn_datasets();
  const ScratchFolder scratch;
  std::ofstream(scratch / "config.yaml") << yaml_of(want["options"]);
  RunOptions run;
  run.folder = compat().path();
  run.ranks = 0;
  const std::string out = scratch / "out";
  const RunOutcome outcome = run_llmtrain({"train", "--config", scratch / "config.yaml", "output_dir=" + out, "progress=lines"}, run);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;

  const Json state = parse_json_file(out + "/trainer_state.json");
  EXPECT_EQ(state["max_steps"], want["max_steps"]);
  EXPECT_EQ(state["num_train_epochs"].get<double>(), want["num_train_epochs"].get<double>());
  std::map<std::string, Json> got;
  for (const Json& entry : state["log_history"]) EXPECT_TRUE(got.emplace(place_of(entry), entry).second) << "twice: " << place_of(entry);
  EXPECT_EQ(got.size(), want["log_history"].size());
  for (const Json& entry : want["log_history"]) {
    ASSERT_TRUE(got.contains(place_of(entry))) << "nothing at step " << place_of(entry);
    expect_same(got[place_of(entry)], entry, "step " + place_of(entry));
  }
  expect_same(parse_json_file(out + "/all_results.json"), want["results"], "all_results.json");

  std::vector<std::set<std::string>> lines;
  std::ifstream log(out + "/trainer_log.jsonl");
  for (std::string line; std::getline(log, line);) {
    lines.emplace_back();
    const Json entry = parse_json(line, "trainer_log.jsonl");
    for (const auto& [key, value] : entry.items()) lines.back().insert(key);
  }
  ASSERT_EQ(lines.size(), want["log_lines"].size());
  for (size_t i = 0; i < lines.size(); ++i) {
    std::set<std::string> wanted = want["log_lines"][i].get<std::set<std::string>>();
    for (const char* always : {"throughput", "total_tokens"})  // LLaMA-Factory writes these only where tokens are counted
      if (lines[i].contains(always)) wanted.insert(always);
    EXPECT_EQ(lines[i], wanted) << "line " << i + 1;
  }
}

INSTANTIATE_TEST_SUITE_P(Keys, KeyRun,
                         testing::Values("shuffled", "data_seed", "val_fraction", "val_count_delayed", "val_packed", "pt_evaluated", "interleaved", "interleaved_under",
                                         "num_samples", "drop_last", "each_dataset", "stable_decay", "padded_tokens", "freeze_first", "phi3_workers"),
                         [](const auto& name) { return std::string(name.param); });

TEST(KeyRunValues, AreAllTried) { EXPECT_EQ(values()["cases"].size(), 15u) << "name a new case above"; }

}  // namespace
}  // namespace llmtrain
