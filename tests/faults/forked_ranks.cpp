#include "faults/forked_ranks.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "core/error.h"

namespace llmtrain::testing_support {
namespace {

constexpr int kMostRanks = 8;
constexpr size_t kBoard = size_t{1} << 20;
using Clock = std::chrono::steady_clock;

// What the processes of a job share.
struct Shared {
  pthread_barrier_t barrier;
  volatile pid_t pids[kMostRanks];
  struct {
    char error[1500], acted[800];
    long calls, collectives;
  } told[kMostRanks];
  char board[kBoard];
};

template <class Function>
Function* shim(const char* name) {
  auto* found = reinterpret_cast<Function*>(::dlsym(RTLD_DEFAULT, name));
  if (!found) throw std::runtime_error("the I/O shim is not loaded");
  return found;
}

class ForkedRank : public JobRank, public RankGroup {
 public:
  ForkedRank(Shared& shared, int rank, int size) : shared_(shared), rank_(rank), size_(size) {}
  RankGroup& group() override { return *this; }
  int process_of(int rank) const override { return shared_.pids[rank]; }
  void kill(int victim) override {
    ::kill(process_of(victim), SIGKILL);
    ::usleep(2000);
  }
  void kill_at_collective(int victim, long n) override {
    victim_ = victim;
    fatal_ = n;
  }
  void arm(const io_shim_rule& rule) override { shim<void(const io_shim_rule*)>("io_shim_arm")(&rule); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override {
    enter();
    wait();
  }
  void all_gather(const void* mine, void* all, size_t bytes_each) override {
    enter();
    if (bytes_each * static_cast<size_t>(size_) > kBoard) throw OperationError("all_gather: too large for this test");
    std::memcpy(shared_.board + static_cast<size_t>(rank_) * bytes_each, mine, bytes_each);
    wait();
    std::memcpy(all, shared_.board, bytes_each * static_cast<size_t>(size_));
    wait();
  }
  void broadcast(void* data, size_t bytes, int root) override {
    enter();
    if (bytes > kBoard) throw OperationError("broadcast: too large for this test");
    if (rank_ == root) std::memcpy(shared_.board, data, bytes);
    wait();
    if (rank_ != root) std::memcpy(data, shared_.board, bytes);
    wait();
  }

  void report(const std::string& error) {
    auto& told = shared_.told[rank_];
    std::snprintf(told.error, sizeof told.error, "%s", error.c_str());
    std::snprintf(told.acted, sizeof told.acted, "%s", shim<const char*()>("io_shim_acted")());
    told.calls = shim<long()>("io_shim_calls")();
    told.collectives = collectives_;
  }

 private:
  void enter() {
    if (++collectives_ == fatal_) kill(victim_);
  }
  void wait() { ::pthread_barrier_wait(&shared_.barrier); }

  Shared& shared_;
  int rank_, size_, victim_ = -1;
  long collectives_ = 0, fatal_ = 0;
};

[[noreturn]] void be_rank(Shared& shared, int rank, int size, const RankWork& work) {
  ForkedRank me(shared, rank, size);
  shared.pids[rank] = ::getpid();
  ::pthread_barrier_wait(&shared.barrier);  // every process is known
  int code = 0;
  std::string error;
  try {
    work(me);
  } catch (const OperationError& e) {
    code = 1;
    error = e.what();
  } catch (const InputError& e) {
    code = 2;
    error = e.what();
  } catch (const std::exception& e) {
    code = 3;
    error = e.what();
  }
  me.report(error);
  std::fflush(nullptr);
  ::_exit(code);
}

Shared* make_shared(int size) {
  void* p = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("mmap");
  auto* shared = static_cast<Shared*>(p);
  pthread_barrierattr_t attributes;
  ::pthread_barrierattr_init(&attributes);
  ::pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_barrier_init(&shared->barrier, &attributes, static_cast<unsigned>(size));
  return shared;
}

// Waits for all, kills what has to be killed.
void watch(const std::vector<pid_t>& pids, JobOutcome& outcome, const JobOptions& options) {
  const auto begin = Clock::now();
  std::vector<bool> over(pids.size());
  size_t left = pids.size();
  Clock::time_point kill_at = options.kill_all_after.count() < 0 ? Clock::time_point::max() : begin + options.kill_all_after;
  const auto kill_left = [&] {
    for (size_t r = 0; r < pids.size(); ++r) {
      if (!over[r]) ::kill(pids[r], SIGKILL);
    }
    kill_at = Clock::time_point::max();
  };
  while (left > 0) {
    for (size_t r = 0; r < pids.size(); ++r) {
      int status = 0;
      if (over[r] || ::waitpid(pids[r], &status, WNOHANG) != pids[r]) continue;
      over[r] = true;
      --left;
      RankOutcome& rank = outcome.ranks[r];
      if (WIFEXITED(status)) rank.exit_code = WEXITSTATUS(status);
      if (WIFSIGNALED(status)) {
        rank.signal = WTERMSIG(status);
        kill_at = std::min(kill_at, Clock::now() + options.others_live_on);
      }
    }
    if (Clock::now() >= kill_at) kill_left();
    if (Clock::now() - begin > options.limit && !outcome.hung) {
      outcome.hung = true;
      kill_left();
    }
    if (left > 0) ::usleep(100);
  }
}

}  // namespace

bool JobOutcome::all_done() const {
  for (const RankOutcome& r : ranks) {
    if (r.exit_code != 0) return false;
  }
  return true;
}

bool JobOutcome::crashed() const {
  for (const RankOutcome& r : ranks) {
    if ((r.signal != 0 && r.signal != SIGKILL) || r.exit_code > 2) return true;
  }
  return false;
}

std::string JobOutcome::text() const {
  std::string text = hung ? "hung; " : "";
  for (const RankOutcome& r : ranks) {
    text += "[exit " + std::to_string(r.exit_code) + " signal " + std::to_string(r.signal) + " \"" + r.error + "\" acted on " + r.acted + "] ";
  }
  return text;
}

JobOutcome run_job(int size, const RankWork& work, const JobOptions& options) {
  if (size > kMostRanks) throw std::runtime_error("too many ranks for this test");
  Shared* shared = make_shared(size);
  std::fflush(nullptr);
  std::vector<pid_t> pids;
  for (int r = 0; r < size; ++r) {
    const pid_t pid = ::fork();
    if (pid == 0) be_rank(*shared, r, size, work);
    if (pid < 0) throw std::runtime_error("fork");
    pids.push_back(pid);
  }
  JobOutcome outcome;
  outcome.ranks.resize(static_cast<size_t>(size));
  watch(pids, outcome, options);
  for (int r = 0; r < size; ++r) {
    RankOutcome& rank = outcome.ranks[static_cast<size_t>(r)];
    rank.error = shared->told[r].error;
    rank.acted = shared->told[r].acted;
    rank.calls = shared->told[r].calls;
    rank.collectives = shared->told[r].collectives;
  }
  ::munmap(shared, sizeof(Shared));
  return outcome;
}

void need_io_shim(char** argv) {
  if (::dlsym(RTLD_DEFAULT, "io_shim_arm")) return;
  if (std::getenv("IO_SHIM_STARTED_AGAIN")) throw std::runtime_error("LD_PRELOAD of the I/O shim does not work here");
  ::setenv("IO_SHIM_STARTED_AGAIN", "1", 1);
  ::setenv("LD_PRELOAD", LLMTRAIN_IO_SHIM, 1);
  // AddressSanitizer wants to be the first library; the shim replaces none of its functions.
  const char* options = std::getenv("ASAN_OPTIONS");
  ::setenv("ASAN_OPTIONS", ((options ? std::string(options) + ":" : std::string()) + "verify_asan_link_order=0").c_str(), 1);
  ::execv("/proc/self/exe", argv);
  throw std::runtime_error("execv");
}

}  // namespace llmtrain::testing_support
