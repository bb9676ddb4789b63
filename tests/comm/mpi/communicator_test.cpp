// The communicator over MPI on every way that ranks can be spread over nodes.
#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/context.h"
#include "comm/flight_recorder.h"
#include "core/error.h"
#include "device/cpu/threads.h"

namespace llmtrain {
namespace {

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr);
  return runtime;
}

struct Spread {
  std::string name;
  NodeOptions options;
};

std::vector<Spread> spreads() {
  std::vector<Spread> all;
  all.push_back({"as the machine is", {}});
  for (int k = 1; k <= 3; ++k) {  // 4 ranks: 1 + 1 + 1 + 1, 2 + 2, 3 + 1
    Spread s{"nodes of " + std::to_string(k), {}};
    s.options.ranks_per_node = k;
    all.push_back(s);
    s.name += ", small messages";
    s.options.message_bytes = 1000;
    all.push_back(s);
  }
  Spread mpi_only{"no shared memory", {}};
  mpi_only.options.shared_memory = false;
  all.push_back(mpi_only);
  Spread files{"files in /dev/shm", {}};
  files.options.anonymous_memory = false;
  all.push_back(files);
  Spread nowhere{"shared memory refused", {}};
  nowhere.options.anonymous_memory = false;
  nowhere.options.shared_folder = "/nonexistent";
  all.push_back(nowhere);
  return all;
}

// The same everywhere for the same arguments; every bit of the mantissa differs, so that the order of a sum shows.
float value(int rank, size_t i, uint32_t round) {
  uint32_t x = static_cast<uint32_t>(rank) * 2654435761u + static_cast<uint32_t>(i) * 40503u + round * 97u + 1;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return static_cast<float>(static_cast<int32_t>(x)) * 1.1920929e-7f;
}

class EverySpread : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    spread_ = spreads()[GetParam()];
    comm_ = make_mpi_communicator(mpi(), "test", spread_.options);
    rank_ = comm_->rank();
    size_ = comm_->size();
  }
  void TearDown() override {
    comm_.reset();
    MPI_Barrier(MPI_COMM_WORLD);
  }
  Spread spread_;
  std::unique_ptr<Device> device_ = make_cpu_device(1);
  std::unique_ptr<Communicator> comm_;
  int rank_ = 0, size_ = 1;
};

TEST_P(EverySpread, GathersShardsOfAnySize) {
  for (const bool async : {false, true}) {
    auto stream = device_->make_stream("gather", async);
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{256}, size_t{4097}, size_t{300003}}) {
      char* shard = static_cast<char*>(comm_->allocate_registered(bytes, "shard"));
      std::vector<char> full(bytes * static_cast<size_t>(size_) + 1, 99);
      for (int round = 0; round < 3; ++round) {
        for (size_t i = 0; i < bytes; ++i) shard[i] = static_cast<char>(i * 7 + static_cast<size_t>(rank_ * 31 + round));
        comm_->fence(*stream);
        comm_->all_gather_shards(*stream, shard, full.data(), bytes, "unit");
        comm_->fence(*stream);
        stream->synchronize();
        bool right = true;
        for (int r = 0; r < size_; ++r)
          for (size_t i = 0; i < bytes; ++i)
            right = right && full[static_cast<size_t>(r) * bytes + i] == static_cast<char>(i * 7 + static_cast<size_t>(r * 31 + round));
        EXPECT_TRUE(right) << spread_.name << ", " << bytes << " bytes";
        EXPECT_EQ(full.back(), 99);
      }
    }
  }
}

TEST_P(EverySpread, LargeShardsGoThroughTheStagingAreaInPieces) {
  auto stream = device_->make_stream("gather", true);
  const size_t bytes = (size_t{9} << 20) + 64;  // more than both halves
  if (spread_.options.message_bytes < 10000 || spread_.options.ranks_per_node == 0) return;
  char* shard = static_cast<char*>(comm_->allocate_registered(bytes, "shard"));
  for (size_t i = 0; i < bytes; ++i) shard[i] = static_cast<char>(i / 3 + static_cast<size_t>(rank_));
  std::vector<char> full(bytes * static_cast<size_t>(size_));
  comm_->fence(*stream);
  comm_->all_gather_shards(*stream, shard, full.data(), bytes, "unit");
  stream->synchronize();
  bool right = true;
  for (int r = 0; r < size_; ++r)
    for (size_t i = 0; i < bytes; ++i) right = right && full[static_cast<size_t>(r) * bytes + i] == static_cast<char>(i / 3 + static_cast<size_t>(r));
  EXPECT_TRUE(right) << spread_.name;
}

TEST_P(EverySpread, ReduceScatterAddsInTheOrderOfRanksBitForBit) {
  for (const bool async : {false, true}) {
    auto stream = device_->make_stream("reduce", async);
    for (size_t count : {size_t{0}, size_t{1}, size_t{64}, size_t{5003}, size_t{700001}}) {
      if (count > 10000 && (async || spread_.options.message_bytes < 10000)) continue;
      float* full = static_cast<float*>(comm_->allocate_registered(count * static_cast<size_t>(size_) * sizeof(float), "gradients"));
      std::vector<float> shard(count, 0.5f), expected(count, 0.5f);
      for (uint32_t round = 0; round < 3; ++round) {
        const bool accumulate = round != 1;
        for (size_t i = 0; i < count * static_cast<size_t>(size_); ++i) full[i] = value(rank_, i, round);
        comm_->reduce_scatter(*stream, full, shard.data(), count, accumulate, "unit");
        stream->synchronize();  // then full may be overwritten
        for (size_t i = 0; i < count; ++i) {
          const size_t at = static_cast<size_t>(rank_) * count + i;
          float sum = value(0, at, round);
          for (int q = 1; q < size_; ++q) sum += value(q, at, round);
          expected[i] = (accumulate ? expected[i] : 0.0f) + sum;
        }
        EXPECT_EQ(std::memcmp(shard.data(), expected.data(), count * sizeof(float)), 0) << spread_.name << ", " << count;
      }
    }
  }
}

TEST_P(EverySpread, FenceHoldsEverybodyUntilTheLastHasCome) {
  auto stream = device_->make_stream("s", false);
  int* word = static_cast<int*>(comm_->allocate_registered(sizeof(int), "word"));
  std::vector<int> all(static_cast<size_t>(size_));
  for (int round = 1; round <= 20; ++round) {
    if (round % size_ == rank_) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    *word = round;
    comm_->fence(*stream);
    comm_->all_gather_shards(*stream, word, all.data(), sizeof(int), "word");
    comm_->fence(*stream);
    for (int seen : all) EXPECT_EQ(seen, round);
  }
}

TEST_P(EverySpread, HostValuesAreTheSameBitsEverywhere) {
  double values[3] = {0.1 * (rank_ + 1), 1e17 / (rank_ + 1), -1.0 * rank_};
  double expected[3] = {0.1, 1e17, -0.0};
  for (int r = 1; r < size_; ++r) {
    expected[0] += 0.1 * (r + 1);
    expected[1] += 1e17 / (r + 1);
    expected[2] += -1.0 * r;
  }
  comm_->all_reduce_sum(values, 3);
  EXPECT_EQ(std::memcmp(values, expected, sizeof values), 0);
  double largest = rank_;
  comm_->all_reduce_max(&largest, 1);
  EXPECT_EQ(largest, size_ - 1);
  int root_value = rank_ == size_ - 1 ? 42 : 0;
  comm_->broadcast(&root_value, sizeof root_value, size_ - 1);
  EXPECT_EQ(root_value, 42);
  comm_->barrier();
}

TEST_P(EverySpread, TwoCommunicatorsWorkAtTheSameTime) {
  auto other = make_mpi_communicator(mpi(), "other", spread_.options);
  auto gather = device_->make_stream("gather", true), reduce = device_->make_stream("reduce", true);
  const size_t count = 30000;
  float* shard = static_cast<float*>(comm_->allocate_registered(count * sizeof(float), "shard"));
  float* full = static_cast<float*>(other->allocate_registered(count * static_cast<size_t>(size_) * sizeof(float), "gradients"));
  for (size_t i = 0; i < count; ++i) shard[i] = value(rank_, i, 0);
  for (size_t i = 0; i < count * static_cast<size_t>(size_); ++i) full[i] = value(rank_, i, 1);
  std::vector<float> gathered(count * static_cast<size_t>(size_)), sum(count);
  comm_->fence(*gather);
  for (int i = 0; i < 10; ++i) {
    comm_->all_gather_shards(*gather, shard, gathered.data(), count * sizeof(float), "a");
    other->reduce_scatter(*reduce, full, sum.data(), count, i > 0, "b");
  }
  comm_->fence(*gather);
  gather->synchronize();
  reduce->synchronize();
  bool right = true;
  for (size_t i = 0; i < count; ++i) {
    for (int r = 0; r < size_; ++r) right = right && gathered[static_cast<size_t>(r) * count + i] == value(r, i, 0);
    float once = value(0, static_cast<size_t>(rank_) * count + i, 1), ten = 0;
    for (int r = 1; r < size_; ++r) once += value(r, static_cast<size_t>(rank_) * count + i, 1);
    for (int k = 0; k < 10; ++k) ten += once;
    right = right && sum[i] == ten;
  }
  EXPECT_TRUE(right) << spread_.name;
  MPI_Barrier(MPI_COMM_WORLD);  // nobody takes memory away that others read
}

// What all ranks do must be the same; where it is not, every rank hears of it, and nobody waits for ever.
TEST_P(EverySpread, DifferentCollectivesRaiseAnErrorThatNamesThem) {
  if (size_ == 1) return;
  enum Case { operation, bytes, label };
  for (Case c : {operation, bytes, label}) {
    auto broken = make_mpi_communicator(mpi(), "broken", spread_.options);
    auto stream = device_->make_stream("s", true);
    float* memory = static_cast<float*>(broken->allocate_registered(4096 * static_cast<size_t>(size_), "memory"));
    std::vector<float> out(1024 * static_cast<size_t>(size_));
    const bool odd = rank_ == size_ - 1;
    std::string message;
    try {
      if (c == operation && odd) {
        broken->reduce_scatter(*stream, memory, out.data(), 16, false, "model.layers.0");
      } else {
        broken->all_gather_shards(*stream, memory, out.data(), c == bytes && odd ? 128 : 64, c == label && odd ? "model.layers.9" : "model.layers.0");
      }
      broken->fence(*stream);
      stream->synchronize();
    } catch (const OperationError& e) {
      message = e.what();
    }
    EXPECT_NE(message.find("rank " + std::to_string(size_ - 1) + " is at collective 1"), std::string::npos)
        << spread_.name << ", case " << c << ": " << message;
    EXPECT_NE(message.find("model.layers.0"), std::string::npos) << message;
    MPI_Barrier(MPI_COMM_WORLD);
  }
}

TEST_P(EverySpread, DifferentHostValuesRaiseAnError) {
  if (size_ == 1) return;
  auto broken = make_mpi_communicator(mpi(), "broken", spread_.options);
  double values[2] = {1, 2};
  if (rank_ == 0) {
    EXPECT_THROW(broken->all_reduce_sum(values, 1), OperationError);
  } else {
    EXPECT_THROW(broken->all_reduce_sum(values, 2), OperationError);
  }
}

TEST_P(EverySpread, EveryCollectiveIsRecorded) {
  auto stream = device_->make_stream("s", false);
  char* shard = static_cast<char*>(comm_->allocate_registered(64, "shard"));
  std::vector<char> full(64 * static_cast<size_t>(size_));
  comm_->fence(*stream);
  comm_->all_gather_shards(*stream, shard, full.data(), 64, "model.embed_tokens");
  comm_->fence(*stream);
  const FlightRecorder* recorder = comm_->flight_recorder();
  ASSERT_NE(recorder, nullptr);
  const std::vector<CollectiveRecord> records = recorder->records();
  ASSERT_EQ(records.size(), 3u);
  EXPECT_STREQ(records[1].operation, "all_gather");
  EXPECT_STREQ(records[1].label.data(), "model.embed_tokens");
  EXPECT_GT(records[1].finished, 0);
  EXPECT_GE(comm_->busy_seconds(), 0);
}

INSTANTIATE_TEST_SUITE_P(All, EverySpread, testing::Range(size_t{0}, spreads().size()));

TEST(MpiCommunicator, DescribesHowRanksReachEachOtherAndWhy) {
  if (mpi().size() == 1) return;
  NodeOptions options;
  EXPECT_NE(make_mpi_communicator(mpi(), "a", options)->describe().find("shared memory within a node"), std::string::npos);
  options.anonymous_memory = false;
  options.shared_folder = "/nonexistent";
  const std::string text = make_mpi_communicator(mpi(), "a", options)->describe();
  EXPECT_NE(text.find("MPI instead of shared memory"), std::string::npos) << text;
  EXPECT_NE(text.find("/nonexistent"), std::string::npos) << text;
  MPI_Barrier(MPI_COMM_WORLD);
}

// A small /dev/shm: the flags fit, the large window does not. The collectives on it go over MPI, and nothing crashes at first touch.
TEST(MpiCommunicator, SmallSharedFolderMeansMpiForWhatDoesNotFit) {
  if (mpi().size() == 1) return;
  const std::string folder = "/tmp/llmtrain-small-shm";
  int mounted = 0;
  if (mpi().rank() == 0) {
    std::filesystem::create_directory(folder);
    mounted = mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=1m") == 0;
  }
  MPI_Bcast(&mounted, 1, MPI_INT, 0, MPI_COMM_WORLD);
  if (!mounted) GTEST_SKIP() << "mounting a small tmpfs needs root";
  {
    NodeOptions options;
    options.anonymous_memory = false;
    options.shared_folder = folder;
    auto comm = make_mpi_communicator(mpi(), "small", options);
    auto device = make_cpu_device(1);
    auto stream = device->make_stream("s", true);
    const size_t count = 1 << 19;
    float* full = static_cast<float*>(comm->allocate_registered(count * sizeof(float) * static_cast<size_t>(comm->size()), "gradients"));
    EXPECT_NE(comm->describe().find(folder + " cannot hold"), std::string::npos) << comm->describe();
    for (size_t i = 0; i < count * static_cast<size_t>(comm->size()); ++i) full[i] = 1.5f;
    std::vector<float> sum(count);
    comm->reduce_scatter(*stream, full, sum.data(), count, false, "unit");
    stream->synchronize();
    EXPECT_EQ(sum.front(), 1.5f * static_cast<float>(comm->size()));
    EXPECT_EQ(sum.back(), 1.5f * static_cast<float>(comm->size()));
  }
  MPI_Barrier(MPI_COMM_WORLD);
  if (mpi().rank() == 0) {
    umount(folder.c_str());
    std::filesystem::remove(folder);
  }
}

TEST(MpiCommunicator, DifferentRequestsForMemoryAreAnError) {
  if (mpi().size() == 1) return;
  auto comm = make_mpi_communicator(mpi(), "a", {});
  EXPECT_THROW(comm->allocate_registered(mpi().rank() == 0 ? 10000 : 100000, "shards"), OperationError);
}

TEST(RankGroup, GathersAndBroadcasts) {
  auto group = make_rank_group(mpi());
  const int mine = group->rank() * 3;
  std::vector<int> all(static_cast<size_t>(group->size()));
  group->all_gather(&mine, all.data(), sizeof mine);
  for (int r = 0; r < group->size(); ++r) EXPECT_EQ(all[static_cast<size_t>(r)], r * 3);
  EXPECT_EQ(broadcast_string(*group, group->rank() == 0 ? "hello" : "", 0), "hello");
  const int last = group->size() - 1;
  EXPECT_THROW(run_on_all_or_fail(*group,
                                  [&] {
                                    if (group->rank() == last) throw InputError("file.json:3", "is broken");
                                  }),
               InputError);
}

TEST(ThreadPlan, GivesEveryRankAThreadAndSaysSo) {
  auto group = make_rank_group(mpi());
  const CoreList before = affinity_of_this_thread();
  const ThreadPlan plan = plan_threads(mpi(), *group);
  EXPECT_GE(plan.threads, 1);
  EXPECT_NE(plan.line.find(std::to_string(mpi().size()) + (mpi().size() == 1 ? " rank" : " ranks")), std::string::npos) << plan.line;
  EXPECT_FALSE(affinity_of_this_thread().empty());
  set_affinity_of_this_thread(before);
}

}  // namespace
}  // namespace llmtrain
