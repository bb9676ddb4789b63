// MPI with errors as OperationError, communicators that free themselves, and waiting that leaves the core to others.
// Thread rules: as MPI under MPI_THREAD_MULTIPLE; one thread a communicator at a time.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace llmtrain {

// OperationError "MPI_Allgather: <MPI's text> (rank r on host)" unless code is MPI_SUCCESS.
void check_mpi(int code, const char* call);

// A duplicate (or part) of a communicator, errors returned instead of fatal. Freed unless MPI is finalised already or abandon() was called.
class MpiGroup {
 public:
  MpiGroup() = default;
  static MpiGroup duplicate(MPI_Comm from);
  MpiGroup(MpiGroup&& other) noexcept;
  MpiGroup& operator=(MpiGroup&& other) noexcept;
  ~MpiGroup();
  MPI_Comm get() const { return comm_; }
  void abandon() { comm_ = MPI_COMM_NULL; }  // after a failure: freeing might wait for ranks that never come

 private:
  explicit MpiGroup(MPI_Comm comm) : comm_(comm) {}
  MPI_Comm comm_ = MPI_COMM_NULL;
};

// Gathers and broadcasts of any size (MPI's counts are int: messages of at most 1 GiB).
void all_gather_any_size(MPI_Comm comm, int ranks, const void* mine, void* all, size_t bytes_each);
void broadcast_any_size(MPI_Comm comm, void* data, size_t bytes, int root);

// Waits until all requests are done. Tests for a few microseconds, then sleeps in between, so that a communication thread does not take the compute
// thread's core. `between` is called now and then and may throw.
// Where `between` throws, what is still open is cancelled.
void wait_for(std::vector<MPI_Request>& requests, const std::function<void()>& between);
// The same, calling arrived(i) for each request as it completes; where that throws, the rest is not waited for.
void wait_for_each(std::vector<MPI_Request>& requests, const std::function<void(size_t)>& arrived, const std::function<void()>& between);

}  // namespace llmtrain
