// Context: what main() makes and hands down: MPI, device, kernels, streams, communicators, log. No globals.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "device/device.h"

namespace llmtrain {

// MPI as the launcher started it. MPI_Init_thread(MPI_THREAD_MULTIPLE) happens here, once a process; the destructor does nothing that can hang:
// finalise() is called explicitly at the end of main, abort() on a failure that the other ranks do not know of.
class MpiRuntime {
 public:
  // `launched`: whether a launcher (mpirun, srun) is in the environment; a plain start stays a single process and does not touch MPI at all
  // (start-up of MPI_Init alone costs 0.1-0.3 s) unless `always`.
  MpiRuntime(int* argc, char*** argv, bool always = false);
  ~MpiRuntime();
  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& host() const { return host_; }
  bool active() const { return active_; }
  void finalise();
  [[noreturn]] void abort(int exit_code);

 private:
  int rank_ = 0, size_ = 1;
  bool active_ = false, started_here_ = false;
  std::string host_;
};

// Ranks that agree on host values over MPI (or alone).
std::unique_ptr<RankGroup> make_rank_group(MpiRuntime& mpi);
class FlightRecorder;
// The last collectives of such a group, for the watchdog; null where it keeps none.
const FlightRecorder* flight_recorder_of(const RankGroup& group);

struct NodeOptions {
  int ranks_per_node = 0;  // 0: as the machine is; K: K consecutive ranks are a node (for tests of the path between nodes)
  bool shared_memory = true;  // false: even ranks of a node talk by MPI
  // For tests of what happens where things are scarce:
  bool anonymous_memory = true;              // memory without a name (memfd_create) first; false: only files in `shared_folder`
  std::string shared_folder = "/dev/shm";    // where files shared by the ranks of a node are made when memory without a name cannot be shared
  size_t message_bytes = size_t{1} << 30;    // the largest single MPI message (counts are int)
};

// A communicator over all ranks. Each has a duplicate of the MPI communicator and a window of its own, so two may run at the same time.
std::unique_ptr<Communicator> make_mpi_communicator(MpiRuntime& mpi, const std::string& name, const NodeOptions& options);

// Threads that this rank's kernels use, by the affinity masks of the ranks of the node, the cgroup's quota and OMP_NUM_THREADS; widens the mask where
// Open MPI bound ranks to single cores unasked (docs/architecture.md "Threads on the CPU backend"). `line` is for the log.
struct ThreadPlan {
  int threads = 1;
  std::string line;
};
ThreadPlan plan_threads(MpiRuntime& mpi, RankGroup& group);

}  // namespace llmtrain
