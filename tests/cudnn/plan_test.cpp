// cuDNN's attention plans, compiled for real where there is no GPU: the engine accepts the graph, and its workspace is what the memory plan counts.
// Needs the descriptions of GPUs in the shared data and a loadable libcuda.so.1 (plans_without_a_gpu.sh); says nothing about the numbers it computes.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "core/file.h"
#include "kernels/cuda/attention_cudnn_plan.h"
#include "kernels/cuda/attention_cudnn_shapes.h"
#include "support/shared.h"

namespace llmtrain::cuda {
namespace {

struct Gpu {
  const char* name;
  int sm;
};
constexpr Gpu kA100 = {"a100", 80}, kH100 = {"h100", 90}, kH200 = {"h200", 90};

struct Case {
  Gpu gpu;
  HeadLayout layout;
  int64_t slots, longest, tokens;
  int window;
  bool backward;
};

std::string name_of_case(const Case& c) {
  return std::string(c.gpu.name) + (c.backward ? "_backward" : "_forward") + "_h" + std::to_string(c.layout.heads) + "_" +
         std::to_string(c.layout.kv_heads) + "_d" + std::to_string(c.layout.head_dim) + "_slots" + std::to_string(c.slots) + "_longest" +
         std::to_string(c.longest) + "_window" + std::to_string(c.window);
}

AttentionGraph graph_of(const Case& c) {
  AttentionGraph g;
  g.layout = c.layout;
  g.slots = c.slots;
  g.longest = c.longest;
  g.tokens = c.backward ? c.tokens : 0;
  g.scale = 1.0f / std::sqrt(static_cast<float>(c.layout.head_dim));
  g.window = c.window;
  g.backward = c.backward;
  g.stats = !c.backward;
  return g;
}

class Plans : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_SHARED();
    std::string why;
    if (!open_cudnn(why)) GTEST_SKIP() << why;
  }
  CudnnTarget target(const Gpu& gpu) {
    return CudnnTarget::described(read_file(testing_support::shared_dir() + "/cuda/device-" + gpu.name + ".json"), gpu.sm);
  }
};

TEST_P(Plans, CompileAndNeedTheMemoryThatIsCounted) {
  const Case c = GetParam();
  ASSERT_EQ(refuse_attention(DType::bfloat16, c.layout, c.backward, false, c.gpu.sm, cudnn_version()), "");
  const CudnnTarget gpu = target(c.gpu);
  const auto plan = AttentionPlan::compile(gpu, graph_of(c));
  // What attention_cudnn.cpp counts: the formulas and 1 MiB.
  const GradientLayout place = gradient_layout(c.layout, c.tokens);
  const size_t counted = (c.backward ? place.estimated_total - place.bytes : 0) + (size_t{1} << 20);
  EXPECT_LE(plan->workspace_bytes(), counted) << graph_of(c).key();
  if (c.backward) {
    EXPECT_GE(2 * plan->workspace_bytes(), counted - (size_t{1} << 20)) << "the plan of memory wastes more than half";
  }
}

// Head sizes, query heads to key-value heads, windows, packing buckets and architectures of the supported families, each at least once.
const Case kCovering[] = {
    {kH100, {32, 8, 128}, 4, 4096, 16384, 0, false},     // Llama 3, Mistral, Qwen3
    {kH100, {32, 8, 128}, 4, 4096, 16384, 0, true},      //
    {kH200, {14, 2, 64}, 32, 1024, 32768, 0, false},     // Qwen2.5 0.5B: 7 query heads to one
    {kH200, {14, 2, 64}, 32, 1024, 32768, 0, true},      //
    {kH100, {32, 32, 96}, 256, 128, 16384, 2047, false}, // Phi-3-mini: no groups, sliding window, many short sequences
    {kH100, {32, 32, 96}, 256, 128, 16384, 2047, true},  //
    {kH200, {24, 8, 128}, 1, 8192, 8192, 4096, true},    // Phi-4-mini's ratio, Mistral's window, one long sequence
    {kH100, {16, 8, 128}, 16, 2048, 8192, 0, true},      // Qwen3 0.6B: groups of two, all gradients of their own
    {kH100, {8, 1, 256}, 2, 512, 4096, 0, true},         // the largest head size, one key-value head
    {kH100, {4, 2, 16}, 8, 128, 1024, 0, true},          // tests' tiny models
    {kA100, {28, 4, 128}, 8, 2048, 16384, 0, false},     // Qwen2.5 7B
    {kA100, {32, 32, 96}, 64, 256, 16384, 2047, false},  //
    {kA100, {14, 2, 64}, 1, 32768, 32768, 0, false},     //
};
INSTANTIATE_TEST_SUITE_P(Covering, Plans, testing::ValuesIn(kCovering), [](const auto& info) { return name_of_case(info.param); });

std::vector<Case> whole_product() {
  std::vector<Case> cases;
  for (const Gpu& gpu : {kA100, kH100}) {
    for (const HeadLayout layout : {HeadLayout{14, 2, 64}, {32, 32, 96}, {32, 8, 128}, {28, 4, 128}, {24, 8, 128}, {16, 8, 128}, {32, 32, 128}, {32, 32, 80}, {8, 1, 256}, {4, 2, 16}}) {
      for (const int window : {0, 2047, 4096}) {
        for (const auto& [slots, longest] : std::map<int64_t, int64_t>{{1, 32768}, {4, 4096}, {64, 512}, {256, 128}}) {
          for (const bool backward : {false, true})
            if (refuse_attention(DType::bfloat16, layout, backward, false, gpu.sm, 91900).empty())
              cases.push_back({gpu, layout, slots, longest, 32768, window, backward});
        }
      }
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(WholeProduct, Plans, testing::ValuesIn(whole_product()), [](const auto& info) { return name_of_case(info.param); });

TEST_F(Plans, SurviveAFileAndDamageIsNoticed) {
  const CudnnTarget gpu = target(kH100);
  const AttentionGraph g = graph_of({kH100, {4, 2, 64}, 2, 128, 1024, 0, false});
  const auto plan = AttentionPlan::compile(gpu, g);
  const std::string file = pack_plan(g.key(), plan->serialize());
  std::string blob;
  ASSERT_TRUE(unpack_plan(file, g.key(), blob));
  EXPECT_EQ(AttentionPlan::load(gpu, blob)->workspace_bytes(), plan->workspace_bytes());
  // Another architecture's plan is refused by cuDNN, not run.
  EXPECT_THROW(AttentionPlan::load(target(kA100), blob), OperationError);
  EXPECT_THROW(AttentionPlan::load(gpu, blob.substr(0, blob.size() / 2)), OperationError);
}

TEST_F(Plans, WhatCudnnRefusesIsRefusedByNameBefore) {
  // The engine's own refusal, so that refuse_attention() stays honest when cuDNN changes.
  EXPECT_THROW(AttentionPlan::compile(target(kA100), graph_of({kA100, {8, 2, 128}, 4, 512, 2048, 0, true})), OperationError);
  EXPECT_NE(refuse_attention(DType::bfloat16, {8, 2, 128}, true, false, 80, cudnn_version()), "");
}

}  // namespace
}  // namespace llmtrain::cuda
