// Queues and their threads (emulator/streams.h). One mutex guards all of them: a kernel on the emulator takes far longer than its bookkeeping.
#include "emulator/streams.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace llmtrain::emulator {
namespace {

// How the queues move, from the environment.
struct Pace {
  bool in_order = false, blocking_launches = false;
  bool late = false;
  uint64_t seed = 0;
  bool starve_all = false;
  long starved = -1;
  std::chrono::microseconds starved_for{100000};

  Pace() {
    const char* launch = std::getenv("CUDA_LAUNCH_BLOCKING");
    blocking_launches = launch && std::string(launch) == "1";
    const char* text = std::getenv("LLMTRAIN_EMULATED_STREAMS");
    const std::string all = text ? text : "", word = all.substr(0, all.find(':'));
    const std::string rest = word.size() < all.size() ? all.substr(word.size() + 1) : "";
    if (all.empty() || all == "concurrent") return;
    if (all == "in-order") {
      in_order = true;
    } else if (word == "late" && !rest.empty()) {
      late = true;
      seed = std::strtoull(rest.c_str(), nullptr, 10);
    } else if (word == "starve" && !rest.empty()) {
      const std::string which = rest.substr(0, rest.find(':'));
      starve_all = which == "all";
      if (!starve_all) starved = std::strtol(which.c_str(), nullptr, 10);
      if (which.size() < rest.size()) starved_for = std::chrono::microseconds(std::strtol(rest.c_str() + which.size() + 1, nullptr, 10));
    } else {
      std::fprintf(stderr, "LLMTRAIN_EMULATED_STREAMS: '%s' is unknown\n", all.c_str());
      std::abort();
    }
  }
};
const Pace& pace() {
  static const Pace p;
  return p;
}

struct Operation {
  std::function<void()> work;
  Position position;  // to wait for, instead of work
};

}  // namespace
}  // namespace llmtrain::emulator

struct CUstream_st {
  int device = 0;
  long number = 0;
  bool blocking = false;  // takes turns with the legacy stream
  bool starved = false, closing = false;
  std::deque<llmtrain::emulator::Operation> operations;  // the first is under way or next
  uint64_t given = 0, done = 0, wanted = 0;
  std::condition_variable changed;
};

namespace llmtrain::emulator {
namespace {

using Queue = std::shared_ptr<CUstream_st>;

// Never destroyed: the queues' threads live as long as the process.
struct Everything {
  std::mutex mutex;
  std::map<cudaStream_t, Queue> queues;  // that can be named
  std::set<Queue> alive;                 // that have a thread
  std::map<int, Queue> legacy;           // by device
  long made = 0;
  std::atomic<bool> broken{false};
};
Everything& everything() {
  static Everything& e = *new Everything;
  return e;
}

// Uniform over 64 bits, a function of its arguments (SplitMix64, https://doi.org/10.1145/2714064.2660195).
uint64_t mix(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t z = seed * 0x9e3779b97f4a7c15u + a * 0xbf58476d1ce4e5b9u + b * 0x94d049bb133111ebu + 0x632be59bd9b4e019u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

void want(const Queue& queue, uint64_t number) {
  if (queue->wanted >= number) return;
  queue->wanted = number;
  queue->changed.notify_all();
}

void wait_until(std::unique_lock<std::mutex>& lock, const Position& p) {
  want(p.queue, p.number);
  p.queue->changed.wait(lock, [&] { return p.queue->done >= p.number; });
}

// Holds an operation up, as the chosen pace wants it.
void dawdle(std::unique_lock<std::mutex>& lock, const Queue& q) {
  if (q->starved) {
    const bool asked = q->changed.wait_for(lock, pace().starved_for, [&] { return q->wanted > q->done; });
    if (!asked) q->wanted = q->given;  // all that it was given until now
  } else if (pace().late) {
    const uint64_t random = mix(pace().seed, static_cast<uint64_t>(q->number), q->done);
    if (random % 16 != 0) return;
    const uint64_t most = random / 16 % 32 == 0 ? 5000 : 400;  // microseconds
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(random / 512 % most);
    q->changed.wait_until(lock, until, [&] { return std::chrono::steady_clock::now() >= until; });
  }
}

void run_queue(const Queue& q) {
  pthread_setname_np(pthread_self(), ("GPU stream " + std::to_string(q->number)).substr(0, 15).c_str());
  std::unique_lock lock(everything().mutex);
  while (true) {
    q->changed.wait(lock, [&] { return q->closing || !q->operations.empty(); });
    if (q->operations.empty()) break;
    if (!broken()) dawdle(lock, q);
    Operation operation = std::move(q->operations.front());
    q->operations.pop_front();
    if (operation.position.queue) {
      wait_until(lock, operation.position);
    } else if (!broken()) {
      lock.unlock();
      operation.work();
      operation = {};  // what the work holds is let go before anybody is told that it is done
      lock.lock();
    }
    ++q->done;
    q->changed.notify_all();
  }
  everything().alive.erase(q);
}

void give(const Queue& q, Operation operation) {
  q->operations.push_back(std::move(operation));
  ++q->given;
  q->changed.notify_all();
}

void give_wait(const Queue& q, const Position& p) {
  if (p.queue != q && p.queue->done < p.number) give(q, {nullptr, p});
}

// The legacy stream waits for all blocking streams of its device, and they for it.
void take_turns(const Queue& q) {
  Everything& e = everything();
  const auto legacy = e.legacy.find(q->device);
  if (legacy == e.legacy.end()) return;
  if (legacy->second != q) {
    if (q->blocking) give_wait(q, {legacy->second, legacy->second->given});
    return;
  }
  for (const Queue& other : e.alive)
    if (other->blocking && other->device == q->device) give_wait(q, {other, other->given});
}

Queue start_queue(int device, bool blocking, long number) {
  auto q = std::make_shared<CUstream_st>();
  q->device = device;
  q->blocking = blocking;
  q->number = number;
  q->starved = pace().starve_all || (number >= 0 && number == pace().starved);
  everything().alive.insert(q);
  if (!pace().in_order) std::thread([q] { run_queue(q); }).detach();
  return q;
}

}  // namespace

bool broken() { return everything().broken; }
void break_devices() { everything().broken = true; }
bool launches_block() { return pace().blocking_launches; }
int device_of(const CUstream_st& queue) { return queue.device; }

Queue find_queue(cudaStream_t stream) {
  Everything& e = everything();
  const std::lock_guard lock(e.mutex);
  if (stream == nullptr) {
    Queue& legacy = e.legacy[current_device()];
    if (!legacy) legacy = start_queue(current_device(), false, -1);
    return legacy;
  }
  const auto found = e.queues.find(stream);
  return found == e.queues.end() ? nullptr : found->second;
}

Queue make_queue(int device, bool blocking) {
  Everything& e = everything();
  const std::lock_guard lock(e.mutex);
  Queue q = start_queue(device, blocking, e.made++);
  e.queues[q.get()] = q;
  return q;
}

// What it was given is still done, as CUDA does it.
void destroy_queue(cudaStream_t stream) {
  Everything& e = everything();
  const std::lock_guard lock(e.mutex);
  const auto found = e.queues.find(stream);
  if (found == e.queues.end()) return;
  found->second->closing = true;
  found->second->changed.notify_all();
  if (pace().in_order) e.alive.erase(found->second);
  e.queues.erase(found);
}

Position enqueue(const Queue& queue, std::function<void()> work) {
  if (pace().in_order) {
    if (!broken()) work();
    return {queue, 0};
  }
  const std::lock_guard lock(everything().mutex);
  take_turns(queue);
  give(queue, {std::move(work), {}});
  return {queue, queue->given};
}

void enqueue_wait(const Queue& queue, const Position& position) {
  const std::lock_guard lock(everything().mutex);
  give_wait(queue, position);
}

Position end_of(const Queue& queue) {
  const std::lock_guard lock(everything().mutex);
  return {queue, queue->given};
}

bool reached(const Position& position) {
  const std::lock_guard lock(everything().mutex);
  return position.queue->done >= position.number;
}

void wait_until(const Position& position) {
  std::unique_lock lock(everything().mutex);
  wait_until(lock, position);
}

void wait_for_device(int device) {
  std::unique_lock lock(everything().mutex);
  std::vector<Position> ends;
  for (const Queue& q : everything().alive)
    if (q->device == device) ends.push_back({q, q->given});
  for (const Position& p : ends) want(p.queue, p.number);
  for (const Position& p : ends) wait_until(lock, p);
}

}  // namespace llmtrain::emulator
