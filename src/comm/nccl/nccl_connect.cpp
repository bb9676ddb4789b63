// NCCL communicators with deadlines (nccl_connect.h).
#include "comm/nccl/nccl_connect.h"

#include <cuda_runtime.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "comm/nccl/nccl_communicator.h"
#include "core/error.h"
#include "device/cuda/check.h"

namespace llmtrain::cuda {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The state of the last call; waits while it is ncclInProgress, not longer than `seconds`, and not when `given_up` (may be null) is set.
ncclResult_t final_state(ncclComm_t communicator, double seconds, const std::atomic<bool>* given_up) {
  const Clock::time_point begin = Clock::now();
  for (int tried = 0;; ++tried) {
    if (given_up && *given_up) return ncclSuccess;
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator, &state);
    if (asked != ncclSuccess) return asked;
    if (state != ncclInProgress || seconds_since(begin) > seconds) return state;
    if (tried < 1000) {
      ::sched_yield();  // a launch takes tens of microseconds
    } else {
      ::usleep(200);
    }
  }
}

std::string too_late(const char* call, double seconds) {
  return std::string(call) + " has not ended in " + std::to_string(static_cast<long>(seconds)) +
         " s: another rank is stopped or dead, or the network between the GPUs does not work (NCCL_DEBUG=INFO shows what NCCL tries; "
         "NCCL_SOCKET_IFNAME names the interface to use)";
}

// Only the first use in a process matters; threads of NCCL do not exist before it.
void set_defaults() {
  ::setenv("NCCL_DEBUG", "WARN", 0);
  ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
}

}  // namespace

void check_nccl(ncclResult_t result, const char* call, ncclComm_t communicator) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* detail = ncclGetLastError(communicator);
  throw OperationError(std::string(call) + ": " + ncclGetErrorString(result) + (detail && *detail ? std::string(": ") + detail : ""));
}

void wait_until_ready(ncclComm_t communicator, const char* call, double seconds, const std::atomic<bool>& given_up) {
  const ncclResult_t state = final_state(communicator, seconds, &given_up);
  if (given_up) return;
  if (state == ncclInProgress) throw OperationError(too_late(call, seconds));
  check_nccl(state, call, communicator);
}

bool is_ready(ncclComm_t communicator, const char* call) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(communicator, &state);
  check_nccl(asked == ncclSuccess ? state : asked, call, communicator);
  return state != ncclInProgress;
}

void look_until_on_all(RankGroup& group, const std::function<bool()>& look, double seconds, const std::string& too_late) {
  enum : int32_t { happened, waits, late, failed };  // the largest decides
  constexpr double kRoundSeconds = 0.05;              // after which the ranks tell each other
  const Clock::time_point begin = Clock::now();
  std::exception_ptr failure;
  const auto look_for_a_while = [&]() -> int32_t {
    const Clock::time_point round = Clock::now();
    for (int tried = 0;; ++tried) {
      try {
        if (look()) return happened;
      } catch (const std::exception&) {
        failure = std::current_exception();
        return failed;
      }
      if (seconds_since(begin) > seconds) return late;
      if (seconds_since(round) > kRoundSeconds) return waits;
      if (tried < 1000) {
        ::sched_yield();
      } else {
        ::usleep(200);
      }
    }
  };
  std::vector<int32_t> all(static_cast<size_t>(group.size()));
  int32_t mine = waits, worst = waits;
  while (worst == waits) {
    if (mine == waits) mine = look_for_a_while();
    group.all_gather(&mine, all.data(), sizeof mine);
    worst = *std::max_element(all.begin(), all.end());
  }
  if (worst == happened) return;
  run_on_all_or_fail(group, [&] {
    if (mine != worst) return;
    if (failure) std::rethrow_exception(failure);
    throw OperationError(too_late);
  });
}

ncclComm_t connect_nccl(RankGroup& group, int device, const std::string& name, const NcclOptions& options) {
  set_defaults();
  ncclUniqueId id{};
  run_on_all_or_fail(group, [&] {
    CUDA_CHECK(cudaSetDevice(device));
    if (group.rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId", nullptr);
  });
  group.broadcast(&id, sizeof id, 0);
  ncclComm_t communicator = nullptr;
  try {
    constexpr const char* kCall = "ncclCommInitRankConfig";
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.commName = name.c_str();
    bool begun = false;
    const auto connected = [&] {
      if (!std::exchange(begun, true)) check_nccl(ncclCommInitRankConfig(&communicator, group.size(), id, group.rank(), &config), kCall, communicator);
      return is_ready(communicator, kCall);
    };
    look_until_on_all(group, connected, options.timeout_seconds, too_late(kCall, options.timeout_seconds));
  } catch (...) {
    if (communicator) disconnect_nccl(communicator, device, false, 5);
    throw;
  }
  return communicator;
}

bool disconnect_nccl(ncclComm_t communicator, int device, bool healthy, double seconds) {
  std::promise<void> ended;
  std::future<void> end = ended.get_future();
  // Any of these calls may hang when another rank has died; then the thread is left behind.
  std::thread([communicator, device, healthy, seconds, ended = std::move(ended)]() mutable {
    cudaSetDevice(device);
    bool clean = false;
    if (healthy) {
      const ncclResult_t begun = ncclCommFinalize(communicator);
      clean = (begun == ncclSuccess || begun == ncclInProgress) && final_state(communicator, seconds / 2, nullptr) == ncclSuccess;
    }
    static_cast<void>(clean ? ncclCommDestroy(communicator) : ncclCommAbort(communicator));
    ended.set_value();
  }).detach();
  return end.wait_for(std::chrono::duration<double>(seconds)) == std::future_status::ready;
}

std::string nccl_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "NCCL of unknown version";
  return "NCCL " + std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." + std::to_string(version % 100);
}

}  // namespace llmtrain::cuda
