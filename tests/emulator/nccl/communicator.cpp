// What the calls of an emulated NCCL communicator do (communicator.h).
#include "nccl/communicator.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "emulator/memory.h"
#include "nccl/fault.h"

namespace llmtrain::emulator {
namespace {

// LLMTRAIN_EMULATED_NCCL=serial: a GPU that has no room for two of NCCL's kernels at a time, so that they run one after the other in the order in which the
// host launched them (NCCL_LAUNCH_ORDER_IMPLICIT).
bool one_at_a_time() {
  const char* text = std::getenv("LLMTRAIN_EMULATED_NCCL");
  return text && std::string(text) == "serial";
}

struct Launches {
  std::mutex mutex;
  Position last;
};
Launches& launches_of(int device) {
  static Launches* const all = new Launches[kMostRanks];
  return all[device % kMostRanks];
}

template <class T>
void add_up(T* to, const std::vector<const char*>& parts, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    T sum = reinterpret_cast<const T*>(parts[0])[i];
    for (size_t p = 1; p < parts.size(); ++p) sum += reinterpret_cast<const T*>(parts[p])[i];
    to[i] = sum;
  }
}

void add_up(ncclDataType_t type, char* to, const std::vector<const char*>& parts, size_t count) {
  if (type == ncclFloat32) {
    add_up(reinterpret_cast<float*>(to), parts, count);
  } else {
    add_up(reinterpret_cast<int32_t*>(to), parts, count);
  }
}

bool is(const Collective& c, const char* call) { return std::strcmp(c.call, call) == 0; }

}  // namespace

size_t size_of(ncclDataType_t type) { return type == ncclUint8 ? 1 : type == ncclInt32 || type == ncclFloat32 ? 4 : 0; }

std::string text_of(const Collective& c) {
  const char* type = c.type == ncclUint8 ? "uint8" : c.type == ncclInt32 ? "int32" : "float32";
  return std::string(c.call) + " of " + std::to_string(c.count) + " x " + type + (c.operation == ncclSum ? "" : ", operation " + std::to_string(c.operation));
}

std::string Communicator::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

void Communicator::run() {
  pthread_setname_np(pthread_self(), "emulated NCCL");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !calls_.empty(); });
    if (calls_.empty() || aborted_) return;
    const std::function<void()> call = std::move(calls_.front());
    calls_.pop_front();
    lock.unlock();
    ::usleep(20);  // whoever records an event before it asks whether the call is done records it too early
    call();
    lock.lock();
  }
}

void Communicator::later(std::function<void()> call) {
  ncclResult_t fine = ncclSuccess;  // an error stays
  state_.compare_exchange_strong(fine, ncclInProgress);
  {
    const std::lock_guard lock(mutex_);
    calls_.push_back(std::move(call));
  }
  changed_.notify_all();
}

void Communicator::end_with(ncclResult_t state, const std::string& error) {
  {
    const std::lock_guard lock(mutex_);
    if (!error.empty()) error_ = error;
  }
  ncclResult_t in_progress = ncclInProgress;
  if (state == ncclSuccess) {
    state_.compare_exchange_strong(in_progress, ncclSuccess);
  } else {
    state_ = state;
  }
}

void Communicator::hang() {
  while (!stopped()) ::usleep(1000);
}

void Communicator::begin(const ncclUniqueId& id) {
  std::thread([self = shared_from_this()] { self->run(); }).detach();
  later([this, id] {
    if (nccl_fault_strikes("init-hangs")) hang();
    if (nccl_fault_strikes("init")) return end_with(ncclSystemError, "injected: the start failed");
    world_ = World::open(id, rank_, ranks_);
    if (!world_) return end_with(ncclSystemError, "the root of the communicator cannot be reached");
    if (!world_->join(device_, [this] { return stopped(); })) return end_with(ncclInternalError, "aborted");
    int first = 0, second = 0;
    if (world_->find_duplicate(first, second)) {
      return end_with(ncclInvalidUsage, "Duplicate GPU detected : rank " + std::to_string(first) + " and rank " + std::to_string(second) +
                                            " both on CUDA device " + std::to_string(device_));
    }
    end_with(ncclSuccess);
  });
}

void Communicator::launch(const Collective& c, const std::shared_ptr<CUstream_st>& queue) {
  const uint64_t number = ++issued_;
  later([self = shared_from_this(), c, queue, number] {
    if (nccl_fault_strikes("launch-hangs")) return self->hang();
    Launches& launches = launches_of(self->device_);
    const std::lock_guard lock(launches.mutex);
    if (one_at_a_time() && launches.last.queue) enqueue_wait(queue, launches.last);
    self->last_ = launches.last = enqueue(queue, [self, c, number] { self->carry_out(c, number); });
    self->end_with(ncclSuccess);
  });
}

void Communicator::finalize() {
  later([this] {
    if (last_.queue) wait_until(last_);
    end_with(world_->leave([this] { return stopped(); }) ? ncclSuccess : ncclInternalError);
  });
}

void Communicator::end() {
  const std::lock_guard lock(mutex_);
  ending_ = true;
  changed_.notify_all();
}

void Communicator::abort() {
  aborted_ = true;
  end();
  while (running_ > 0) ::usleep(100);
}

// ---- on the stream

void Communicator::carry_out(const Collective& c, uint64_t number) {
  const struct Running {
    std::atomic<int>& count;
    explicit Running(std::atomic<int>& n) : count(n) { ++count; }
    ~Running() { --count; }
  } running(running_);
  if (stopped()) return;
  if (nccl_fault_strikes("kill")) ::raise(SIGKILL);
  if (nccl_fault_strikes("stop")) ::raise(SIGSTOP);
  if (nccl_fault_strikes("remote")) {
    end_with(ncclRemoteError, "injected: a connection broke");
    return hang();
  }
  const size_t whole = c.count * size_of(c.type), all = whole * static_cast<size_t>(ranks_);
  check_memory(c.call, c.from, is(c, "ncclReduceScatter") ? all : whole);
  check_memory(c.call, c.to, is(c, "ncclAllGather") ? all : whole);
  Description mine;
  mine.number = number;
  text_of(c).copy(mine.text, sizeof mine.text - 1);
  if (!move(c, mine)) hang();
}

// What NCCL does when ranks differ is undefined; most often it hangs.
bool Communicator::agrees(const Description& mine) const {
  for (int r = 0; r < ranks_; ++r) {
    const Description& theirs = world_->description(r);
    if (theirs == mine) continue;
    std::fprintf(stderr, "emulated NCCL: in '%s' rank %d is in %s (number %llu), rank %d in %s (number %llu)\n", name_.c_str(), rank_, mine.text,
                 static_cast<unsigned long long>(mine.number), r, theirs.text, static_cast<unsigned long long>(theirs.number));
    return false;
  }
  return true;
}

// Piece by piece through the slots. Sums are added as on a ring: that of rank r begins with its neighbour's part.
bool Communicator::move(const Collective& c, const Description& mine) {
  const bool gathers = is(c, "ncclAllGather"), scatters = is(c, "ncclReduceScatter");
  const size_t element = size_of(c.type), ranks = static_cast<size_t>(ranks_), most = kSlotBytes / (scatters ? ranks : 1) / element;
  const auto stop = [this] { return stopped(); };
  for (size_t at = 0; at < c.count; at += most) {
    const size_t n = std::min(most, c.count - at), bytes = n * element;
    char* slot = world_->slot(rank_);
    for (size_t r = 0; r < (scatters ? ranks : 1); ++r) std::memcpy(slot + r * bytes, c.from + (r * c.count + at) * element, bytes);
    world_->describe(mine);
    if (!world_->meet(stop) || !agrees(mine)) return false;
    std::vector<const char*> parts;
    for (size_t i = 0; i < ranks; ++i) {
      const size_t r = scatters ? (static_cast<size_t>(rank_) + 1 + i) % ranks : i;
      const char* theirs = world_->slot(static_cast<int>(r));
      parts.push_back(theirs + (scatters ? static_cast<size_t>(rank_) * bytes : 0));
      if (gathers) std::memcpy(c.to + (r * c.count + at) * element, theirs, bytes);
    }
    if (!gathers) add_up(c.type, c.to + at * element, parts, n);
    if (!world_->meet(stop)) return false;
  }
  return true;
}

}  // namespace llmtrain::emulator
