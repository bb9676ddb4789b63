// Flags between the ranks of a node (node_board.h).
#include "comm/mpi/node_board.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>

#include "comm/process.h"
#include "core/error.h"

namespace llmtrain {
namespace {

constexpr std::chrono::microseconds kSpin{10};
constexpr timespec kNap{0, 100'000'000};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// Not FUTEX_PRIVATE_FLAG: the word is shared between processes.
long futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, timeout, nullptr, 0);
}

bool is_alive(const BoardSlot& slot, uint64_t own_namespace) {
  return state_of({slot.pid, slot.start_time, slot.pid_namespace}, own_namespace) != ProcessState::gone;
}

}  // namespace

const char* operation_name(uint32_t operation) {
  static constexpr std::array<const char*, 8> kNames = {"all_gather",      "reduce_scatter", "fence",          "barrier",
                                                        "host all_gather", "broadcast",      "all_reduce_sum", "all_reduce_max"};
  return operation < kNames.size() ? kNames[operation] : "unknown operation";
}

CollectiveDescription describe_collective(uint64_t sequence, CollectiveOperation operation, uint64_t bytes, uint32_t region, uint64_t offset,
                                          const std::string& label) {
  CollectiveDescription d;
  d.sequence = sequence;
  d.bytes = bytes;
  d.offset = offset;
  d.operation = operation;
  d.region = region;
  d.label_hash = 14695981039346656037ull;  // FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/
  for (unsigned char c : label) d.label_hash = (d.label_hash ^ c) * 1099511628211ull;
  std::copy_n(label.begin(), std::min(label.size(), d.label.size() - 1), d.label.begin());
  return d;
}

std::string CollectiveDescription::text() const {
  std::string out = "collective " + std::to_string(sequence) + ", " + operation_name(operation);
  if (label[0] != '\0') out += " of '" + std::string(label.data()) + "'";
  if (operation == kAllGather || operation == kReduceScatter) {
    out += ", " + std::to_string(bytes) + " bytes a rank at byte " + std::to_string(offset) + " of allocation " + std::to_string(region);
  } else if (bytes > 0) {
    out += ", " + std::to_string(bytes) + " bytes";
  }
  return out;
}

std::string disagreement(const std::string& communicator, int rank, const CollectiveDescription& mine, int other_rank,
                         const CollectiveDescription& other) {
  if (other.sequence == CollectiveDescription::kFailed) {
    return "communicator '" + communicator + "': rank " + std::to_string(other_rank) + " has failed (" + other.label.data() + ") while rank " +
           std::to_string(rank) + " is at " + mine.text();
  }
  const bool swap = other_rank < rank;
  return "communicator '" + communicator + "': the ranks do not issue the same collectives: rank " + std::to_string(swap ? other_rank : rank) +
         " is at " + (swap ? other : mine).text() + "; rank " + std::to_string(swap ? rank : other_rank) + " is at " + (swap ? mine : other).text();
}

NodeBoard::NodeBoard(std::string communicator, std::vector<BoardSlot*> slots, std::vector<int> ranks, int me, bool spin)
    : communicator_(std::move(communicator)), slots_(std::move(slots)), ranks_(std::move(ranks)), me_(static_cast<size_t>(me)), spin_(spin) {
  LLMTRAIN_ASSERT(slots_.size() == ranks_.size() && me_ < slots_.size(), "a board needs one slot a rank");
}

void NodeBoard::introduce() {
  BoardSlot& slot = *slots_[me_];
  const ProcessName me = this_process();
  slot.pid_namespace = me.pid_namespace;
  slot.pid = me.pid;
  slot.start_time = me.start_time;
}

void NodeBoard::post(const CollectiveDescription& description) {
  throw_if_failed();
  BoardSlot& slot = *slots_[me_];
  const size_t place = description.sequence % BoardSlot::kRing;
  slot.posted[place].store(0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  slot.descriptions[place] = description;
  slot.posted[place].store(description.sequence);  // sequentially consistent: of two ranks that post, at least the later sees the other's
  compare(description);
}

void NodeBoard::compare(const CollectiveDescription& description) {
  const size_t place = description.sequence % BoardSlot::kRing;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (i == me_ || slots_[i]->posted[place].load() != description.sequence) continue;
    const CollectiveDescription other = slots_[i]->descriptions[place];
    std::atomic_thread_fence(std::memory_order_acquire);
    if (slots_[i]->posted[place].load() != description.sequence || other.same_as(description))
      continue;  // rewritten meanwhile: it was compared there
    const std::string message = disagreement(communicator_, ranks_[me_], description, ranks_[i], other);
    fail(message);
    throw OperationError(message);
  }
}

void NodeBoard::publish(BoardSlot::Counter counter, uint64_t value) {
  BoardSlot& slot = *slots_[me_];
  slot.counters[counter].store(value);
  slot.bell.fetch_add(1);
  if (slot.waiters.load() > 0) futex(&slot.bell, FUTEX_WAKE, INT_MAX, nullptr);
}

void NodeBoard::wait_all(BoardSlot::Counter counter, uint64_t value) {
  for (size_t i = 0; i < slots_.size(); ++i) wait(i, counter, value);
}

void NodeBoard::wait(size_t index, BoardSlot::Counter counter, uint64_t value) {
  if (reached(index, counter, value)) return;
  if (spin_) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 32; ++i) {
        if (reached(index, counter, value)) return;
        relax();
      }
    } while (std::chrono::steady_clock::now() < end);
  }
  BoardSlot& slot = *slots_[index];
  while (true) {
    const uint32_t seen = slot.bell.load();
    slot.waiters.fetch_add(1);
    long slept = 0;
    int error = 0;
    const bool there = reached(index, counter, value),
               failed = std::any_of(slots_.begin(), slots_.end(), [](const BoardSlot*s) { return s->failed.load() == 2; });
    if (!there && !failed) {
      slept = futex(&slot.bell, FUTEX_WAIT, seen, &kNap);
      error = slept != 0 ? errno : 0;
    }
    slot.waiters.fetch_sub(1);
    if (there) return;
    throw_if_failed();
    if (error == ETIMEDOUT) throw_if_dead();
  }
}

void NodeBoard::fail(const std::string& message) {
  BoardSlot& mine = *slots_[me_];
  uint32_t none = 0;
  if (mine.failed.compare_exchange_strong(none, 1)) {
    std::copy_n(message.begin(), std::min(message.size(), mine.failure.size() - 1), mine.failure.begin());
    mine.failed.store(2);
  }
  for (BoardSlot* slot : slots_) {
    slot->bell.fetch_add(1);
    futex(&slot->bell, FUTEX_WAKE, INT_MAX, nullptr);
  }
}

void NodeBoard::throw_if_failed() const {
  if (const std::string message = failure_of_others(); !message.empty()) throw PeerFailure(message);
  if (slots_[me_]->failed.load() == 2) throw OperationError(std::string(slots_[me_]->failure.data()));
}

std::string NodeBoard::failure_of_others() const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (i != me_ && slots_[i]->failed.load() == 2) return std::string(slots_[i]->failure.data());
  }
  return "";
}

void NodeBoard::throw_if_dead() const {
  const uint64_t own_namespace = this_process().pid_namespace;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (i == me_ || is_alive(*slots_[i], own_namespace)) continue;
    throw PeerFailure("communicator '" + communicator_ + "': rank " + std::to_string(ranks_[i]) + " (process " + std::to_string(slots_[i]->pid) +
                         " on this node) has ended while rank " + std::to_string(ranks_[me_]) + " was waiting for it");
  }
}

}  // namespace llmtrain
