// The calls of NCCL that src/comm/nccl makes, between processes of one machine, on the emulated GPUs. What the real library demands is checked, and what it
// punishes ends the program with a message: a call of a communicator that has been ended, two threads in one communicator, a call while the last one is still
// in progress, memory that is not the GPU's.
//
// LLMTRAIN_EMULATED_NCCL=serial, LLMTRAIN_EMULATED_NCCL_FAULT: communicator.cpp, fault.h.
// Source of names and meanings: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/.
#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "emulator/memory.h"
#include "nccl/communicator.h"
#include "nccl/fault.h"

using namespace llmtrain::emulator;

namespace llmtrain::emulator {

bool nccl_fault_strikes(const char* what) {
  struct Fault {
    std::mutex mutex;
    std::string what;
    long remaining = 0;
    Fault() {
      const char *text = std::getenv("LLMTRAIN_EMULATED_NCCL_FAULT"), *rank = std::getenv("OMPI_COMM_WORLD_RANK");
      if (!text) return;
      const std::string all = text;
      const size_t first = all.find(':'), second = all.find(':', first + 1);
      if (second == std::string::npos || all.substr(second + 1) != (rank ? rank : "0")) return;
      what = all.substr(0, first);
      remaining = std::atol(all.c_str() + first + 1);
    }
  };
  static Fault& fault = *new Fault;
  if (fault.what != what) return false;
  const std::lock_guard lock(fault.mutex);
  return fault.remaining > 0 && --fault.remaining == 0;
}

}  // namespace llmtrain::emulator

namespace {

// Never destroyed: threads use it until the process ends.
struct Communicators {
  std::mutex mutex;
  std::map<ncclComm_t, std::shared_ptr<Communicator>> all;
  std::string last_error;
};
Communicators& communicators() {
  static Communicators& c = *new Communicators;
  return c;
}

std::shared_ptr<Communicator> find(ncclComm_t handle, const char* call) {
  const std::lock_guard lock(communicators().mutex);
  const auto found = communicators().all.find(handle);
  if (found == communicators().all.end()) fault("%s: this communicator does not exist, or has been ended", call);
  return found->second;
}

std::shared_ptr<Communicator> take(ncclComm_t handle, const char* call) {
  std::shared_ptr<Communicator> taken = find(handle, call);
  const std::lock_guard lock(communicators().mutex);
  communicators().all.erase(handle);
  return taken;
}

ncclResult_t fails(ncclResult_t result, const std::string& why) {
  const std::lock_guard lock(communicators().mutex);
  communicators().last_error = why;
  return result;
}

// Only one thread may be in a communicator.
class Inside {
 public:
  Inside(Communicator& c, const char* call) : communicator_(c) {
    if (++c.inside > 1) fault("%s: another thread is in communicator '%s'", call, c.name().c_str());
  }
  ~Inside() { --communicator_.inside; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Communicator& communicator_;
};

bool several_on_device(int device) {
  const std::lock_guard lock(communicators().mutex);
  int count = 0;
  for (const auto& [handle, c] : communicators().all) count += c->device() == device ? 1 : 0;
  return count > 1;
}

ncclResult_t collective(ncclComm_t handle, cudaStream_t stream, const Collective& c, size_t send_bytes, size_t receive_bytes) {
  const std::shared_ptr<Communicator> communicator = find(handle, c.call);
  const Inside inside(*communicator, c.call);
  if (nccl_fault_strikes(c.call)) return fails(ncclSystemError, "injected");
  if (communicator->state() == ncclInProgress)
    return fails(ncclInvalidArgument, std::string(c.call) + ": the communicator's last call is still in progress");
  if (communicator->state() != ncclSuccess) return communicator->state();
  if (size_of(c.type) == 0 || c.operation != ncclSum)
    return fails(ncclInvalidArgument, std::string(c.call) + ": the emulator lacks this type or operation");
  const char* order = std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT");
  if (several_on_device(communicator->device()) && (!order || std::string(order) != "1"))
    return fails(ncclInvalidUsage, "two communicators of one GPU without an order of their launches (NCCL_LAUNCH_ORDER_IMPLICIT)");
  if (c.count == 0) return ncclSuccess;
  const auto queue = find_queue(stream);
  if (!queue || device_of(*queue) != communicator->device()) return fails(ncclInvalidUsage, std::string(c.call) + ": the stream is none of this GPU");
  const struct {
    const void* memory;
    size_t bytes;
  } buffers[] = {{c.from, send_bytes}, {c.to, receive_bytes}};
  for (const auto& [memory, bytes] : buffers) {
    if (device_of_memory(memory) != communicator->device()) return fails(ncclInvalidArgument, std::string(c.call) + ": a buffer is not in this GPU's memory");
    check_memory(c.call, memory, bytes);
  }
  // Send and receive buffer may overlap only where the one is the rank's own part of the other.
  const size_t shift = static_cast<size_t>(communicator->rank()) * std::min(send_bytes, receive_bytes);
  const bool in_place = send_bytes == receive_bytes ? c.to == c.from : send_bytes < receive_bytes ? c.from == c.to + shift : c.to == c.from + shift;
  if (!in_place && c.from < c.to + receive_bytes && c.to < c.from + send_bytes)
    return fails(ncclInvalidArgument, std::string(c.call) + ": the buffers overlap");
  communicator->launch(c, queue);
  return ncclInProgress;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (nccl_fault_strikes("ncclGetUniqueId")) return fails(ncclSystemError, "injected");
  return World::make_id(*id) ? ncclSuccess : fails(ncclSystemError, "no memory to share");
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* handle, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (nccl_fault_strikes("ncclCommInitRankConfig")) return fails(ncclSystemError, "injected");
  const ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER;
  if (config == nullptr || config->magic != fresh.magic || config->size != fresh.size)
    return fails(ncclInvalidArgument, "a configuration that was not initialised");
  if (config->blocking != 0) return fails(ncclInvalidArgument, "the emulator has non-blocking communicators only");
  if (rank < 0 || rank >= ranks || ranks > kMostRanks) return fails(ncclInvalidArgument, "rank or number of ranks");
  auto communicator = std::make_shared<Communicator>(config->commName ? config->commName : "", rank, ranks, current_device());
  *handle = reinterpret_cast<ncclComm_t>(communicator.get());
  communicator->begin(id);
  const std::lock_guard lock(communicators().mutex);
  communicators().all[*handle] = std::move(communicator);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  const std::shared_ptr<Communicator> communicator = find(handle, "ncclCommGetAsyncError");
  const Inside inside(*communicator, "ncclCommGetAsyncError");
  *error = communicator->state();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  const std::shared_ptr<Communicator> communicator = find(handle, "ncclCommFinalize");
  const Inside inside(*communicator, "ncclCommFinalize");
  if (nccl_fault_strikes("ncclCommFinalize")) return fails(ncclSystemError, "injected");
  if (communicator->state() != ncclSuccess) return fails(ncclInvalidArgument, "ncclCommFinalize: the communicator is still in progress, or has failed");
  communicator->finalize();
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  take(handle, "ncclCommDestroy")->end();
  return ncclSuccess;
}

// May come while another thread is in a call of this communicator: that is what ends it.
ncclResult_t ncclCommAbort(ncclComm_t handle) {
  take(handle, "ncclCommAbort")->abort();
  return ncclSuccess;
}

ncclResult_t ncclMemAlloc(void** pointer, size_t bytes) {
  if (nccl_fault_strikes("ncclMemAlloc")) return fails(ncclUnhandledCudaError, "injected");
  *pointer = take_memory(Place::device, current_device(), bytes);
  return *pointer ? ncclSuccess : fails(ncclUnhandledCudaError, "out of memory");
}

// Takes the memory out of the address space at once, whoever uses it.
ncclResult_t ncclMemFree(void* pointer) {
  return pointer == nullptr || give_memory_back(Place::device, pointer) ? ncclSuccess : fails(ncclInvalidArgument, "ncclMemFree: no memory of ncclMemAlloc");
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError: return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}

// As with the real one, the text lives until the next error.
const char* ncclGetLastError(ncclComm_t handle) {
  std::string text = handle ? find(handle, "ncclGetLastError")->error() : "";
  const std::lock_guard lock(communicators().mutex);
  if (!text.empty()) communicators().last_error = text;
  return communicators().last_error.c_str();
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  return collective(comm, stream, {"ncclAllGather", count, type, ncclSum, static_cast<const char*>(from), static_cast<char*>(to)}, bytes,
                    bytes * static_cast<size_t>(find(comm, "ncclAllGather")->ranks()));
}

ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  return collective(comm, stream, {"ncclReduceScatter", count, type, operation, static_cast<const char*>(from), static_cast<char*>(to)},
                    bytes * static_cast<size_t>(find(comm, "ncclReduceScatter")->ranks()), bytes);
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  return collective(comm, stream, {"ncclAllReduce", count, type, operation, static_cast<const char*>(from), static_cast<char*>(to)}, bytes, bytes);
}
