// Pieces of the communicator that need no MPI: the flight recorder, sums in rank order, shared segments, flags between processes.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "comm/flight_recorder.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/node_board.h"
#include "comm/mpi/shared_segment.h"
#include "comm/rank_sum.h"
#include "comm/solo_communicator.h"
#include "core/error.h"

namespace llmtrain {
namespace {

TEST(FlightRecorder, KeepsTheLastCollectivesWithTheirStates) {
  FlightRecorder recorder("gather", 3, 4);
  for (int i = 0; i < 6; ++i) {
    const uint64_t s = recorder.issue("all_gather", 100 + static_cast<size_t>(i), "unit \"" + std::to_string(i) + "\"");
    EXPECT_EQ(s, static_cast<uint64_t>(i) + 1);
    if (i < 5) recorder.start(s);
    if (i < 4) recorder.finish(s);
  }
  const std::vector<CollectiveRecord> kept = recorder.records();
  ASSERT_EQ(kept.size(), 4u);
  EXPECT_EQ(kept.front().sequence, 3u);
  EXPECT_EQ(kept.back().sequence, 6u);
  EXPECT_EQ(kept.back().started, 0);
  const std::string json = recorder.json();
  EXPECT_NE(json.find("\"label\": \"unit \\\"5\\\"\""), std::string::npos) << json;
  EXPECT_NE(json.find("\"state\": \"issued\""), std::string::npos);
  EXPECT_NE(json.find("\"state\": \"running\""), std::string::npos);
  EXPECT_NE(json.find("\"rank\": 3"), std::string::npos);
  EXPECT_EQ(recorder.finish(1), 0);  // long gone from the ring
}

TEST(RankSum, AddsInTheOrderOfRanksBitForBit) {
  std::mt19937 random(std::random_device{}());
  std::uniform_real_distribution<float> values(-1e6f, 1e6f);
  for (int n : {1, 2, 3, 5}) {
    for (size_t count : {size_t{0}, size_t{1}, size_t{17}, size_t{2048}, size_t{2049}, size_t{400001}}) {
      std::vector<std::vector<float>> data(static_cast<size_t>(n), std::vector<float>(count));
      std::vector<const float*> sources;
      for (auto& d : data) {
        for (float& v : d) v = values(random);
        sources.push_back(d.data());
      }
      for (const bool accumulate : {false, true}) {
        for (const bool parallel : {false, true}) {
          std::vector<float> out(count, 3.25f), expected(count);
          for (size_t i = 0; i < count; ++i) {
            float sum = data[0][i];
            for (size_t q = 1; q < data.size(); ++q) sum += data[q][i];
            expected[i] = (accumulate ? out[i] : 0.0f) + sum;
          }
          sum_in_rank_order(sources.data(), n, count, out.data(), accumulate, parallel);
          EXPECT_EQ(std::memcmp(out.data(), expected.data(), count * sizeof(float)), 0) << n << " ranks, " << count;
        }
      }
    }
  }
}

TEST(RankSum, NegativeZeroIsTheSameWithAndWithoutAccumulating) {
  const float minus = -0.0f;
  const float* sources[] = {&minus, &minus};
  float overwritten = 1, accumulated = 0;
  sum_in_rank_order(sources, 2, 1, &overwritten, false, false);
  sum_in_rank_order(sources, 2, 1, &accumulated, true, false);
  EXPECT_FALSE(std::signbit(overwritten));
  EXPECT_FALSE(std::signbit(accumulated));
}

TEST(RankTopology, UnequalNodesHaveNoPartners) {
  const RankTopology t({0, 0, 0, 3}, 1);
  EXPECT_EQ(t.locals, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(t.me, 1u);
  EXPECT_EQ(t.remotes, (std::vector<int>{3}));
  EXPECT_FALSE(t.equal_nodes);
  const RankTopology round_robin({0, 1, 0, 1}, 3);
  EXPECT_EQ(round_robin.locals, (std::vector<int>{1, 3}));
  EXPECT_EQ(round_robin.partners, (std::vector<int>{2}));
}

// ---- shared segments

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/llmtrain-shm-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  size_t files() const { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {})); }
  std::string folder_;
};

TEST_F(Folder, SegmentIsSharedAndItsNameGoesAtClosing) {
  SharedSegment mine = SharedSegment::make_in_folder(folder_, 100000);
  EXPECT_EQ(files(), 1u);
  SharedSegment other = SharedSegment::open(mine.address());
  mine.close_file();
  EXPECT_EQ(files(), 0u);
  EXPECT_EQ(other.data()[99999], 0);
  mine.data()[99999] = 7;
  EXPECT_EQ(other.data()[99999], 7);
}

TEST_F(Folder, FileOfAKilledRunIsRemovedByTheNextAndOneInUseIsNot) {
  SharedSegment alive = SharedSegment::make_in_folder(folder_, 4096);
  const pid_t child = fork();
  if (child == 0) {
    SharedSegment dead = SharedSegment::make_in_folder(folder_, 4096);
    kill(getpid(), SIGKILL);
  }
  waitpid(child, nullptr, 0);
  EXPECT_EQ(files(), 2u);
  EXPECT_EQ(remove_stale_segments(folder_), 1);
  EXPECT_EQ(files(), 1u);
}

TEST(SharedSegment, AnonymousMemoryIsReachedThroughProcAndProvesWhatItIs) {
  SharedSegment mine = SharedSegment::make_anonymous(8192);
  SharedSegment other = SharedSegment::open(mine.address());
  mine.data()[8191] = 3;
  EXPECT_EQ(other.data()[8191], 3);
  SegmentAddress wrong = mine.address();
  wrong.inode += 1;
  EXPECT_THROW(SharedSegment::open(wrong), OperationError);
  mine.close_file();
  EXPECT_THROW(SharedSegment::open(mine.address()), OperationError);
}

TEST_F(Folder, FullFolderIsAClearMessageNotASignal) {
  if (mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mounting a small tmpfs needs root";
  std::string message;
  try {
    SharedSegment::make_in_folder(folder_, 2 << 20);
  } catch (const OperationError& e) {
    message = e.what();
  }
  EXPECT_EQ(files(), 0u);
  umount(folder_.c_str());
  EXPECT_NE(message.find(folder_ + " cannot hold 2.0 MiB"), std::string::npos) << message;
  EXPECT_NE(message.find("--shm-size"), std::string::npos) << message;
}

// ---- flags between processes

class Board : public testing::Test {
 protected:
  void SetUp() override {
    memory_ = mmap(nullptr, 3 * sizeof(BoardSlot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory_, MAP_FAILED);
  }
  void TearDown() override { munmap(memory_, 3 * sizeof(BoardSlot)); }
  NodeBoard board(int me, int ranks, bool spin) {
    std::vector<BoardSlot*> slots;
    std::vector<int> world;
    for (int r = 0; r < ranks; ++r) {
      slots.push_back(static_cast<BoardSlot*>(memory_) + r);
      world.push_back(10 + r);
    }
    return NodeBoard("test", slots, world, me, spin);
  }
  // Runs `work` as rank `me` in a process of its own; its exit code says whether it threw nothing.
  template <class Work>
  pid_t start(Work work) {
    const pid_t child = fork();
    if (child != 0) return child;
    try {
      work();
    } catch (const std::exception&) {
      _exit(1);
    }
    _exit(0);
  }
  void* memory_ = nullptr;
};

TEST_F(Board, ThousandsOfMeetingsOfThreeProcessesOnTwoCores) {
  for (const bool spin : {false, true}) {
    TearDown();
    SetUp();
    std::vector<pid_t> children;
    for (int r = 0; r < 3; ++r) {
      children.push_back(start([&, r] {
        NodeBoard b = board(r, 3, spin);
        b.introduce();
        for (uint64_t s = 1; s <= 3000; ++s) {
          const CollectiveDescription d = describe_collective(s, kFence, 0, 0, 0, "");
          b.post(d);
          b.publish(BoardSlot::arrived, s);
          b.wait_all(BoardSlot::arrived, s);
          b.compare(d);
        }
      }));
    }
    for (pid_t child : children) {
      int status = 0;
      waitpid(child, &status, 0);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
  }
}

TEST_F(Board, DeadRankIsNamedAndNobodyWaitsForEver) {
  const pid_t child = start([&] {
    NodeBoard b = board(1, 2, true);
    b.introduce();
    b.publish(BoardSlot::arrived, 1);
    pause();
  });
  NodeBoard mine = board(0, 2, true);
  mine.introduce();
  mine.wait_all(BoardSlot::arrived, 0);
  mine.wait(1, BoardSlot::arrived, 1);
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    kill(child, SIGKILL);
  });
  const auto begin = std::chrono::steady_clock::now();
  try {
    mine.wait(1, BoardSlot::arrived, 2);
    ADD_FAILURE() << "no error";
  } catch (const OperationError& e) {
    EXPECT_NE(std::string(e.what()).find("rank 11 (process " + std::to_string(child)), std::string::npos) << e.what();
  }
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 2.0);
  killer.join();
  waitpid(child, nullptr, 0);
}

TEST_F(Board, DifferentCollectivesAreAnErrorOnEveryRankNamingBoth) {
  const pid_t child = start([&] {
    NodeBoard b = board(1, 2, true);
    b.introduce();
    b.post(describe_collective(1, kReduceScatter, 64, 0, 0, "model.layers.0"));
    b.publish(BoardSlot::arrived, 1);
    b.wait_all(BoardSlot::arrived, 1);
  });
  NodeBoard mine = board(0, 2, true);
  mine.introduce();
  mine.wait(1, BoardSlot::arrived, 1);
  try {
    mine.post(describe_collective(1, kAllGather, 64, 0, 0, "model.layers.1"));
    ADD_FAILURE() << "no error";
  } catch (const OperationError& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("rank 10 is at collective 1, all_gather of 'model.layers.1'"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 11 is at collective 1, reduce_scatter of 'model.layers.0'"), std::string::npos) << text;
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 1);  // it threw as well, instead of waiting
}

TEST(SoloCommunicator, CollectivesAreCopiesAndSums) {
  auto comm = make_solo_communicator("solo");
  auto device = make_cpu_device(1);
  for (const bool async : {false, true}) {
    auto stream = device->make_stream("s", async);
    float* shard = static_cast<float*>(comm->allocate_registered(64, "x"));
    shard[3] = 2;
    float full[16] = {};
    comm->all_gather_shards(*stream, shard, full, 64, "u");
    comm->reduce_scatter(*stream, full, shard, 16, true, "u");
    comm->fence(*stream);
    stream->synchronize();
    EXPECT_EQ(full[3], 2);
    EXPECT_EQ(shard[3], 4);
  }
  EXPECT_EQ(comm->bytes_registered(), 128u);
  EXPECT_EQ(comm->flight_recorder()->issued(), 6u);
}

}  // namespace
}  // namespace llmtrain
