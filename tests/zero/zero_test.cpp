// Layout of shards, classes of slots, schedules, and the ParameterManager of a process by itself.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <random>

#include "core/error.h"
#include "zero/parameter_manager.h"
#include "zero/shard_layout.h"
#include "zero/slots.h"

namespace llmtrain {
namespace {

std::vector<UnitSpec> mixed_units() {
  return {{"embed", {{"embed.weight", {101, 8}, true, true}}},
          {"layers.0", {{"q", {8, 8}, true, true}, {"frozen", {7, 3}, false, true}, {"k", {4, 8}, true, true}, {"norm", {9}, true, false}}},
          {"frozen", {{"f", {1000}, false, true}}},
          {"head", {{"lm_head.weight", {130, 8}, true, true}}}};
}

TEST(ShardLayout, RangesOfAllRanksTogetherAreEveryElementOnce) {
  for (int world = 1; world <= 9; ++world) {
    const ShardLayout layout(mixed_units(), world);
    for (int u = 0; u < 4; ++u) {
      for (const bool trained : {true, false}) {
        EXPECT_EQ(layout.shard_elements(u, trained) % ShardLayout::kShardAlign, 0);
        EXPECT_GE(layout.shard_elements(u, trained) * world, layout.elements(u, trained));
        std::map<std::pair<int, int64_t>, int> seen;
        for (int rank = 0; rank < world; ++rank) {
          int64_t at = 0;
          for (const OwnedRange& range : layout.owned(u, trained, rank)) {
            EXPECT_GE(range.shard_begin, at);
            at = range.shard_begin + range.count;
            EXPECT_LE(at, layout.shard_elements(u, trained));
            EXPECT_EQ(layout.place(u, range.parameter).offset + range.tensor_begin, rank * layout.shard_elements(u, trained) + range.shard_begin);
            for (int64_t i = 0; i < range.count; ++i) ++seen[{range.parameter, range.tensor_begin + i}];
          }
        }
        EXPECT_EQ(static_cast<int64_t>(seen.size()), layout.elements(u, trained));
        for (const auto& [element, times] : seen) EXPECT_EQ(times, 1);
      }
    }
  }
}

TEST(ShardLayout, TensorsOfAnArrayFollowEachOtherWithoutGaps) {
  const ShardLayout layout(mixed_units(), 3);
  EXPECT_EQ(layout.place(1, 0).offset, 0);
  EXPECT_EQ(layout.place(1, 2).offset, 64);  // the frozen tensor between them lies in the other array
  EXPECT_EQ(layout.place(1, 1).offset, 0);
  EXPECT_FALSE(layout.place(1, 1).trained);
  EXPECT_EQ(layout.parameters_total(), 808 + 64 + 21 + 32 + 9 + 1000 + 1040);
  EXPECT_EQ(layout.parameters_trained(), 808 + 64 + 32 + 9 + 1040);
  EXPECT_EQ(layout.shard_elements(2, true), 0);
}

TEST(SlotClasses, SimilarUnitsShareAndLargeOnesHaveTheirOwn) {
  const std::vector<SlotClass> classes = plan_slot_classes({5000, 1000, 1000, 980, 1000, 0, 5200, 100}, 2);
  ASSERT_EQ(classes.size(), 3u);
  EXPECT_EQ(classes[0].bytes, 5200u);
  EXPECT_EQ(classes[0].units, (std::vector<int>{0, 6}));
  EXPECT_EQ(classes[0].slots, 2);
  EXPECT_EQ(classes[1].units, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(classes[1].slots, 2);
  EXPECT_EQ(classes[2].slots, 1);
}

TEST(Schedule, NextUsesWrapAroundAndUpcomingUnitsAreDifferent) {
  Schedule schedule({0, 1, 2, 2, 1}, 4);
  EXPECT_EQ(schedule.next_use(3), SIZE_MAX);
  EXPECT_EQ(schedule.upcoming(2, -1), (std::vector<int>{0, 1}));
  for (int i = 0; i < 3; ++i) schedule.advance();
  EXPECT_EQ(schedule.next_use(2), 3u);
  EXPECT_EQ(schedule.next_use(0), 5u);
  EXPECT_EQ(schedule.upcoming(3, 2), (std::vector<int>{1}));
}

class OneProcess : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    streams_.device = device_.get();
    streams_.kernels = kernels_.get();
    streams_.compute = streams_.gather = streams_.reduce = compute_.get();
  }
  std::unique_ptr<Device> device_ = make_cpu_device(1);
  std::unique_ptr<Kernels> kernels_ = make_cpu_kernels(*device_);
  std::unique_ptr<Stream> compute_ = device_->make_stream("compute", false);
  ParameterStreams streams_;
};

TEST_P(OneProcess, UsesShardsThemselvesAndGradientsAreTheAccumulators) {
  ParameterManagerOptions options;
  options.compute = GetParam();
  const ShardLayout layout(mixed_units(), 1);
  Arena plan;
  ParameterManager planned(streams_, layout, options, plan);
  Arena arena(*device_, plan.total());
  ParameterManager manager(streams_, layout, options, arena);
  EXPECT_EQ(arena.groups(), plan.groups());
  EXPECT_EQ(manager.counters().slots, 0);
  manager.fill_weights([](const ParameterSpec& p, int64_t begin, int64_t count, float* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>((begin + i) % 120) + static_cast<float>(p.name.size());
  });
  manager.begin({1, 2, 1});
  const UnitWeights w = manager.acquire(1);
  EXPECT_EQ(w.parameters[0].dtype, GetParam());
  if (GetParam() == DType::float32) {
    EXPECT_EQ(w.parameters[0].data, manager.master(1).data);
    EXPECT_FALSE(manager.low(1));
    EXPECT_EQ(w.parameters[2].as<float>()[5], 6.0f);
  } else {
    EXPECT_EQ(w.parameters[0].data, manager.low(1).data);
    EXPECT_EQ(static_cast<float>(w.parameters[2].as<bfloat16>()[5]), 6.0f);
    EXPECT_EQ(manager.master(1).as<float>()[64 + 5], 6.0f);
  }
  EXPECT_THROW(
      {
        manager.release(1);
        throw OperationError("released");
      },
      OperationError);
  manager.acquire(2);
  manager.release(2);
  EXPECT_FALSE(manager.gradients(2).parameters[0]);  // frozen
  manager.reduce(2);
  manager.acquire(1);
  const UnitGradients g = manager.gradients(1);
  EXPECT_FALSE(g.parameters[1]);
  EXPECT_EQ(g.parameters[0].data, manager.gradient(1).data);
  g.parameters[2].as<float>()[0] += 2;
  manager.reduce(1);
  manager.gradients(1).parameters[2].as<float>()[0] += 3;  // accumulates until zero_gradients()
  manager.reduce(1);
  manager.release(1);
  manager.finish();
  EXPECT_EQ(manager.gradient(1).as<float>()[64], 5.0f);
  manager.zero_gradients();
  EXPECT_EQ(manager.gradient(1).as<float>()[64], 0.0f);
  manager.before_update();
  manager.weights_changed();
}

TEST_P(OneProcess, ReadingGivesBackWhatWasFilled) {
  for (const bool training : {true, false}) {
    ParameterManagerOptions options;
    options.compute = GetParam();
    options.training = training;
    const ShardLayout layout(mixed_units(), 1);
    Arena plan;
    ParameterManager planned(streams_, layout, options, plan);
    Arena arena(*device_, plan.total());
    ParameterManager manager(streams_, layout, options, arena);
    if (!training) {
      EXPECT_EQ(arena.groups().count("gradient shards"), 0u);
      EXPECT_EQ(arena.groups().count("master weights"), 0u);
    }
    manager.fill_weights([](const ParameterSpec& p, int64_t begin, int64_t count, float* out) {
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>((begin + i) % 200);  // exact in bfloat16
    });
    int64_t seen = 0;
    manager.read_weights(
        [&](const ParameterSpec& p, int64_t begin, int64_t count, const float* values) {
          EXPECT_LE(count, 37);
          for (int64_t i = 0; i < count; ++i) EXPECT_EQ(values[i], static_cast<float>((begin + i) % 200)) << p.name;
          seen += count;
        },
        37);
    EXPECT_EQ(seen, layout.parameters_total());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, OneProcess, testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(Fused, NeighboursAreOneMatrixAndOthersAreRefused) {
  std::vector<float> data(100);
  UnitWeights w;
  w.parameters = {TensorView(data.data(), {4, 5}), TensorView(data.data() + 20, {2, 5}), TensorView(data.data() + 30, {2, 5}),
                  TensorView(data.data() + 40, {7})};
  const TensorView qkv = w.fused(0, 3);
  EXPECT_EQ(qkv.shape, (Shape{8, 5}));
  EXPECT_EQ(qkv.data, data.data());
  EXPECT_DEATH(w.fused(2, 2), "one matrix");
}

}  // namespace
}  // namespace llmtrain
