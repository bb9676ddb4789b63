// Whole runs on a GPU against the same runs on the CPU: losses, several ranks on one GPU, NCCL with one rank, resuming across backends, memory over
// many steps. Run by the tests labelled gpu only (tests/gpu): each of them needs a GPU.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const std::vector<std::string> kCpu{"device=cpu"}, kCuda{"device=cuda", "use_cpu=false"};

class GpuRun : public testing::Test {
 protected:
  void SetUp() override {
    if (!on_gpu()) GTEST_SKIP() << "needs a GPU: LLMTRAIN_TEST_DEVICE=cuda";
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

void train(const std::string& name, int ranks, const std::vector<std::string>& words) {
  const RunOutcome run = own().train(name, ranks, words);
  ASSERT_EQ(run.exit_code, 0) << run.err;
}

// float32: sums of products in another order, some 1e-7 a step, carried from step to step by Adam's division by sqrt(v): the bounds that also hold
// between rank counts and against LLaMA-Factory's runs. bfloat16: what its rounding does in the golden run of that type.
void expect_same_losses(const std::string& name, const std::string& reference, bool bf16 = false) {
  const double loss_bound = bf16 ? 5e-4 : 2e-5, norm_bound = bf16 ? 1e-2 : 2e-4;
  const auto losses = logged(own().output(reference), "loss"), norms = logged(own().output(reference), "grad_norm");
  const auto got = logged(own().output(name), "loss");
  ASSERT_EQ(got.size(), losses.size()) << name;
  ASSERT_FALSE(losses.empty()) << reference;
  for (const auto& [step, loss] : got) EXPECT_NEAR(loss, losses.at(step), loss_bound * loss) << name << " step " << step;
  for (const auto& [step, norm] : logged(own().output(name), "grad_norm"))
    EXPECT_NEAR(norm, norms.at(step), norm_bound * norm) << name << " step " << step;
}

TEST_F(GpuRun, GivesTheLossesOfTheCpuBackend) {
  for (const bool bf16 : {false, true}) {
    const std::string kind = bf16 ? "bf16" : "f32";
    const std::vector<std::string> words{bf16 ? "bf16=true" : "bf16=false"};
    train("cpu-" + kind, 1, with(words, kCpu));
    train("cuda-" + kind, 1, with(words, kCuda));
    expect_same_losses("cuda-" + kind, "cpu-" + kind, bf16);
  }
}

TEST_F(GpuRun, TwoAndFourRanksOnOneGpuGiveTheLossesOfOneOnTheCpu) {
  train("one", 1, with({"per_device_train_batch_size=12", "gradient_accumulation_steps=1"}, kCpu));
  for (const int ranks : {2, 4}) {
    const std::string name = "staged" + std::to_string(ranks);
    train(name, ranks,
          with({"per_device_train_batch_size=" + std::to_string(12 / ranks), "gradient_accumulation_steps=1", "communicator=staged"}, kCuda));
    expect_same_losses(name, "one");
  }
}

TEST_F(GpuRun, NcclWithOneRankGivesTheLossesOfTheCpuBackend) {
  train("plain", 1, kCpu);
  train("nccl", 1, with({"communicator=nccl"}, kCuda));
  expect_same_losses("nccl", "plain");
}

TEST_F(GpuRun, TwoRanksBoundToOneGpuUnderNcclAreRefusedWithOneMessage) {
  const RunOutcome run = own().train("duplicate", 2, with({"communicator=nccl"}, kCuda), {{"CUDA_VISIBLE_DEVICES", "0"}});
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_NE(run.err.find("GPU"), std::string::npos) << run.err;
  EXPECT_LT(run.seconds, 60) << "no rank waits for the other";
}

TEST_F(GpuRun, ResumesFromACheckpointOfTheCpuAndTheCpuFromItsOwn) {
  const std::vector<std::string> words{"max_steps=6", "save_strategy=steps", "save_steps=2", "logging_steps=1"};
  const auto take_up = [](const std::string& from, int step, const std::string& to) {
    const std::string name = "/checkpoint-" + std::to_string(step);
    fs::create_directories(own().output(to));
    fs::copy(own().output(from) + name, own().output(to) + name, fs::copy_options::recursive);
    fs::copy(own().output(from) + "/trainer_log.jsonl", own().output(to) + "/trainer_log.jsonl");
  };
  train("whole", 1, with(words, kCpu));
  take_up("whole", 2, "on-gpu");
  train("on-gpu", 1, with(words, kCuda));
  expect_same_losses("on-gpu", "whole");
  take_up("on-gpu", 4, "back-on-cpu");
  train("back-on-cpu", 1, with(words, kCpu));
  expect_same_losses("back-on-cpu", "whole");
}

TEST_F(GpuRun, NothingLeaksOver200Steps) {
  const auto results = [](const std::string& name) { return parse_json_file(own().output(name) + "/all_results.json"); };
  train("short", 1, with({"max_steps=20", "logging_steps=20"}, kCuda));
  train("long", 1, with({"max_steps=220", "logging_steps=20"}, kCuda));
  const Json few = results("short"), many = results("long");
  ASSERT_TRUE(few.contains("peak_device_bytes_per_rank")) << few;
  // The device's memory is planned before the first step. Its driver counts in pages of 2 MiB, and a library may load a kernel late.
  constexpr int64_t kMiB = 1 << 20;
  EXPECT_LE(many["peak_device_bytes_per_rank"].get<int64_t>(), few["peak_device_bytes_per_rank"].get<int64_t>() + 4 * kMiB);
  // The host's: 64 KiB for each of the 200 steps, which no log entry needs, would be too much.
  EXPECT_LE(many["peak_host_bytes_per_rank"].get<int64_t>(), few["peak_host_bytes_per_rank"].get<int64_t>() + 12 * kMiB);
}

}  // namespace
}  // namespace llmtrain
