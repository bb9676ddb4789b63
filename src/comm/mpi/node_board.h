// NodeBoard: how the ranks of a node tell each other what they do, through memory that all of them map. One slot a rank, written by its owner only
// (but for the failure note): counters that only grow, a bell (a futex word rung at each change), and the descriptions of its last collectives.
//
// Who waits spins for a few microseconds, then sleeps on the bell; with more ranks than cores it sleeps at once. A sleeper wakes ten times a second
// to see whether the others live and whether one of them has failed: nobody waits for ever for a dead rank. Futexes:
// https://man7.org/linux/man-pages/man2/futex.2.html.
//
// Thread rules: one thread at a time per NodeBoard object (the thread of the stream that runs the collectives).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace llmtrain {

// What a rank is about to do. Compared between ranks; also sent over MPI as bytes.
struct CollectiveDescription {
  uint64_t sequence = 0;
  uint64_t bytes = 0, offset = 0;  // of one rank's contribution; where it lies in its allocation
  uint32_t operation = 0;          // index into operation_name()
  uint32_t region = 0;             // number of the allocation
  uint64_t label_hash = 0;
  std::array<char, 128> label{};

  // In place of a collective: the rank has failed, `label` says why.
  static constexpr uint64_t kFailed = UINT64_MAX;
  bool same_as(const CollectiveDescription& other) const {
    return sequence == other.sequence && bytes == other.bytes && offset == other.offset && operation == other.operation && region == other.region &&
           label_hash == other.label_hash;
  }
  std::string text() const;
};
enum CollectiveOperation : uint32_t { kAllGather, kReduceScatter, kFence, kBarrier, kHostAllGather, kBroadcast, kAllReduceSum, kAllReduceMax };
const char* operation_name(uint32_t operation);
CollectiveDescription describe_collective(uint64_t sequence, CollectiveOperation operation, uint64_t bytes, uint32_t region, uint64_t offset,
                                          const std::string& label);
// "communicator 'gather': the ranks disagree on collective 7: rank 0: …; rank 3: …".
std::string disagreement(const std::string& communicator, int rank, const CollectiveDescription& mine, int other_rank,
                         const CollectiveDescription& other);

struct alignas(64) BoardSlot {
  enum Counter { arrived, done, staged, consumed, kCounters };
  std::array<std::atomic<uint64_t>, kCounters> counters;
  alignas(64) std::atomic<uint32_t> bell;
  std::atomic<uint32_t> waiters;
  // Who this is, so that the others can see whether it lives.
  int64_t pid;
  uint64_t start_time, pid_namespace;
  std::atomic<uint32_t> failed;  // 0, 1: being written, 2: `failure` can be read
  std::array<char, 1024> failure;
  static constexpr size_t kRing = 64;
  std::array<std::atomic<uint64_t>, kRing> posted;  // sequence of the description in the same place; 0 while it is rewritten
  std::array<CollectiveDescription, kRing> descriptions;
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free, "these words are shared between processes");

class NodeBoard {
 public:
  // slots[i] belongs to world rank ranks[i]; all of them begin as zeros. `me` is this process's index. spin: there is a core for every rank.
  NodeBoard(std::string communicator, std::vector<BoardSlot*> slots, std::vector<int> ranks, int me, bool spin);
  // Writes who this process is. Every rank calls it, then all meet (a barrier of MPI), then the board may be used.
  void introduce();

  // Publishes what this rank is about to do and compares it with those that are there already. OperationError, on all ranks, when two differ.
  void post(const CollectiveDescription& description);
  // Compares with every rank again; each has posted this sequence (or is past it).
  void compare(const CollectiveDescription& description);
  void publish(BoardSlot::Counter counter, uint64_t value);
  // Waits until the counter of every rank (of one rank) is at least `value`. OperationError when a rank has died or failed.
  void wait_all(BoardSlot::Counter counter, uint64_t value);
  void wait(size_t index, BoardSlot::Counter counter, uint64_t value);
  // Notes an error of this rank for the others, which throw it from their next wait, and wakes them.
  void fail(const std::string& message);
  void throw_if_failed() const;
  // What another rank noted, "" while none did. Any thread.
  std::string failure_of_others() const;
  // OperationError naming a rank of the node whose process is gone.
  void throw_if_dead() const;

 private:
  bool reached(size_t index, BoardSlot::Counter counter, uint64_t value) const { return slots_[index]->counters[counter].load() >= value; }

  std::string communicator_;
  std::vector<BoardSlot*> slots_;
  std::vector<int> ranks_;
  size_t me_;
  bool spin_;
};

}  // namespace llmtrain
