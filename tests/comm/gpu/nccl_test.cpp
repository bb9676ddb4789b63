// NCCL on a real GPU, a group of one rank: the order of calls, memory, records and the end. (Transport needs several GPUs.) Exits with 77 where there is
// no GPU.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/flight_recorder.h"
#include "core/rank_group.h"
#include "device/cuda_backend.h"

namespace llmtrain {
namespace {

class NcclOnOneGpu : public testing::Test {
 protected:
  void SetUp() override {
    device_ = backend_.plugin().make_device(0);
    communicator_ = backend_.plugin().make_nccl_communicator(group_, *device_, "gather", {});
    if (!communicator_) GTEST_SKIP() << "this build has no NCCL";
    stream_ = device_->make_stream("gather", true);
  }
  std::vector<float> get(const void* from, size_t n) {
    std::vector<float> out(n);
    device_->copy_to_host(*stream_, out.data(), from, n * sizeof(float));
    stream_->synchronize();
    return out;
  }

  CudaBackend backend_ = CudaBackend::open();
  SoloGroup group_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(NcclOnOneGpu, GathersReducesAndAccumulatesInTheOrderOfTheStream) {
  constexpr size_t kCount = 300001;
  float* shard = static_cast<float*>(communicator_->allocate_registered(kCount * sizeof(float), "shards"));
  float* full = static_cast<float*>(communicator_->allocate_registered(kCount * sizeof(float), "gradients"));
  float* sums = static_cast<float*>(device_->allocate(kCount * sizeof(float)));
  EXPECT_EQ(get(shard, kCount), std::vector<float>(kCount));  // zeroed
  std::vector<float> values(kCount), twice(kCount);
  for (size_t i = 0; i < kCount; ++i) twice[i] = 2 * (values[i] = static_cast<float>(i) * 0.37f - 1000);
  device_->copy_to_device(*stream_, shard, values.data(), kCount * sizeof(float));
  communicator_->fence(*stream_);
  communicator_->all_gather_shards(*stream_, shard, full, kCount * sizeof(float), "layers.0");
  communicator_->reduce_scatter(*stream_, full, sums, kCount, false, "layers.0");
  EXPECT_EQ(get(sums, kCount), values);
  communicator_->reduce_scatter(*stream_, full, sums, kCount, true, "layers.0");
  EXPECT_EQ(get(sums, kCount), twice);
  device_->free(sums);
}

TEST_F(NcclOnOneGpu, TwoCommunicatorsOnTwoStreams) {
  auto other = backend_.plugin().make_nccl_communicator(group_, *device_, "reduce", {});
  auto reduce = device_->make_stream("reduce", true);
  constexpr size_t kCount = 4096;
  void* shard = communicator_->allocate_registered(kCount * sizeof(float), "shards");
  float* full = static_cast<float*>(other->allocate_registered(kCount * sizeof(float), "gradients"));
  void* gathered = device_->allocate(kCount * sizeof(float));
  float* sums = static_cast<float*>(device_->allocate(kCount * sizeof(float)));
  for (int i = 0; i < 100; ++i) {
    communicator_->all_gather_shards(*stream_, shard, gathered, kCount * sizeof(float), "a");
    other->reduce_scatter(*reduce, full, sums, kCount, i > 0, "b");
  }
  communicator_->fence(*stream_);
  other->fence(*reduce);
  stream_->synchronize();
  reduce->synchronize();
  EXPECT_EQ(get(sums, kCount), std::vector<float>(kCount));
  device_->free(gathered);
  device_->free(sums);
}

TEST_F(NcclOnOneGpu, EveryCollectiveIsRecordedAsDoneAndHostValuesAreRight) {
  communicator_->fence(*stream_);
  stream_->synchronize();
  double value = 1.5;
  communicator_->all_reduce_sum(&value, 1);
  EXPECT_EQ(value, 1.5);
  const FlightRecorder* recorder = communicator_->flight_recorder();
  ASSERT_NE(recorder, nullptr);
  for (int tries = 0; tries < 300 && recorder->records().front().finished == 0; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_STREQ(recorder->records().front().operation, "fence");
  EXPECT_GT(recorder->records().front().started, 0);
  EXPECT_GT(recorder->records().front().finished, 0);
  EXPECT_EQ(communicator_->heard_failure(), "");
}

TEST_F(NcclOnOneGpu, AbortAndDestructionEndInTime) {
  const auto begin = std::chrono::steady_clock::now();
  communicator_->fence(*stream_);
  communicator_->abort();
  communicator_.reset();
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 25);
}

}  // namespace
}  // namespace llmtrain

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::string why;
  if (!llmtrain::CudaBackend::try_open(why)) {
    std::printf("no GPU: %s\n", why.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
