// Communicator: the collectives that the engine needs, over the ranks of one group. Implementations: mpi/ (ranks of a node share memory, ranks of
// other nodes talk by MPI), nccl/.
//
// Every collective is numbered and told to the FlightRecorder before and after. All ranks must issue the same collectives of one Communicator in the
// same order; a mismatch in operation, size or unit is found by comparing the numbered descriptions where that costs nothing, and raises
// OperationError naming the ranks.
// Thread rules: one thread issues; with an asynchronous stream the work runs on that stream's thread, so two streams need two Communicators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/rank_group.h"
#include "device/device.h"

namespace llmtrain {

class FlightRecorder;

class Communicator : public RankGroup {
 public:
  // Memory that collectives can read directly from other ranks (a shared window, ncclMemAlloc). Collective: every rank asks for the same size.
  // Whatever a collective reads must lie at the same offset of the same allocation on every rank.
  // Zeroed, aligned to 256 bytes, freed with the Communicator.
  virtual void* allocate_registered(size_t bytes, const std::string& what) = 0;
  // Bytes this Communicator took for itself and for registered memory.
  virtual size_t bytes_registered() const = 0;

  // full[r * bytes_per_rank …] = shard of rank r. `shard` must lie in registered memory and may not change until every rank's gather is done:
  // the caller orders that by fence() before it writes to shards again, and by fence() after it has written. full: any memory.
  // `label` names the unit in traces, dumps and errors.
  virtual void all_gather_shards(Stream& stream, const void* shard, void* full, size_t bytes_per_rank, const std::string& label) = 0;
  // shard[i] = (accumulate ? shard[i] : 0) + sum over ranks q, in the order of q, of full_q[rank * count_per_rank + i].  `full` must lie in
  // registered memory and may be overwritten once the operation is done on this stream (it returns after all ranks have read it); the operation itself
  // may use this rank's part of it as scratch. float32. (NCCL adds in an order of its own, the same in each step.)
  virtual void reduce_scatter(Stream& stream, const float* full, float* shard, size_t count_per_rank, bool accumulate, const std::string& label) = 0;
  // Everybody has finished everything issued on `stream` before anybody goes on.
  virtual void fence(Stream& stream) = 0;

  // Small host values, waited for. Sums are in the order of ranks, so every rank gets the same bits.
  virtual void all_reduce_sum(double* values, int n) = 0;
  virtual void all_reduce_max(double* values, int n) = 0;

  // Seconds spent inside collectives of this Communicator so far.
  virtual double busy_seconds() const = 0;

  // How the ranks reach each other, one line for the log, with the reason where shared memory was wanted and could not be had.
  virtual std::string describe() const { return ""; }
  // The last collectives (comm/flight_recorder.h), for dumps; may be read from any thread. None where the implementation keeps none.
  virtual const FlightRecorder* flight_recorder() const { return nullptr; }
  // This rank is about to end because of an error: tells the ranks that this can be told without waiting for them (those of the node). Any thread.
  virtual void announce_failure(const std::string& /*message*/) {}
  // What another rank announced; "" while none did. Any thread.
  virtual std::string heard_failure() const { return ""; }
  // What the network or the device reports by itself; "" while they do not. Any thread.
  virtual std::string own_failure() const { return ""; }
  // The process is about to end: takes work off the device that waits for ranks that will not come. May take long or not return, so it is called on a
  // thread of its own that nobody joins; nothing else of this Communicator may be used afterwards.
  virtual void abort() {}
};

}  // namespace llmtrain
