// The gate through which the ranks of a node leave: nobody goes while another still works; one that never comes ends the job by name.
#include "comm/exit_gate.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <functional>

#include "comm/context.h"

namespace llmtrain {
namespace {

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr);
  return runtime;
}

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(ExitGate, NobodyLeavesBeforeTheLastOneDoes) {
  const auto group = make_rank_group(mpi());
  ExitGate gate(*group, mpi().host());
  group->barrier();
  const int last = group->size() - 1;
  if (group->rank() == last) ::usleep(300'000);
  const double seconds = seconds_of([&] { gate.leave(60); });
  if (group->rank() == last) {
    EXPECT_LT(seconds, 30);
  } else {
    EXPECT_GT(seconds, 0.25);
  }
}

TEST(ExitGate, OneThatNeverComesIsNamedAndTheJobEnds) {
  const auto group = make_rank_group(mpi());
  if (group->size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  ExitGate gate(*group, mpi().host());
  group->barrier();
  if (group->rank() == 0) {
    EXPECT_EXIT(gate.leave(0.3), ::testing::ExitedWithCode(1), "rank 1 on .* has not ended 0 s after the others");
  }
  group->barrier();
}

TEST(ExitGate, OneThatIsGoneIsNotWaitedFor) {
  // Two processes of this rank's own, which meet over a pipe: MPI has no say in whether one of them dies.
  class Pair : public RankGroup {
   public:
    Pair(int rank, int from, int to) : rank_(rank), from_(from), to_(to) {}
    int rank() const override { return rank_; }
    int size() const override { return 2; }
    void barrier() override {
      char byte = 0, other[2];
      all_gather(&byte, other, 1);
    }
    void all_gather(const void* mine, void* all, size_t bytes) override {
      char* place = static_cast<char*>(all);
      std::memcpy(place + static_cast<size_t>(rank_) * bytes, mine, bytes);
      ASSERT_EQ(::write(to_, mine, bytes), static_cast<ssize_t>(bytes));
      ASSERT_EQ(::read(from_, place + static_cast<size_t>(1 - rank_) * bytes, bytes), static_cast<ssize_t>(bytes));
    }
    void broadcast(void*, size_t, int) override {}

   private:
    int rank_, from_, to_;
  };
  int there[2], back[2];
  ASSERT_EQ(::pipe(there), 0);
  ASSERT_EQ(::pipe(back), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    Pair group(1, there[0], back[1]);
    ExitGate gate(group, "here");
    ::raise(SIGKILL);
  }
  Pair group(0, back[0], there[1]);
  ExitGate gate(group, "here");
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_LT(seconds_of([&] { gate.leave(60); }), 30);
}

}  // namespace
}  // namespace llmtrain
