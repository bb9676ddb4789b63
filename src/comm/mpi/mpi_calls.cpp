// MPI calls with errors and patience (mpi_calls.h).
#include "comm/mpi/mpi_calls.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr size_t kLargestMessage = size_t{1} << 30;

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0, rank = -1;
  MPI_Error_string(code, text.data(), &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  throw OperationError(std::string(call) + ": " + std::string(text.data(), static_cast<size_t>(length)) + " (rank " + std::to_string(rank) + " on " +
                       host.data() + ")");
}

MpiGroup MpiGroup::duplicate(MPI_Comm from) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(from, &comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  return MpiGroup(comm);
}

MpiGroup::MpiGroup(MpiGroup&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}

MpiGroup& MpiGroup::operator=(MpiGroup&& other) noexcept {
  std::swap(comm_, other.comm_);
  return *this;
}

MpiGroup::~MpiGroup() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (!finalized && comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

void all_gather_any_size(MPI_Comm comm, int ranks, const void* mine, void* all, size_t bytes_each) {
  if (bytes_each * static_cast<size_t>(ranks) <= kLargestMessage) {
    const int n = static_cast<int>(bytes_each);
    check_mpi(MPI_Allgather(mine, n, MPI_BYTE, all, n, MPI_BYTE, comm), "MPI_Allgather");
    return;
  }
  int me = 0;
  MPI_Comm_rank(comm, &me);
  char* to = static_cast<char*>(all);
  std::copy_n(static_cast<const char*>(mine), bytes_each, to + static_cast<size_t>(me) * bytes_each);
  for (int r = 0; r < ranks; ++r) broadcast_any_size(comm, to + static_cast<size_t>(r) * bytes_each, bytes_each, r);
}

void broadcast_any_size(MPI_Comm comm, void* data, size_t bytes, int root) {
  for (size_t at = 0; at < bytes; at += kLargestMessage) {
    const int n = static_cast<int>(std::min(kLargestMessage, bytes - at));
    check_mpi(MPI_Bcast(static_cast<char*>(data) + at, n, MPI_BYTE, root, comm), "MPI_Bcast");
  }
}

namespace {

// Nobody will take these messages: MPI must not write into memory that is about to go.
void cancel(std::vector<MPI_Request>& requests) {
  for (MPI_Request& request : requests) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
  }
  requests.clear();
}

// Calls test() until it says that all is done: often at first, then with naps in between.
template <class Test>
void patiently(std::vector<MPI_Request>& requests, const std::function<void()>& between, Test test) {
  constexpr int kHotTests = 200;
  constexpr timespec kNap{0, 20'000};
  try {
    for (int tests = 0; !test(); ++tests) {
      if (tests < kHotTests) continue;
      if (tests % 64 == 0) between();
      nanosleep(&kNap, nullptr);
    }
  } catch (...) {
    cancel(requests);
    throw;
  }
  requests.clear();
}

}  // namespace

void wait_for(std::vector<MPI_Request>& requests, const std::function<void()>& between) {
  patiently(requests, between, [&] {
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
    return done != 0;
  });
}

void wait_for_each(std::vector<MPI_Request>& requests, const std::function<void(size_t)>& arrived, const std::function<void()>& between) {
  std::vector<int> which(requests.size());
  size_t open = requests.size();
  patiently(requests, between, [&] {
    int n = 0;
    check_mpi(MPI_Testsome(static_cast<int>(requests.size()), requests.data(), &n, which.data(), MPI_STATUSES_IGNORE), "MPI_Testsome");
    for (int i = 0; i < n; ++i) arrived(static_cast<size_t>(which[static_cast<size_t>(i)]));
    open -= n > 0 ? static_cast<size_t>(n) : 0;  // MPI_UNDEFINED is negative
    return open == 0;
  });
}

}  // namespace llmtrain
