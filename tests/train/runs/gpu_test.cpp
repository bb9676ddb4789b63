// Whole runs on a GPU against the same runs on the CPU: losses, element types of the states, several ranks on one GPU, NCCL with one rank, equal bits,
// resuming across backends, generation, the benchmark, memory over many steps. Run by the tests labelled gpu (tests/gpu), and by those of the emulated
// GPU (tests/emulator).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
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

double worst_difference(const std::map<int64_t, double>& a, const std::map<int64_t, double>& b) {
  double worst = 0;
  for (const auto& [step, value] : a) worst = std::max(worst, std::abs(value - b.at(step)));
  return worst;
}

// float32: sums of products in another order, some 1e-7 a step, carried from step to step by Adam's division by sqrt(v): the bounds that also hold
// between rank counts and against LLaMA-Factory's runs.
void expect_same_losses(const std::string& name, const std::string& reference) {
  const auto losses = logged(own().output(reference), "loss"), norms = logged(own().output(reference), "grad_norm");
  const auto got = logged(own().output(name), "loss");
  ASSERT_EQ(got.size(), losses.size()) << name;
  ASSERT_FALSE(losses.empty()) << reference;
  for (const auto& [step, loss] : got) EXPECT_NEAR(loss, losses.at(step), 2e-5 * loss) << name << " step " << step;
  for (const auto& [step, norm] : logged(own().output(name), "grad_norm"))
    EXPECT_NEAR(norm, norms.at(step), 2e-4 * norm) << name << " step " << step;
}

// bfloat16: another backend rounds the same operations differently. What rounding does to this very run is how far the CPU's run in bfloat16 is from
// the one in float32, e; two that are each e from the exact result differ by at most 2 e.
void expect_same_losses_but_for_rounding(const std::string& name, const std::string& reference, const std::string& exact) {
  for (const char* key : {"loss", "grad_norm"}) {
    const auto got = logged(own().output(name), key), want = logged(own().output(reference), key), plain = logged(own().output(exact), key);
    ASSERT_FALSE(got.empty()) << name;
    ASSERT_EQ(got.size(), want.size()) << name;
    ASSERT_EQ(got.size(), plain.size()) << name;
    const double rounding = worst_difference(want, plain);
    EXPECT_GT(rounding, 0) << key << " of " << reference;
    EXPECT_LE(worst_difference(got, want), 2 * rounding) << key << " of " << name << " against " << reference;
  }
}

TEST_F(GpuRun, GivesTheLossesOfTheCpuBackend) {
  train("cpu-f32", 1, with({"max_steps=8"}, kCpu));
  train("cuda-f32", 1, with({"max_steps=8"}, kCuda));
  expect_same_losses("cuda-f32", "cpu-f32");
  // The stochastic rounding of bfloat16 weights takes its random bits from the element's number and the step, on any backend.
  for (const char* states : {"float32", "mixed", "bfloat16"}) {
    const std::string cpu = std::string("cpu-bf16-") + states, cuda = std::string("cuda-bf16-") + states;
    const std::vector<std::string> words{"bf16=true", "max_steps=8", std::string("states=") + states};
    train(cpu, 1, with(words, kCpu));
    train(cuda, 1, with(words, kCuda));
    expect_same_losses_but_for_rounding(cuda, cpu, "cpu-f32");
  }
}

// deterministic: a kernel that may add in any order (cuDNN's backward pass) would hide what recomputation changes.
TEST_F(GpuRun, DeterministicRunsAreBitwiseEqualWhateverIsRecomputed) {
  std::string reference;
  for (const char* recompute : {"cheap", "cheap", "none", "full"}) {
    train("bits", 2, with({"max_steps=3", "deterministic=true", "communicator=staged", "overwrite_output_dir=true", std::string("recompute=") + recompute}, kCuda));
    const std::string bits = bits_of_run(own().output("bits"));
    ASSERT_GT(bits.size(), 10000u);
    if (reference.empty()) reference = bits;
    EXPECT_TRUE(bits == reference) << "recompute " << recompute;
  }
}

TEST_F(GpuRun, TwoAndFourRanksOnOneGpuGiveTheLossesOfOneOnTheCpu) {
  train("one", 1, with({"per_device_train_batch_size=12", "gradient_accumulation_steps=1", "max_steps=4"}, kCpu));
  for (const int ranks : {2, 4}) {
    const std::string name = "staged" + std::to_string(ranks);
    train(name, ranks,
          with({"per_device_train_batch_size=" + std::to_string(12 / ranks), "gradient_accumulation_steps=1", "max_steps=4", "communicator=staged"}, kCuda));
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

RunOutcome run_here(const std::vector<std::string>& words, int ranks) {
  RunOptions options;
  options.ranks = ranks;
  options.folder = own().path();
  return run_llmtrain(words, options);
}

TEST_F(GpuRun, GeneratesTheTokensOfTheCpuBackend) {
  const auto ids = [](int ranks, const std::vector<std::string>& words) {
    const RunOutcome run =
        run_here(with({"generate", "--model", "model", "--prompt", "What colour is the sky?", "--max-new-tokens", "12", "--json"}, words), ranks);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run.exit_code == 0 ? dump_json(parse_json(run.out, "stdout")["ids"]) : "";
  };
  const std::string want = ids(0, {"--device", "cpu"});
  EXPECT_GT(count_of(want, ","), 5u) << want;
  EXPECT_EQ(ids(0, {"--device", "cuda"}), want);
  EXPECT_EQ(ids(2, {"--device", "cuda", "--communicator", "staged"}), want);
}

TEST_F(GpuRun, BenchGivesTheLossesOfTheCpuBackendAndKeepsToItsPlan) {
  const auto bench = [](const std::vector<std::string>& words) {
    const RunOutcome run = run_here(with({"bench", "model", "--seq", "32", "--micro-batch", "1", "--steps", "3", "--warmup", "1", "--json"}, words), 0);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run.exit_code == 0 ? parse_json(run.out, "stdout") : Json();
  };
  const Json cpu = bench({"--float32", "--device", "cpu"}), gpu = bench({"--float32", "--device", "cuda"});
  ASSERT_TRUE(cpu.is_object() && gpu.is_object());
  EXPECT_EQ(gpu["device"], "cuda");
  ASSERT_EQ(gpu["losses"].size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(gpu["losses"][i].get<double>(), cpu["losses"][i].get<double>(), 1.01e-4) << "written with four digits";
  for (const char* states : {"float32", "mixed", "bfloat16"}) {
    const Json run = bench({"--device", "cuda", "--states", states});
    ASSERT_TRUE(run.is_object());
    EXPECT_EQ(run["states"], states);
    EXPECT_GT(run["planned_device_mib"].get<int64_t>(), 0);
    // What a driver counts beyond the plan: pages of 2 MiB, and kernels that are loaded late. The emulated one counts what was asked for.
    const char* plugin = std::getenv("LLMTRAIN_CUDA_PLUGIN");
    const bool emulated = plugin && std::string(plugin).ends_with("emulated.so");
    EXPECT_LE(run["peak_device_mib"].get<int64_t>(), run["planned_device_mib"].get<int64_t>() + (emulated ? 0 : 64));
  }
}

TEST_F(GpuRun, NothingLeaksOver200Steps) {
  const auto results = [](const std::string& name) { return parse_json_file(own().output(name) + "/all_results.json"); };
  const std::vector<std::string> words{"logging_steps=20", "per_device_train_batch_size=1", "gradient_accumulation_steps=1"};
  train("short", 1, with(with({"max_steps=20"}, words), kCuda));
  train("long", 1, with(with({"max_steps=220"}, words), kCuda));
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
