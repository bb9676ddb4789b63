// NodeMemory: allocations that the ranks of a node read from each other. All ranks of the communicator agree whether an allocation is shared: where
// one rank cannot have it, nobody has it, everybody knows why, and the collectives on it go over MPI.
//
// Thread rules: set-up only, one thread; every call is collective over all ranks.
#pragma once

#include <mpi.h>

#include <string>
#include <vector>

#include "comm/context.h"
#include "comm/mpi/shared_segment.h"

namespace llmtrain {

struct NodeRegion {
  char* mine = nullptr;
  size_t bytes = 0;
  bool shared = false;      // base[] can be read
  std::vector<char*> base;  // of each rank of the node, in their order
  std::string why_not;      // when shared memory was wanted and could not be had
  std::vector<SharedSegment> segments;
  void* private_memory = nullptr;  // when not shared; owned by the Device
};

class NodeMemory {
 public:
  // locals: world ranks of this node, ascending; `me` is this rank's index in it. wanted: whether any node has more than one rank.
  NodeMemory(MPI_Comm comm, int rank, int size, std::vector<int> locals, size_t me, bool wanted, NodeOptions options)
      : comm_(comm), rank_(rank), size_(size), locals_(std::move(locals)), me_(me), wanted_(wanted), options_(std::move(options)) {}
  // Zeroed memory of `bytes` (> 0) on every rank; shared where possible, else from `device`. OperationError when there is no memory at all.
  NodeRegion allocate(Device& device, size_t bytes);

 private:
  struct Told;
  bool try_shared(bool anonymous, size_t bytes, NodeRegion& region);
  // The first rank's reason why it could not, empty when all could. Collective.
  std::string first_reason(const std::string& mine);

  MPI_Comm comm_;
  int rank_, size_;
  std::vector<int> locals_;
  size_t me_;
  bool wanted_;
  NodeOptions options_;
};

}  // namespace llmtrain
