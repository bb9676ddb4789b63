// Runs that end early and go on: bit for bit at the same rank count, the same losses at another, and a refusal where the arithmetic does not fit.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const std::vector<std::string> kBatch{"per_device_train_batch_size=2", "gradient_accumulation_steps=2", "max_steps=7", "save_strategy=steps", "save_steps=2", "logging_steps=1"};

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// An undisturbed run of 7 steps on 2 ranks with checkpoints 2, 4, 6 and 7.
const OwnModel& own() {
  static const OwnModel model;
  static const bool made = [] {
    const RunOutcome run = model.train("whole", 2, kBatch);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return true;
  }();
  (void)made;
  return model;
}

// A folder as a run left it that was killed after checkpoint `step`.
void as_killed_after(const std::string& name, int step) {
  const std::string to = own().output(name);
  fs::create_directories(to);
  fs::copy(own().output("whole") + "/checkpoint-" + std::to_string(step), to + "/checkpoint-" + std::to_string(step), fs::copy_options::recursive);
  fs::copy(own().output("whole") + "/trainer_log.jsonl", to + "/trainer_log.jsonl");
  fs::create_directories(to + "/checkpoint-9.tmp");
}

TEST(Resume, AtTheSameRankCountIsBitwise) {
  for (const int step : {2, 6}) {
    const std::string name = "same" + std::to_string(step);
    as_killed_after(name, step);
    const RunOutcome run = own().train(name, 2, kBatch);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.err.find("resuming from"), std::string::npos) << run.err;
    EXPECT_EQ(bits_of_run(own().output(name)), bits_of_run(own().output("whole"))) << step;
    EXPECT_EQ(logged(own().output(name), "loss").size(), 7u) << "the history is whole, one entry a step";
  }
}

TEST(Resume, AtAnotherRankCountKeepsTheGlobalBatchAndTheLosses) {
  const auto losses = logged(own().output("whole"), "loss");
  for (const int ranks : {1, 4}) {
    const std::string name = "ranks" + std::to_string(ranks);
    as_killed_after(name, 4);
    const RunOutcome run = own().train(name, ranks, kBatch);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.err.find("gradient_accumulation_steps becomes"), std::string::npos) << run.err;
    for (const auto& [step, loss] : logged(own().output(name), "loss")) EXPECT_NEAR(loss, losses.at(step), 2e-5 * loss) << ranks << " ranks, step " << step;
  }
  as_killed_after("ranks3", 4);
  const RunOutcome three = own().train("ranks3", 3, kBatch);
  EXPECT_EQ(three.exit_code, 2) << "8 rows do not divide by 3 ranks of 2";
  EXPECT_NE(three.err.find("= 8"), std::string::npos) << three.err;
}

TEST(Resume, AFinishedRunHasNothingToDoAndOverwritingStartsAfresh) {
  fs::copy(own().output("whole"), own().output("finished"), fs::copy_options::recursive);
  const auto before = fs::last_write_time(own().output("finished") + "/model.safetensors");
  const RunOutcome again = own().train("finished", 2, kBatch);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("nothing is left to do"), std::string::npos) << again.err;
  EXPECT_EQ(fs::last_write_time(own().output("finished") + "/model.safetensors"), before);
  const RunOutcome fresh = own().train("finished", 1, with(kBatch, {"overwrite_output_dir=true", "max_steps=1"}));
  EXPECT_EQ(fresh.exit_code, 0) << fresh.err;
  EXPECT_FALSE(fs::exists(own().output("finished") + "/checkpoint-6")) << "old checkpoints go once the new run has begun well";
}

TEST(Resume, ADamagedNewestIsNamedAndTheOneBeforeIsUsed) {
  as_killed_after("damaged", 2);
  fs::copy(own().output("whole") + "/checkpoint-4", own().output("damaged") + "/checkpoint-4", fs::copy_options::recursive);
  const std::string shard = own().output("damaged") + "/checkpoint-4/shard-00001-of-00002.h5";
  std::string bytes = read_file(shard);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  std::ofstream(shard, std::ios::binary) << bytes;
  RunOptions options;
  options.ranks = 0;
  EXPECT_EQ(run_llmtrain({"inspect", own().output("damaged") + "/checkpoint-4"}, options).exit_code, 1);
  const RunOutcome run = own().train("damaged", 2, kBatch);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("shard-00001-of-00002.h5 is damaged"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("checkpoint-2: step 2"), std::string::npos) << run.err;
  EXPECT_EQ(bits_of_run(own().output("damaged")), bits_of_run(own().output("whole")));
}

TEST(Resume, TheClockStopsARunWithACheckpointAndExitCode85) {
  const RunOutcome first = own().train("clock", 2, with(kBatch, {"max_hours=0.00001"}));
  EXPECT_EQ(first.exit_code, 85) << first.err;
  EXPECT_NE(first.err.find("start again to go on"), std::string::npos) << first.err;
  EXPECT_TRUE(fs::exists(own().output("clock") + "/checkpoint-1/manifest.json"));
  EXPECT_FALSE(fs::exists(own().output("clock") + "/model.safetensors"));
  const RunOutcome second = own().train("clock", 2, kBatch);
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(bits_of_run(own().output("clock")), bits_of_run(own().output("whole")));
}

TEST(Resume, ARequeuedJobGoesOnWithItsOwnRunOnlyEvenUnderOverwrite) {
  const std::map<std::string, std::string> job{{"SLURM_JOB_ID", "77"}};
  std::map<std::string, std::string> requeued = job;
  requeued["SLURM_RESTART_COUNT"] = "1";
  const std::vector<std::string> overwrite = with(kBatch, {"overwrite_output_dir=true"});
  const RunOutcome first = own().train("requeue", 1, with(overwrite, {"max_hours=0.00001", "gradient_accumulation_steps=4"}), job);
  ASSERT_EQ(first.exit_code, 85) << first.err;
  EXPECT_NE(first.err.find("start again with resume_from_checkpoint=true to go on"), std::string::npos) << "the same command would start afresh: " << first.err;
  const RunOutcome again = own().train("requeue", 1, with(overwrite, {"gradient_accumulation_steps=4"}), requeued);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("resuming from"), std::string::npos) << again.err;
  as_killed_after("other", 4);  // another run's checkpoint
  const RunOutcome other = own().train("other", 2, overwrite, requeued);
  EXPECT_EQ(other.exit_code, 0) << other.err;
  EXPECT_EQ(other.err.find("resuming from"), std::string::npos) << other.err;
}

Json manifest_of(const std::string& checkpoint) { return parse_json_file(checkpoint + "/manifest.json"); }

// A job of Slurm that begins at a checkpoint somewhere is stopped and requeued: it goes on with what it wrote itself.
TEST(Resume, ARequeuedJobWithAPathGoesOnWithItsOwnRun) {
  std::map<std::string, std::string> job{{"SLURM_JOB_ID", "88"}};
  const std::string path = own().output("whole") + "/checkpoint-2", out = own().output("forked");
  const std::vector<std::string> words = with(kBatch, {"resume_from_checkpoint=" + path});
  ASSERT_EQ(own().train("forked", 2, with(words, {"max_hours=0.00001"}), job).exit_code, 85);
  EXPECT_EQ(manifest_of(out + "/checkpoint-3")["run_id"], "slurm-88") << "a run of its own, not that of the folder it began from";
  job["SLURM_RESTART_COUNT"] = "1";
  const RunOutcome again = own().train("forked", 2, words, job);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("resuming from forked/checkpoint-3: step 3"), std::string::npos) << again.err;
  EXPECT_EQ(bits_of_run(out), bits_of_run(own().output("whole")));
  as_killed_after("not-its-own", 6);  // requeued before it saved anything, in a folder with another job's checkpoint
  const RunOutcome other = own().train("not-its-own", 2, words, job);
  EXPECT_EQ(other.exit_code, 0) << other.err;
  EXPECT_NE(other.err.find("resuming from " + path + ": step 2"), std::string::npos) << other.err;
}

TEST(Resume, GoingBackInTheSameFolderLeavesTheLaterCourse) {
  std::map<std::string, std::string> job{{"SLURM_JOB_ID", "89"}};
  const std::string out = own().output("back");
  fs::copy(own().output("whole"), out, fs::copy_options::recursive);
  const std::vector<std::string> words = with(kBatch, {"resume_from_checkpoint=" + out + "/checkpoint-2/", "save_total_limit=1"});
  const RunOutcome first = own().train("back", 2, with(words, {"max_hours=0.00001"}), job);
  ASSERT_EQ(first.exit_code, 85) << first.err;
  EXPECT_NE(first.err.find("checkpoint-7.abandoned"), std::string::npos) << "it says so: " << first.err;
  EXPECT_EQ(read_file(out + "/latest"), "checkpoint-3\n");
  EXPECT_TRUE(is_regular_file(out + "/checkpoint-3/manifest.json")) << "not pruned for having a smaller step";
  for (const char* step : {"4", "6", "7"}) EXPECT_TRUE(fs::exists(out + "/checkpoint-" + step + ".abandoned")) << step;
  EXPECT_EQ(manifest_of(out + "/checkpoint-3")["run_id"], manifest_of(own().output("whole") + "/checkpoint-2")["run_id"]) << "the same run";
  job["SLURM_RESTART_COUNT"] = "1";
  const RunOutcome again = own().train("back", 2, words, job);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("back/checkpoint-3: step 3"), std::string::npos) << again.err;
  EXPECT_EQ(bits_of_run(out), bits_of_run(own().output("whole")));
}

TEST(Resume, AFinishedCheckpointFromElsewhereReplacesAnotherRunsOutputs) {
  ASSERT_EQ(own().train("another", 2, with(kBatch, {"seed=7", "save_strategy=no"})).exit_code, 0);
  ASSERT_NE(bits_of_run(own().output("another")), bits_of_run(own().output("whole")));
  const RunOutcome run = own().train("another", 2, with(kBatch, {"resume_from_checkpoint=" + own().output("whole") + "/checkpoint-7"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err.find("nothing is left to do"), std::string::npos) << run.err;
  EXPECT_EQ(bits_of_run(own().output("another")), bits_of_run(own().output("whole")));
  EXPECT_TRUE(is_regular_file(own().output("another") + "/all_results.json"));
  // The folder has the right checkpoint, but the outputs of a later run that wrote none.
  fs::copy(own().output("whole") + "/checkpoint-7", own().output("another") + "/checkpoint-7", fs::copy_options::recursive);
  ASSERT_NE(own().train("another", 2, with(kBatch, {})).err.find("nothing is left to do"), std::string::npos);
  ASSERT_EQ(own().train("elsewhere", 1, with(kBatch, {"max_steps=1", "save_strategy=no"})).exit_code, 0);
  for (const char* name : {"trainer_state.json", "model.safetensors"})
    fs::copy_file(own().output("elsewhere") + "/" + name, own().output("another") + "/" + name, fs::copy_options::overwrite_existing);
  const RunOutcome mixed = own().train("another", 2, kBatch);
  EXPECT_EQ(mixed.exit_code, 0) << mixed.err;
  EXPECT_EQ(bits_of_run(own().output("another")), bits_of_run(own().output("whole")));
}

TEST(Resume, ARunThatSavesOnlyTheModelDoesNotSayThatItCanGoOn) {
  const RunOutcome run = own().train("model-only", 1, with(kBatch, {"save_only_model=true", "max_hours=0.00001"}));
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_NE(run.err.find("max_hours with save_only_model"), std::string::npos) << "said at the start: " << run.err;
  EXPECT_NE(run.err.find("begins at step 0 again"), std::string::npos) << run.err;
  EXPECT_TRUE(is_regular_file(own().output("model-only") + "/checkpoint-1/model.safetensors"));
}

TEST(Resume, WhatCannotBeResumedIsRefusedByName) {
  const RunOutcome none = own().train("nothing", 1, with(kBatch, {"resume_from_checkpoint=true"}));
  EXPECT_EQ(none.exit_code, 2) << none.err;
  as_killed_after("other-data", 4);
  const RunOutcome data = own().train("other-data", 2, with(kBatch, {"max_samples=5"}));
  EXPECT_EQ(data.exit_code, 2) << data.err;
  EXPECT_NE(data.err.find("rows"), std::string::npos) << data.err;
}

TEST(Resume, ACheckpointConvertsToTheExportedModel) {
  RunOptions options;
  for (const int ranks : {0, 2}) {
    options.ranks = ranks;
    const std::string out = own().output("converted" + std::to_string(ranks));
    const RunOutcome run = run_llmtrain({"convert", own().output("whole") + "/checkpoint-7", out}, options);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(read_file(out + "/model.safetensors"), read_file(own().output("whole") + "/model.safetensors"));
    EXPECT_TRUE(is_regular_file(out + "/tokenizer.json"));
  }
}

}  // namespace
}  // namespace llmtrain
