// Which device a run takes, and what happens where it cannot be used or fails: on this machine as it is, and on the emulated GPU (tests/emulator) where
// LLMTRAIN_CUDA_PLUGIN names it.
#include <gtest/gtest.h>

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using Environment = std::map<std::string, std::string>;

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

std::string program_folder() {
  const char* named = std::getenv("LLMTRAIN_TEST_BINARY");
  return fs::absolute(named && *named ? named : LLMTRAIN_TEST_BINARY).parent_path().string();
}

// Wrong input, told once, at every rank count alike.
void expect_refused(const std::string& name, int ranks, const std::vector<std::string>& words, const Environment& environment,
                    const std::vector<std::string>& parts) {
  const RunOutcome run = own().train(name, ranks, words, environment);
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_EQ(count_of(run.err, "llmtrain: "), 1u) << run.err;
  for (const std::string& part : parts) EXPECT_EQ(count_of(run.err, part), 1u) << "'" << part << "' in: " << run.err;
  EXPECT_LT(run.seconds, 60);
}

TEST(ChosenDevice, CudaWithoutADriverIsRefusedOnceWithTheReason) {
  std::vector<Environment> ways{{{"LLMTRAIN_CUDA_PLUGIN", ""}}};
  // The plugin itself, opened although there is no driver. (On a machine with a GPU it is hidden.)
  const std::string plugin = program_folder() + "/libllmtrain-cuda.so";
  if (fs::exists(plugin)) ways.push_back({{"LLMTRAIN_CUDA_PLUGIN", plugin}});
  for (Environment& environment : ways) {
    environment["CUDA_VISIBLE_DEVICES"] = "-1";
    for (const int ranks : {1, 2}) expect_refused("no-driver", ranks, {"device=cuda"}, environment, {"sees no GPU", "device: cpu"});
  }
}

TEST(ChosenDevice, APluginThatIsMissingOrCutShortIsNamed) {
  const ScratchFolder scratch;
  const std::string missing = scratch / "missing.so", text = scratch / "text.so", cut = scratch / "cut.so";
  std::ofstream(text) << std::string(1000, 'x');
  for (const int ranks : {1, 2}) expect_refused("missing", ranks, {"device=cuda"}, {{"LLMTRAIN_CUDA_PLUGIN", missing}}, {missing, "LLMTRAIN_CUDA_PLUGIN"});
  expect_refused("text", 1, {"device=cuda"}, {{"LLMTRAIN_CUDA_PLUGIN", text}}, {text, "is no library"});
  const std::string whole = read_file(fs::read_symlink("/proc/self/exe").string());  // any file of this format
  std::ofstream(cut, std::ios::binary) << whole.substr(0, whole.size() / 2);
  expect_refused("cut", 1, {"device=cuda"}, {{"LLMTRAIN_CUDA_PLUGIN", cut}}, {cut, "is cut short"});
}

TEST(ChosenDevice, AutoFallsToTheCpuAndSaysWhy) {
  for (const Environment& environment : {Environment{{"LLMTRAIN_CUDA_PLUGIN", "/nowhere/plugin.so"}},
                                         Environment{{"LLMTRAIN_CUDA_PLUGIN", ""}, {"CUDA_VISIBLE_DEVICES", "-1"}}}) {
    const RunOutcome run = own().train("auto", 2, {"device=auto", "max_steps=1"}, environment);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(count_of(run.err, "device: cpu (auto: "), 1u) << run.err;
  }
}

// ---- on the emulated GPU

class EmulatedGpu : public testing::Test {
 protected:
  void SetUp() override {
    const char* plugin = std::getenv("LLMTRAIN_CUDA_PLUGIN");
    if (!plugin || !std::string(plugin).ends_with("emulated.so")) GTEST_SKIP() << "LLMTRAIN_CUDA_PLUGIN does not name the emulated GPU";
  }
};

const std::vector<std::string> kStaged{"device=cuda", "communicator=staged"};

TEST_F(EmulatedGpu, TooLittleMemoryIsRefusedBeforeAnythingIsAllocated) {
  // The fault would end the run with another message at the first large block; the kernels' own few bytes come before the plan.
  expect_refused("small1", 1, {"device=cuda"}, {{"LLMTRAIN_EMULATED_MEMORY", "1000000"}},
                 {"memory plan: a rank needs", "1 rank(s) share", "optimizer states", "gradient shards", "use more ranks on more GPUs"});
  // Two ranks share the GPU: what would do for one does not do for both.
  const RunOutcome alone = own().train("alone", 1, {"device=cuda", "max_steps=1"}, {{"LLMTRAIN_EMULATED_MEMORY", "2000000"}});
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  expect_refused("small2", 2, kStaged, {{"LLMTRAIN_EMULATED_MEMORY", "1500000"}}, {"memory plan: a rank needs", "2 rank(s) share", "optimizer states"});
}

TEST_F(EmulatedGpu, AnErrorDuringSetUpOrInAStepEndsAllRanksWithOneMessage) {
  struct Case {
    const char* fault;
    int ranks, rank;
    const char* named;
  };
  for (const Case& c : {Case{"cudaLaunchKernelEx:400:1", 2, 1, ".h:"}, Case{"cudaMemcpyAsync:300:0", 2, 0, "cudaMemcpyAsync("},
                        Case{"cudaStreamSynchronize:200:1", 2, 1, "cudaStreamSynchronize("}, Case{"cudaEventRecord:60:1", 2, 1, "cudaEventRecord("},
                        Case{"cudaMalloc:3:1", 2, 1, "cudaMalloc ("}, Case{"cudaMemcpyAsync:5:1", 2, 1, "cudaMemcpyAsync("},
                        Case{"cudaEventRecord:1:0", 2, 0, "cudaEventRecord("}, Case{"cudaLaunchKernelEx:400:0", 1, 0, ".h:"}}) {
    std::vector<std::string> words = kStaged;
    words.push_back("max_steps=200");
    const RunOutcome run = own().train("broken", c.ranks, words, {{"LLMTRAIN_EMULATED_FAULT", c.fault}});
    EXPECT_EQ(run.exit_code, 1) << c.fault << "\n" << run.err;
    EXPECT_EQ(count_of(run.err, "cudaErrorIllegalAddress"), 1u) << c.fault << "\n" << run.err;
    EXPECT_EQ(count_of(run.err, c.named), 1u) << c.fault << "\n" << run.err;
    EXPECT_EQ(count_of(run.err, "rank " + std::to_string(c.rank) + " on "), 1u) << c.fault << "\n" << run.err;
    EXPECT_EQ(count_of(run.err, "llmtrain: "), 1u) << c.fault << "\n" << run.err;
    EXPECT_LT(run.seconds, 60) << c.fault << ": no rank waits for one that has gone";
  }
}

TEST_F(EmulatedGpu, ANodeWithoutGpuAmongOthersIsNamed) {
  expect_refused("none", 2, kStaged, {{"LLMTRAIN_EMULATED_DEVICES", "0"}}, {"rank 0 on ", "sees no GPU", "shows no GPU to this process"});
}

TEST_F(EmulatedGpu, NcclIsRefusedByNameWhereTheBuildHasNone) {
  expect_refused("nccl", 2, {"device=cuda", "communicator=nccl"}, {}, {"made without NCCL", "communicator: staged"});
}

// The streams of the emulated GPU made late on purpose: with communicators staged through the host, and alone. (Over NCCL: nccl_test.cpp.)
class EmulatedGpuStreams : public EmulatedGpu {};

TEST_F(EmulatedGpuStreams, ThatAreLateChangeNoBit) {
  for (const int ranks : {1, 2}) {
    std::string want;
    for (const char* pace : {"in-order", "starve:all", "starve:0", "starve:2"}) {  // 0: on which a staged communicator clears its memory; 2: that computes
      if (ranks == 1 && std::isdigit(pace[std::strlen(pace) - 1])) continue;
      const std::vector<std::string> words{"device=cuda", "use_cpu=false", "communicator=staged", "max_steps=3", "bf16=true", "overwrite_output_dir=true"};
      const RunOutcome run = own().train("late", ranks, words, {{"LLMTRAIN_EMULATED_STREAMS", pace}});
      ASSERT_EQ(run.exit_code, 0) << pace << "\n" << run.err;
      const std::string bits = bits_of_run(own().output("late"));
      EXPECT_GT(bits.size(), 10000u);
      if (want.empty()) want = bits;
      EXPECT_TRUE(bits == want) << pace << ", " << ranks << " ranks";
    }
  }
}

}  // namespace
}  // namespace llmtrain
