// cudart on the processor (cuda_runtime.h): the calls, over the queues of emulator/streams.h and the memory of emulator/memory.h.
//
// LLMTRAIN_EMULATED_DEVICES    how many GPUs there are (1)
// LLMTRAIN_EMULATED_FAULT      CALL:N:RANK: the N-th call of CALL on that rank, and every call from then on, ends with cudaErrorIllegalAddress, as on a GPU
//                              after a kernel has gone astray. CALL may be `kernel` or `copy`: the N-th that is carried out, when nobody waits for it.
#include <cuda_runtime.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulator/memory.h"
#include "emulator/streams.h"

using namespace llmtrain::emulator;

namespace {

class Fault {
 public:
  Fault() {
    const char* text = std::getenv("LLMTRAIN_EMULATED_FAULT");
    if (!text) return;
    const std::string all = text;
    const size_t first = all.find(':'), second = all.find(':', first + 1);
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    if (second == std::string::npos || all.substr(second + 1) != (rank ? rank : "0")) return;
    call_ = all.substr(0, first);
    remaining_ = std::atol(all.c_str() + first + 1);
  }
  // Whether it strikes now.
  bool strikes(const char* call) {
    if (call_.empty() || call_ != call) return false;
    const std::lock_guard lock(mutex_);
    return remaining_ > 0 && --remaining_ == 0;
  }

 private:
  std::mutex mutex_;
  std::string call_;
  long remaining_ = 0;
};
Fault& injected() {
  static Fault& f = *new Fault;
  return f;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int device_of_thread = 0;

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// What a call that does not fail by itself returns.
cudaError_t outcome(const char* call) {
  if (injected().strikes(call)) break_devices();
  return broken() ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

// As outcome(), for what a GPU carries out.
bool goes_astray(const char* what) {
  if (injected().strikes(what)) break_devices();
  return broken();
}

// A recorded event: when its stream came to it.
struct Recording {
  Position position;
  std::chrono::steady_clock::time_point at{};
};

}  // namespace

struct CUevent_st {
  int device = 0;
  bool timed = true;
  std::shared_ptr<Recording> last;
};

namespace {

struct Events {
  std::mutex mutex;
  std::set<cudaEvent_t> all;
};
Events& events() {
  static Events& e = *new Events;
  return e;
}

// What was recorded last, if anything; false where there is no such event.
bool look_up(cudaEvent_t event, std::shared_ptr<Recording>& last) {
  const std::lock_guard lock(events().mutex);
  if (!events().all.contains(event)) return false;
  last = event->last;
  return true;
}

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  std::shared_ptr<std::vector<char>> staged;  // of pageable memory
};

void carry_out(const Copy& c) {
  if (goes_astray("copy")) return;
  check_memory("a copy writes", c.to, c.bytes);
  check_memory("a copy reads", c.from, c.bytes);
  std::memmove(c.to, c.staged ? c.staged->data() : c.from, c.bytes);
}

bool fits(cudaMemcpyKind kind, Place to, Place from) {
  switch (kind) {
    case cudaMemcpyHostToHost: return to != Place::device && from != Place::device;
    case cudaMemcpyHostToDevice: return to == Place::device && from != Place::device;
    case cudaMemcpyDeviceToHost: return to != Place::device && from == Place::device;
    case cudaMemcpyDeviceToDevice: return to == Place::device && from == Place::device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

// "API synchronization behavior" of the runtime's manual: pageable memory is read before the call returns, and written before it returns; pinned memory is
// read and written when the stream comes to it. `waits`: cudaMemcpy, which waits for all but copies within the device.
cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const std::shared_ptr<CUstream_st>& queue, bool waits) {
  if (!queue) return remember(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  const Place target = place_of(to), source = place_of(from);
  if (!fits(kind, target, source)) return remember(cudaErrorInvalidValue);
  Copy c{to, from, bytes, nullptr};
  if (source == Place::pageable) c.staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  std::vector<const void*> used;
  if (target == Place::pinned) used.push_back(to);
  if (source == Place::pinned) used.push_back(from);
  for (const void* p : used) expect_use(p);
  const Position done = enqueue(queue, [c, used] {
    carry_out(c);
    for (const void* p : used) end_use(p);
  });
  const bool within_device = target == Place::device && source == Place::device;
  if (target == Place::pageable || (waits && !within_device)) wait_until(done);
  return broken() ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t fill(void* to, int value, size_t bytes, const std::shared_ptr<CUstream_st>& queue) {
  if (!queue) return remember(cudaErrorInvalidResourceHandle);
  if (place_of(to) == Place::pageable) return remember(cudaErrorInvalidValue);
  enqueue(queue, [=] {
    if (goes_astray("copy")) return;
    check_memory("a fill writes", to, bytes);
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}

cudaError_t make_event(cudaEvent_t* event, bool timed) {
  if (const cudaError_t error = outcome("cudaEventCreate"); error != cudaSuccess) return error;
  *event = new CUevent_st{current_device(), timed, nullptr};
  const std::lock_guard lock(events().mutex);
  events().all.insert(*event);
  return cudaSuccess;
}

}  // namespace

int llmtrain::emulator::current_device() { return device_of_thread; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorIllegalAddress) return "an illegal memory access was encountered";
  return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- devices

cudaError_t cudaGetDeviceCount(int* count) {
  const char* text = std::getenv("LLMTRAIN_EMULATED_DEVICES");
  *count = text ? std::atoi(text) : 1;
  return *count > 0 ? cudaSuccess : remember(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) { *device = current_device(); return cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  if (device < 0 || device >= count) return remember(cudaErrorInvalidDevice);
  device_of_thread = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated GPU");
  for (int i = 0; i < 16; ++i) p->uuid.bytes[i] = static_cast<char>(device + 1);
  p->totalGlobalMem = total_memory();
  p->sharedMemPerBlockOptin = 227 * 1024;
  p->major = 9;
  p->multiProcessorCount = 2;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMultiProcessorCount: *value = 2; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 * 1024; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t error = outcome("cudaDeviceSynchronize"); error != cudaSuccess) return error;
  wait_for_device(current_device());
  return outcome("");
}
cudaError_t cudaDeviceReset() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = 13000; return cudaSuccess; }

// ---- memory

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t error = outcome("cudaMalloc"); error != cudaSuccess) return error;
  *pointer = take_memory(Place::device, current_device(), bytes);
  return *pointer ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}
// Waits for the device, as the real one does.
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const int device = device_of_memory(pointer);
  if (device >= 0) wait_for_device(device);
  if (!give_memory_back(Place::device, pointer)) return remember(cudaErrorInvalidValue);
  return outcome("cudaFree");
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  if (const cudaError_t error = outcome("cudaMallocHost"); error != cudaSuccess) return error;
  *pointer = take_memory(Place::pinned, -1, bytes);
  return *pointer ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return cudaMallocHost(pointer, bytes); }
// Nothing says that it waits for anything, so it does not.
cudaError_t cudaFreeHost(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (!give_memory_back(Place::pinned, pointer)) return remember(cudaErrorInvalidValue);
  return outcome("cudaFreeHost");
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = total_memory();
  *free = *total - std::min(memory_used(current_device()), *total);
  return outcome("cudaMemGetInfo");
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t error = outcome("cudaMemcpyAsync"); error != cudaSuccess) return error;
  return copy(to, from, bytes, kind, find_queue(stream), false);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = outcome("cudaMemcpy"); error != cudaSuccess) return error;
  return copy(to, from, bytes, kind, find_queue(nullptr), true);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = outcome("cudaMemsetAsync"); error != cudaSuccess) return error;
  return fill(to, value, bytes, find_queue(stream));
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (const cudaError_t error = outcome("cudaMemset"); error != cudaSuccess) return error;
  return fill(to, value, bytes, find_queue(nullptr));
}

// ---- streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (const cudaError_t error = outcome("cudaStreamCreateWithFlags"); error != cudaSuccess) return error;
  *stream = make_queue(current_device(), flags != cudaStreamNonBlocking).get();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) { return cudaStreamCreateWithFlags(stream, flags); }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!find_queue(stream)) return remember(cudaErrorInvalidResourceHandle);
  destroy_queue(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = outcome("cudaStreamSynchronize"); error != cudaSuccess) return error;
  const auto queue = find_queue(stream);
  if (!queue) return remember(cudaErrorInvalidResourceHandle);
  wait_until(end_of(queue));
  return outcome("");
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const auto queue = find_queue(stream);
  if (!queue) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = outcome("cudaStreamQuery"); error != cudaSuccess) return error;
  return reached(end_of(queue)) ? outcome("") : remember(cudaErrorNotReady);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const auto queue = find_queue(stream);
  std::shared_ptr<Recording> last;
  if (!queue || !look_up(event, last)) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = outcome("cudaStreamWaitEvent"); error != cudaSuccess) return error;
  if (last) enqueue_wait(queue, last->position);
  return cudaSuccess;
}

// ---- events

cudaError_t cudaEventCreate(cudaEvent_t* event) { return make_event(event, true); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) { return make_event(event, (flags & cudaEventDisableTiming) == 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(events().mutex);
  if (events().all.erase(event) == 0) return remember(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const auto queue = find_queue(stream);
  std::shared_ptr<Recording> last;
  if (!queue || !look_up(event, last) || event->device != device_of(*queue)) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = outcome("cudaEventRecord"); error != cudaSuccess) return error;
  last = std::make_shared<Recording>();
  if (event->timed) {
    last->position = enqueue(queue, [recording = last.get(), keep = last] { recording->at = std::chrono::steady_clock::now(); });
  } else {
    last->position = end_of(queue);
  }
  const std::lock_guard lock(events().mutex);
  event->last = std::move(last);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::shared_ptr<Recording> last;
  if (!look_up(event, last)) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = outcome("cudaEventSynchronize"); error != cudaSuccess) return error;
  if (last) wait_until(last->position);
  return outcome("");
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::shared_ptr<Recording> last;
  if (!look_up(event, last)) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = outcome("cudaEventQuery"); error != cudaSuccess) return error;
  return !last || reached(last->position) ? cudaSuccess : remember(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  std::shared_ptr<Recording> first, second;
  if (!look_up(begin, first) || !look_up(end, second) || !begin->timed || !end->timed || !first || !second)
    return remember(cudaErrorInvalidResourceHandle);
  if (!reached(first->position) || !reached(second->position)) return remember(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(second->at - first->at).count();
  return cudaSuccess;
}

// ---- kernels

cudaError_t llmtrain::emulator::launch(Index grid, Index block, size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel) {
  if (const cudaError_t error = outcome("cudaLaunchKernelEx"); error != cudaSuccess) return error;
  if (!is_shape_of_a_gpu(grid, block, shared_bytes)) return remember(cudaErrorInvalidValue);
  const auto queue = find_queue(stream);
  if (!queue || device_of(*queue) != current_device()) return remember(cudaErrorInvalidResourceHandle);
  const Position done = enqueue(queue, [=, kernel = std::move(kernel)] {
    if (!goes_astray("kernel")) run_grid(grid, block, shared_bytes, kernel);
  });
  if (launches_block()) wait_until(done);
  return cudaSuccess;
}
