// The communicator staged through host memory: on the CPU device, and on the emulated GPU where the plugin is named (LLMTRAIN_CUDA_PLUGIN).
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "comm/context.h"
#include "comm/device_choice.h"
#include "comm/flight_recorder.h"
#include "comm/staged/staged_communicator.h"
#include "core/error.h"
#include "device/cuda_backend.h"

namespace llmtrain {
namespace {

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr);
  return runtime;
}

// Every bit of the mantissa differs, so that the order of a sum shows.
float value(int rank, size_t i, uint32_t round) {
  uint32_t x = static_cast<uint32_t>(rank) * 2654435761u + static_cast<uint32_t>(i) * 40503u + round * 97u + 1;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return static_cast<float>(static_cast<int32_t>(x)) * 1.1920929e-7f;
}

class StagedCommunicator : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "cuda") {
      const char* plugin = std::getenv("LLMTRAIN_CUDA_PLUGIN");
      if (!plugin || !*plugin) GTEST_SKIP() << "LLMTRAIN_CUDA_PLUGIN names no plugin";
      backend_ = CudaBackend::open();
      device_ = backend_->plugin().make_device(0);
    } else {
      device_ = make_cpu_device(1);
    }
    staged_ = make_staged_communicator(mpi(), *device_, "staged", {});
    direct_ = make_mpi_communicator(mpi(), "direct", {});
    size_ = static_cast<size_t>(staged_->size());
  }
  void TearDown() override {
    staged_.reset();
    direct_.reset();
    MPI_Barrier(MPI_COMM_WORLD);
  }

  // To and from the device.
  void put(Stream& stream, void* to, const void* from, size_t bytes) {
    device_->copy_to_device(stream, to, from, bytes);
    stream.synchronize();
  }
  template <class T>
  std::vector<T> get(Stream& stream, const void* from, size_t count) {
    std::vector<T> out(count);
    device_->copy_to_host(stream, out.data(), from, count * sizeof(T));
    stream.synchronize();
    return out;
  }

  std::optional<CudaBackend> backend_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Communicator> staged_, direct_;
  size_t size_ = 1;
};

TEST_P(StagedCommunicator, GathersShardsOfAnySizeInTheOrderOfTheStream) {
  for (const bool async : {false, true}) {
    auto stream = device_->make_stream("gather", async);
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, (size_t{5} << 20) / size_ + 3}) {  // the last in several pieces
      if (async && bytes > 10000) continue;
      void* shard = staged_->allocate_registered(bytes, "shard");
      EXPECT_EQ(get<char>(*stream, shard, bytes), std::vector<char>(bytes));
      void* full = device_->allocate(bytes * size_ + 1);
      std::vector<char> mine(bytes), expected(bytes * size_);
      for (int round = 0; round < 2; ++round) {
        for (size_t r = 0; r < size_; ++r)
          for (size_t i = 0; i < bytes; ++i) expected[r * bytes + i] = static_cast<char>(i * 7 + i / 4099 + r * 31 + static_cast<size_t>(round));
        std::copy_n(expected.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(staged_->rank()) * bytes), bytes, mine.begin());
        device_->copy_to_device(*stream, shard, mine.data(), bytes);  // not waited for: the gather comes after it on the stream
        staged_->fence(*stream);
        staged_->all_gather_shards(*stream, shard, full, bytes, "unit");
        EXPECT_EQ(get<char>(*stream, full, bytes * size_), expected) << bytes << " bytes, round " << round;
      }
      device_->free(full);
    }
  }
}

TEST_P(StagedCommunicator, SumsHaveTheBitsOfTheMpiCommunicator) {
  auto stream = device_->make_stream("reduce", true);
  auto cpu = make_cpu_device(1);
  auto host = cpu->make_stream("host", false);
  for (const size_t count : {size_t{0}, size_t{1}, size_t{5003}, (size_t{5} << 18) / size_ + 1}) {
    const size_t all = count * size_;
    float* full = static_cast<float*>(staged_->allocate_registered(all * sizeof(float), "gradients"));
    float* shard = static_cast<float*>(device_->allocate(count * sizeof(float) + 1));
    float* reference = static_cast<float*>(direct_->allocate_registered(all * sizeof(float), "gradients"));
    std::vector<float> expected(count, 0.5f), values(all);
    put(*stream, shard, expected.data(), count * sizeof(float));
    for (uint32_t round = 0; round < 3; ++round) {
      const bool accumulate = round != 1;
      for (size_t i = 0; i < all; ++i) reference[i] = values[i] = value(staged_->rank(), i, round);
      put(*stream, full, values.data(), all * sizeof(float));
      staged_->reduce_scatter(*stream, full, shard, count, accumulate, "unit");
      direct_->reduce_scatter(*host, reference, expected.data(), count, accumulate, "unit");
      const std::vector<float> sum = get<float>(*stream, shard, count);
      EXPECT_EQ(std::memcmp(sum.data(), expected.data(), count * sizeof(float)), 0) << count << ", round " << round;
    }
    device_->free(shard);
  }
}

TEST_P(StagedCommunicator, HostValuesAndRecordsAreThoseOfTheMpiCommunicator) {
  double staged[2] = {0.1 * (staged_->rank() + 1), 1e17 / (staged_->rank() + 1)}, direct[2] = {staged[0], staged[1]};
  staged_->all_reduce_sum(staged, 2);
  direct_->all_reduce_sum(direct, 2);
  EXPECT_EQ(std::memcmp(staged, direct, sizeof staged), 0);
  auto stream = device_->make_stream("s", false);
  void* shard = staged_->allocate_registered(64, "shard");
  void* full = device_->allocate(64 * size_);
  staged_->all_gather_shards(*stream, shard, full, 64, "layers.0");
  device_->free(full);
  ASSERT_NE(staged_->flight_recorder(), nullptr);
  bool seen = false;
  for (const CollectiveRecord& record : staged_->flight_recorder()->records())
    seen = seen || (std::string(record.operation) == "all_gather" && std::string(record.label.data()) == "layers.0" && record.finished > 0);
  EXPECT_TRUE(seen);
  EXPECT_GT(staged_->busy_seconds(), 0);
  EXPECT_NE(staged_->describe().find("staged"), std::string::npos);
}

TEST_P(StagedCommunicator, RanksThatDisagreeAllGetAnErrorThatNamesThem) {
  if (size_ == 1) return;
  auto broken = make_staged_communicator(mpi(), *device_, "broken", {});
  auto stream = device_->make_stream("s", false);
  const bool odd = broken->rank() == static_cast<int>(size_) - 1;
  void* memory = broken->allocate_registered(1024 * size_, "memory");
  void* full = device_->allocate(1024 * size_);
  std::string message;
  try {
    broken->all_gather_shards(*stream, memory, full, 64, odd ? "layers.9" : "layers.0");
  } catch (const OperationError& e) {
    message = e.what();
  }
  EXPECT_NE(message.find("layers.9"), std::string::npos) << message;
  EXPECT_NE(message.find("layers.0"), std::string::npos) << message;
  MPI_Barrier(MPI_COMM_WORLD);
  device_->free(full);
  EXPECT_THROW(staged_->allocate_registered(staged_->rank() == 0 ? 10000 : 100000, "shards"), OperationError);
}

INSTANTIATE_TEST_SUITE_P(Devices, StagedCommunicator, testing::Values("cpu", "cuda"), [](const auto& device) { return device.param; });

// The whole way that the engine goes, on what this machine has.
TEST(DeviceChoiceOfRanks, IsTheSameEverywhereAndGivesDeviceAndCommunicator) {
  auto group = make_rank_group(mpi());
  const char* plugin = std::getenv("LLMTRAIN_CUDA_PLUGIN");
  DeviceWish wish;
  wish.device = "cpu";
  EXPECT_EQ(make_device_choice(mpi(), *group, wish).device, DeviceKind::cpu);
  if (!plugin || !*plugin) return;
  wish.device = "cuda";
  wish.communicator = "staged";
  const DeviceChoice choice = make_device_choice(mpi(), *group, wish);
  ASSERT_EQ(choice.device, DeviceKind::cuda);
  auto device = make_chosen_device(choice, 1);
  EXPECT_EQ(device->kind(), DeviceKind::cuda);
  auto communicator = make_chosen_communicator(choice, mpi(), *group, *device, "gather", {});
  EXPECT_EQ(communicator->size(), group->size());
  auto stream = device->make_stream("s", false);
  communicator->fence(*stream);
}

}  // namespace
}  // namespace llmtrain
