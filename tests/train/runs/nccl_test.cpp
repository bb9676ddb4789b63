// Whole runs of several ranks with a GPU each, over NCCL: losses, bits while streams are late, resuming, and what happens when NCCL, a GPU or a rank fails.
// Run by the tests emulated-nccl-* on the emulated GPUs and the emulated NCCL (tests/emulator), of which there are as many as a run has ranks.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using Environment = std::map<std::string, std::string>;

class EmulatedNccl : public testing::Test {
 protected:
  void SetUp() override {
    const char* plugin = std::getenv("LLMTRAIN_CUDA_PLUGIN");
    if (!plugin || !std::string(plugin).ends_with("nccl-emulated.so")) GTEST_SKIP() << "LLMTRAIN_CUDA_PLUGIN does not name the emulated GPU with NCCL";
  }
};

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

RunOutcome run_on_gpus(const std::string& name, int ranks, const std::vector<std::string>& words, Environment environment = {},
                       const std::string& communicator = "nccl") {
  environment.emplace("LLMTRAIN_EMULATED_DEVICES", std::to_string(ranks));
  return own().train(name, ranks, with({"device=cuda", "use_cpu=false", "communicator=" + communicator}, words), environment);
}

void train(const std::string& name, int ranks, const std::vector<std::string>& words, const Environment& environment = {},
           const std::string& communicator = "nccl") {
  fs::remove_all(own().output(name));
  const RunOutcome run = run_on_gpus(name, ranks, words, environment, communicator);
  ASSERT_EQ(run.exit_code, 0) << run.err;
}

std::string bits(const std::string& name) {
  const std::string all = bits_of_run(own().output(name));
  EXPECT_GT(all.size(), 10000u) << name;
  return all;
}

// The bounds that also hold between rank counts on the CPU (gpu_test.cpp).
void expect_same_losses(const std::string& name, const std::string& reference) {
  const auto losses = logged(own().output(reference), "loss"), got = logged(own().output(name), "loss");
  ASSERT_FALSE(losses.empty()) << reference;
  ASSERT_EQ(got.size(), losses.size()) << name;
  for (const auto& [step, loss] : got) EXPECT_NEAR(loss, losses.at(step), 2e-5 * loss) << name << " step " << step;
  const auto norms = logged(own().output(reference), "grad_norm");
  for (const auto& [step, norm] : logged(own().output(name), "grad_norm")) EXPECT_NEAR(norm, norms.at(step), 2e-4 * norm) << name << " step " << step;
}

TEST_F(EmulatedNccl, TwoAndFourRanksGiveTheLossesOfOneOnTheCpu) {
  const std::vector<std::string> words{"gradient_accumulation_steps=1", "max_steps=4"};
  const RunOutcome cpu = own().train("cpu", 1, with({"device=cpu", "per_device_train_batch_size=12"}, words));
  ASSERT_EQ(cpu.exit_code, 0) << cpu.err;
  for (const int ranks : {2, 4}) {
    const std::string name = "nccl" + std::to_string(ranks);
    train(name, ranks, with({"per_device_train_batch_size=" + std::to_string(12 / ranks)}, words));
    expect_same_losses(name, "cpu");
  }
}

// The sum of two numbers does not depend on their order.
TEST_F(EmulatedNccl, TwoRanksHaveTheBitsOfTheStagedCommunicator) {
  for (const std::vector<std::string>& types : {std::vector<std::string>{}, std::vector<std::string>{"bf16=true", "states=bfloat16"}}) {
    const auto words = with({"max_steps=3"}, types);
    train("staged", 2, words, {}, "staged");
    train("direct", 2, words);
    EXPECT_TRUE(bits("direct") == bits("staged")) << types.size();
  }
}

// The engine's streams are made in one order: two of the communicators' own, then compute (2), gather (3) and reduce (4). One that is starved shows every wait
// for it that is missing.
const char* const kPaces[] = {"starve:2", "starve:3", "starve:4", "starve:all", "late:1"};

TEST_F(EmulatedNccl, LateStreamsChangeNoBit) {
  const std::vector<std::string> words{"max_steps=4", "val_size=5", "eval_strategy=steps", "eval_steps=2"};
  train("in-order", 2, words, {{"LLMTRAIN_EMULATED_STREAMS", "in-order"}});
  const std::string want = bits("in-order");
  for (const char* pace : kPaces) {
    train("late", 2, words, {{"LLMTRAIN_EMULATED_STREAMS", pace}});
    EXPECT_TRUE(bits("late") == want) << pace;
  }
  // Gathers further ahead, and a GPU that runs one of NCCL's kernels at a time.
  train("late", 2, with({"prefetch_depth=3"}, words), {{"LLMTRAIN_EMULATED_STREAMS", "starve:3"}, {"LLMTRAIN_EMULATED_NCCL", "serial"}});
  EXPECT_TRUE(bits("late") == want) << "serial";
}

TEST_F(EmulatedNccl, FourRanksWithLateStreamsHaveTheSameBits) {
  const std::vector<std::string> words{"max_steps=3", "bf16=true", "prefetch_depth=2"};
  train("four", 4, words, {{"LLMTRAIN_EMULATED_STREAMS", "in-order"}});
  train("four-late", 4, words, {{"LLMTRAIN_EMULATED_STREAMS", "starve:all"}, {"LLMTRAIN_EMULATED_NCCL", "serial"}});
  EXPECT_TRUE(bits("four-late") == bits("four"));
}

// For the slow tests: LLMTRAIN_SEEDS paces.
TEST_F(EmulatedNccl, ManySeedsChangeNoBit) {
  const char* seeds = std::getenv("LLMTRAIN_SEEDS");
  if (!seeds) GTEST_SKIP() << "takes long: LLMTRAIN_SEEDS is not set";
  for (const int ranks : {2, 4}) {
    const std::vector<std::string> words{"max_steps=5", "val_size=5", "eval_strategy=steps", "eval_steps=2", "prefetch_depth=2"};
    train("in-order", ranks, words, {{"LLMTRAIN_EMULATED_STREAMS", "in-order"}});
    const std::string want = bits("in-order");
    for (int seed = 0; seed < std::atoi(seeds); ++seed) {
      const std::string pace = seed % 3 == 2 ? std::string(kPaces[seed / 3 % 4]) : "late:" + std::to_string(seed);
      train("late", ranks, words, {{"LLMTRAIN_EMULATED_STREAMS", pace}, {"LLMTRAIN_EMULATED_NCCL", seed % 2 ? "serial" : ""}});
      EXPECT_TRUE(bits("late") == want) << pace << ", " << ranks << " ranks";
    }
  }
}

TEST_F(EmulatedNccl, ResumesBitForBitAndAtAnotherRankCount) {
  const std::vector<std::string> words{"max_steps=4", "save_strategy=steps", "save_steps=2"};
  const std::vector<std::string> two{"gradient_accumulation_steps=2"}, four{"gradient_accumulation_steps=1"};
  const auto take_up = [](const std::string& to) {
    fs::remove_all(own().output(to));
    fs::create_directories(own().output(to));
    fs::copy(own().output("whole") + "/checkpoint-2", own().output(to) + "/checkpoint-2", fs::copy_options::recursive);
    fs::copy(own().output("whole") + "/trainer_log.jsonl", own().output(to) + "/trainer_log.jsonl");
  };
  train("whole", 2, with(words, two), {{"LLMTRAIN_EMULATED_STREAMS", "starve:2"}});
  take_up("again");
  RunOutcome run = run_on_gpus("again", 2, with(words, two));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("resuming from"), std::string::npos) << run.err;
  EXPECT_TRUE(bits("again") == bits("whole"));
  take_up("four");
  run = run_on_gpus("four", 4, with(words, four));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  expect_same_losses("four", "whole");
}

// ---- what fails

struct Case {
  const char *fault, *variable;
  int ranks;
  std::vector<const char*> said;
};
const char *const kNccl = "LLMTRAIN_EMULATED_NCCL_FAULT", *const kCuda = "LLMTRAIN_EMULATED_FAULT";

// The rank on which it happened says so, once, and nobody waits for a deadline.
TEST_F(EmulatedNccl, AFaultOfOneRankIsToldOnceAndEndsAll) {
  const std::vector<Case> cases{
      {"ncclGetUniqueId:2:0", kNccl, 2, {"ncclGetUniqueId: unhandled system error", "rank 0 on "}},
      {"ncclCommInitRankConfig:1:1", kNccl, 2, {"ncclCommInitRankConfig: unhandled system error", "rank 1 on "}},
      {"init:2:1", kNccl, 4, {"ncclCommInitRankConfig: unhandled system error", "the start failed", "rank 1 on "}},
      {"remote:2:1", kNccl, 2, {"remote process exited or there was a network error", "rank 1 on "}},  // in the first collectives
      {"ncclReduceScatter:9:1", kNccl, 2, {"ncclReduceScatter: unhandled system error", "rank 1 on "}},
      {"kernel:900:1", kCuda, 2, {"cudaErrorIllegalAddress", "rank 1 on "}},
  };
  for (const Case& c : cases) {
    const RunOutcome run = run_on_gpus("fault", c.ranks, {"max_steps=200"}, {{c.variable, c.fault}});
    EXPECT_EQ(run.exit_code, 1) << c.fault << "\n" << run.err;
    EXPECT_EQ(count_of(run.err, "llmtrain: "), 1u) << c.fault << "\n" << run.err;
    for (const char* part : c.said) EXPECT_EQ(count_of(run.err, part), 1u) << c.fault << ", '" << part << "' in:\n" << run.err;
    EXPECT_LT(run.seconds, 30) << c.fault;
  }
}

TEST_F(EmulatedNccl, AConnectionThatBreaksInTheMiddleEndsTheRunWithRankAndCollective) {
  const RunOutcome run = run_on_gpus("broken", 2, {"max_steps=200"}, {{kNccl, "remote:60:1"}});
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_NE(run.err.find("remote process exited or there was a network error"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("llmtrain: rank 1 on "), std::string::npos) << run.err;
  EXPECT_EQ(run.err.find("another rank has failed"), std::string::npos) << run.err;
  EXPECT_LT(run.seconds, 30);
}

TEST_F(EmulatedNccl, ARankThatStandsStillInACollectiveIsNamedByTheWatchdog) {
  const RunOutcome run = run_on_gpus("stopped", 2, {"max_steps=200", "hang_timeout=2"}, {{kNccl, "stop:60:1"}});
  EXPECT_NE(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("llmtrain: rank 0 on "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("the laggard: rank 1"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("waited in: "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("of communicator '"), std::string::npos) << run.err;
  EXPECT_LT(run.seconds, 40);
}

TEST_F(EmulatedNccl, ARankThatDiesInACollectiveEndsTheJob) {
  const RunOutcome run = run_on_gpus("killed", 4, {"max_steps=200"}, {{kNccl, "kill:60:2"}});
  EXPECT_NE(run.exit_code, 0) << run.err;
  EXPECT_NE((run.err + run.out).find("rank 2"), std::string::npos) << run.err;
  EXPECT_LT(run.seconds, 30);
}

TEST_F(EmulatedNccl, WhereOneRankHasNoMemoryOfNcclAllTakeOrdinary) {
  train("plain", 2, {"max_steps=2"});
  train("without", 2, {"max_steps=2"}, {{kNccl, "ncclMemAlloc:1:1"}});
  EXPECT_TRUE(bits("without") == bits("plain"));
}

TEST_F(EmulatedNccl, MoreRanksThanGpusAreRefused) {
  const RunOutcome run = run_on_gpus("shared", 4, {}, {{"LLMTRAIN_EMULATED_DEVICES", "2"}});
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_EQ(count_of(run.err, "would share one GPU"), 1u) << run.err;
}

}  // namespace
}  // namespace llmtrain
