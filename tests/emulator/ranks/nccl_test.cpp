// The Communicator over NCCL at several ranks (src/comm/nccl), on emulated GPUs, one a rank.
#include <gtest/gtest.h>
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/context.h"
#include "comm/flight_recorder.h"
#include "core/error.h"
#include "device/cuda_backend.h"

namespace llmtrain {
namespace {

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr);
  return runtime;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Every bit of the mantissa differs, so that a wrong or missing part of a sum shows.
float value(int rank, size_t i, int round) {
  uint32_t x = static_cast<uint32_t>(rank) * 2654435761u + static_cast<uint32_t>(i) * 40503u + static_cast<uint32_t>(round) * 97u + 1;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return static_cast<float>(static_cast<int32_t>(x)) * 1.1920929e-7f;
}

class NcclRanks : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("LLMTRAIN_EMULATED_DEVICES", "16", 1);
    device_ = backend_.plugin().make_device(group_->rank());
    stream_ = device_->make_stream("gather", true);
  }
  void TearDown() override { MPI_Barrier(MPI_COMM_WORLD); }
  std::unique_ptr<Communicator> make(const std::string& name, double timeout = 20) {
    NcclOptions options;
    options.timeout_seconds = timeout;
    return backend_.plugin().make_nccl_communicator(*group_, *device_, name, options);
  }
  template <class T>
  std::vector<T> get(Stream& stream, const void* from, size_t n) {
    std::vector<T> out(n);
    device_->copy_to_host(stream, out.data(), from, n * sizeof(T));
    stream.synchronize();
    return out;
  }

  std::unique_ptr<RankGroup> group_ = make_rank_group(mpi());
  CudaBackend backend_ = CudaBackend::open();
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  size_t size_ = static_cast<size_t>(group_->size());
};

TEST_F(NcclRanks, GathersShardsOfAnySizeInTheOrderOfTheStream) {
  auto nccl = make("gather");
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{700001}}) {
    char* shard = static_cast<char*>(nccl->allocate_registered(bytes, "shard"));
    EXPECT_EQ(get<char>(*stream_, shard, bytes), std::vector<char>(bytes)) << "zeroed";
    char* full = static_cast<char*>(device_->allocate(bytes * size_ + 1));
    for (int round = 0; round < 3; ++round) {
      std::vector<char> mine(bytes), expected(bytes * size_);
      const auto byte = [&](size_t r, size_t i) { return static_cast<char>(i * 7 + i / 4099 + r * 31 + static_cast<size_t>(round)); };
      for (size_t i = 0; i < bytes; ++i) mine[i] = byte(static_cast<size_t>(nccl->rank()), i);
      for (size_t r = 0; r < size_; ++r)
        for (size_t i = 0; i < bytes; ++i) expected[r * bytes + i] = byte(r, i);
      device_->copy_to_device(*stream_, shard, mine.data(), bytes);  // not waited for: the gather comes after it on the stream
      nccl->all_gather_shards(*stream_, shard, full, bytes, "unit");
      EXPECT_EQ(get<char>(*stream_, full, bytes * size_), expected) << bytes << " bytes, round " << round;
    }
    device_->free(full);
  }
}

TEST_F(NcclRanks, SumsAreThoseOfAllRanksAndHaveTheSameBitsInEveryRun) {
  auto nccl = make("reduce");
  for (const size_t count : {size_t{0}, size_t{1}, size_t{5003}, size_t{150001}}) {
    const size_t all = count * size_;
    float* full = static_cast<float*>(nccl->allocate_registered(all * sizeof(float), "gradients"));
    float* shard = static_cast<float*>(device_->allocate(count * sizeof(float) + 1));
    std::vector<float> first, values(all);
    for (int run = 0; run < 2; ++run) {
      std::vector<double> expected(count, 0);
      for (int round = 0; round < 2; ++round) {
        for (size_t i = 0; i < all; ++i) values[i] = value(nccl->rank(), i, round);
        for (size_t i = 0; i < count; ++i)
          for (size_t r = 0; r < size_; ++r) expected[i] += value(static_cast<int>(r), static_cast<size_t>(nccl->rank()) * count + i, round);
        device_->copy_to_device(*stream_, full, values.data(), all * sizeof(float));
        nccl->reduce_scatter(*stream_, full, shard, count, round > 0, "unit");
      }
      const std::vector<float> sum = get<float>(*stream_, shard, count);
      // Each of 2 n additions rounds by half a unit of sums below 2 n * 256.
      const double tolerance = 2.0 * static_cast<double>(size_) * 0x1p-24 * 512 * static_cast<double>(size_);
      for (size_t i = 0; i < count; ++i) ASSERT_NEAR(sum[i], expected[i], tolerance) << i;
      if (run == 0) first = sum;
      EXPECT_EQ(std::memcmp(sum.data(), first.data(), count * sizeof(float)), 0);
    }
    device_->free(shard);
  }
}

// As the engine does it: what the one communicator brings, the other sums, on a stream that waits for nothing but an event.
TEST_F(NcclRanks, TwoCommunicatorsOnTwoStreamsPassOnWhatTheyBring) {
  auto gather = make("gather"), reduce = make("reduce");
  auto second = device_->make_stream("reduce", true);
  auto brought = device_->make_event(), used = device_->make_event();
  constexpr size_t kCount = 3000;
  float* shard = static_cast<float*>(gather->allocate_registered(kCount * sizeof(float), "shards"));
  float* full = static_cast<float*>(reduce->allocate_registered(kCount * sizeof(float) * size_, "gradients"));
  float* sums = static_cast<float*>(device_->allocate(kCount * sizeof(float)));
  for (int round = 0; round < 20; ++round) {
    const std::vector<float> mine(kCount, static_cast<float>(round + gather->rank()));
    device_->copy_to_device(*stream_, shard, mine.data(), kCount * sizeof(float));
    used->wait(*stream_);
    gather->all_gather_shards(*stream_, shard, full, kCount * sizeof(float), "unit");
    brought->record(*stream_);
    brought->wait(*second);
    reduce->reduce_scatter(*second, full, sums, kCount, round > 0, "unit");
    used->record(*second);
  }
  gather->fence(*stream_);
  // Each rank holds the same gathered arrays, so part r is size times what rank r gave, summed over the rounds.
  const float expected = static_cast<float>(size_ * (190 + 20 * static_cast<size_t>(gather->rank())));
  EXPECT_EQ(get<float>(*second, sums, kCount), std::vector<float>(kCount, expected));
  device_->free(sums);
}

TEST_F(NcclRanks, EveryCollectiveIsRecordedAsItRunsAndHostValuesAreThoseOfAllRanks) {
  auto nccl = make("gather");
  nccl->fence(*stream_);
  stream_->synchronize();
  double values[2] = {0.1 * (nccl->rank() + 1), 1e17 / (nccl->rank() + 1)}, sums[2] = {0, 0};
  for (size_t r = 0; r < size_; ++r) sums[0] += 0.1 * static_cast<double>(r + 1), sums[1] += 1e17 / static_cast<double>(r + 1);
  nccl->all_reduce_sum(values, 2);
  EXPECT_EQ(std::memcmp(values, sums, sizeof sums), 0);
  const FlightRecorder* recorder = nccl->flight_recorder();
  ASSERT_NE(recorder, nullptr);
  for (int tries = 0; tries < 300 && recorder->records().front().finished == 0; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const CollectiveRecord fence = recorder->records().front();
  EXPECT_STREQ(fence.operation, "fence");
  EXPECT_GT(fence.started, 0);
  EXPECT_GT(fence.finished, 0);
  EXPECT_GT(nccl->busy_seconds(), 0);
  EXPECT_EQ(nccl->own_failure(), "");
}

TEST_F(NcclRanks, MemoryOfDifferentSizesIsRefusedOnAllRanks) {
  if (size_ == 1) return;
  auto nccl = make("gather");
  EXPECT_THROW(nccl->allocate_registered(nccl->rank() == 0 ? 10000 : 100000, "shards"), OperationError);
}

TEST_F(NcclRanks, RanksOfOneGpuAreRefusedByNccl) {
  if (size_ == 1) return;
  device_ = backend_.plugin().make_device(0);
  try {
    make("gather");
    FAIL() << "nothing was thrown";
  } catch (const OperationError& e) {
    EXPECT_NE(std::string(e.what()).find("Duplicate GPU"), std::string::npos) << e.what();
  }
}

TEST_F(NcclRanks, ACollectiveThatNotAllRanksJoinIsRecordedAsRunningUntilItIsAborted) {
  if (size_ == 1) return;
  const auto begin = std::chrono::steady_clock::now();
  auto nccl = make("gather");
  auto behind = make("reduce");
  if (nccl->rank() == 0) {
    auto second = device_->make_stream("reduce", true);
    auto event = device_->make_event();
    nccl->fence(*stream_);  // the others never come
    event->record(*stream_);
    event->wait(*second);
    behind->fence(*second);
    const FlightRecorder& recorder = *nccl->flight_recorder();
    for (int tries = 0; tries < 300 && recorder.records()[0].started == 0; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the recorder looks every 20
    EXPECT_GT(recorder.records()[0].started, 0);
    EXPECT_EQ(recorder.records()[0].finished, 0) << "it hangs";
    EXPECT_EQ(behind->flight_recorder()->records()[0].started, 0) << "its stream has not come to it";
  }
  MPI_Barrier(MPI_COMM_WORLD);
  for (Communicator* each : {nccl.get(), behind.get()}) each->abort();
  stream_->synchronize();
  nccl.reset();
  behind.reset();
  EXPECT_LT(seconds_since(begin), 10);
}

// LLMTRAIN_EMULATED_NCCL_FAULT=launch-hangs:4:0 (after the three collectives of the start), set by the test that runs this one alone.
TEST_F(NcclRanks, AbortEndsALaunchThatHangsInAnotherThread) {
  const char* fault = std::getenv("LLMTRAIN_EMULATED_NCCL_FAULT");
  if (!fault || std::string(fault).rfind("launch-hangs", 0) != 0) GTEST_SKIP() << "needs a launch that hangs";
  auto nccl = make("gather");
  std::atomic<bool> returned{false};
  std::thread issuing([&] {
    EXPECT_THROW(nccl->fence(*stream_), OperationError);  // in the program the process has ended by then
    returned = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const auto begin = std::chrono::steady_clock::now();
  nccl->abort();
  EXPECT_LT(seconds_since(begin), 0.9) << "the launching thread has left NCCL before it was aborted";
  EXPECT_FALSE(returned) << "a thread that holds nothing of worth goes on";
  issuing.join();
}

// LLMTRAIN_EMULATED_NCCL_FAULT=init-hangs:1:1, set by the test that runs this one alone.
TEST_F(NcclRanks, AStartThatHangsOnOneRankEndsOnAllAfterItsDeadline) {
  const char* fault = std::getenv("LLMTRAIN_EMULATED_NCCL_FAULT");
  if (!fault || std::string(fault).rfind("init-hangs", 0) != 0) GTEST_SKIP() << "needs a start that hangs";
  const auto begin = std::chrono::steady_clock::now();
  try {
    make("gather", 1);
    FAIL() << "nothing was thrown";
  } catch (const OperationError& e) {
    EXPECT_NE(std::string(e.what()).find("ncclCommInitRankConfig has not ended in 1 s"), std::string::npos) << e.what();
  }
  EXPECT_GT(seconds_since(begin), 0.9);
  EXPECT_LT(seconds_since(begin), 10);
}

}  // namespace
}  // namespace llmtrain
