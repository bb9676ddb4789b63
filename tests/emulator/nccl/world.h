// The ranks of one emulated NCCL communicator: processes of this machine that share a piece of memory without a name, so that nothing is left behind when
// they are killed.
//
// Thread rules: one thread at a time, but for stop conditions, which others may change.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace llmtrain::emulator {

constexpr int kMostRanks = 16;
constexpr size_t kSlotBytes = size_t{256} << 10;

// What a rank is in: all ranks must be in the same.
struct Description {
  uint64_t number = 0;
  char text[112] = {};
  bool operator==(const Description&) const = default;
};

class World {
 public:
  // What rank 0 hands to the others; false where the system gives no memory.
  static bool make_id(ncclUniqueId& id);
  // Null where it cannot be reached.
  static std::unique_ptr<World> open(const ncclUniqueId& id, int rank, int ranks);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  using Stop = std::function<bool()>;
  // Until every rank has joined (with a GPU each); false where `stop` said so first.
  bool join(int device, const Stop& stop);
  // The two ranks that have the same GPU, if any, after join().
  bool find_duplicate(int& first, int& second) const;
  // Until every rank has ended its use; false as above.
  bool leave(const Stop& stop);

  // Room of a rank, kSlotBytes; others read it between two meetings.
  char* slot(int rank) const;
  void describe(const Description& mine);
  const Description& description(int rank) const;
  // Until every rank has come here; false as above.
  bool meet(const Stop& stop);

 private:
  struct Shared;
  World(Shared* shared, int rank, int ranks) : shared_(shared), rank_(rank), ranks_(ranks) {}
  bool wait(const std::function<bool(int rank)>& has_come, const Stop& stop) const;

  Shared* shared_;
  int rank_, ranks_;
  uint64_t step_ = 0;
};

}  // namespace llmtrain::emulator
