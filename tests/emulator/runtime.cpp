// cudart on the processor (cuda_runtime.h): one device, memory with guard pages' worth of pattern, streams that do everything at once.
#include <cuda_runtime.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace {

// How much memory the device has: LLMTRAIN_EMULATED_MEMORY bytes, for tests of what happens when it is scarce.
size_t total_memory() {
  const char* text = std::getenv("LLMTRAIN_EMULATED_MEMORY");
  return text ? std::strtoull(text, nullptr, 10) : size_t{8} << 30;
}

// LLMTRAIN_EMULATED_FAULT=CALL:N:RANK: the N-th call of CALL on that rank, and every call that is checked from then on, ends with
// cudaErrorIllegalAddress, as on a GPU after a kernel has gone astray.
struct Fault {
  std::string call;
  long remaining = 0;
  Fault() {
    const char* text = std::getenv("LLMTRAIN_EMULATED_FAULT");
    if (!text) return;
    const std::string all = text;
    const size_t first = all.find(':'), second = all.find(':', first + 1);
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    if (second == std::string::npos || all.substr(second + 1) != (rank ? rank : "0")) return;
    call = all.substr(0, first);
    remaining = std::atol(all.c_str() + first + 1);
  }
};

struct Memory {
  std::mutex mutex;
  std::map<void*, size_t> blocks;
  size_t used = 0;
};
Memory& memory() {
  static Memory m;
  return m;
}
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// What a call that does not fail by itself returns.
cudaError_t outcome(const char* call) {
  static Fault fault;
  static std::mutex mutex;
  static bool broken = false;
  const std::lock_guard lock(mutex);
  if (!broken && !fault.call.empty() && fault.call == call) broken = --fault.remaining == 0;
  return broken ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

}  // namespace

struct CUstream_st {
  int unused = 0;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point at{};
};

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
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
cudaError_t cudaGetDeviceCount(int* count) {
  const char* text = std::getenv("LLMTRAIN_EMULATED_DEVICES");
  *count = text ? std::atoi(text) : 1;
  return *count > 0 ? cudaSuccess : remember(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  return device >= 0 && device < count ? cudaSuccess : remember(cudaErrorInvalidDevice);
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
cudaError_t cudaDeviceSynchronize() { return outcome("cudaDeviceSynchronize"); }
cudaError_t cudaDeviceReset() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = 13000; return cudaSuccess; }

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t error = outcome("cudaMalloc"); error != cudaSuccess) return error;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  *pointer = nullptr;
  if (bytes > total_memory() - std::min(m.used, total_memory())) return remember(cudaErrorMemoryAllocation);
  void* p = std::aligned_alloc(512, (bytes + 511) / 512 * 512 + 512);
  if (p == nullptr) return remember(cudaErrorMemoryAllocation);
  std::memset(p, 0xff, bytes);
  m.blocks[p] = bytes;
  m.used += bytes;
  *pointer = p;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto block = m.blocks.find(pointer);
  if (block == m.blocks.end()) return remember(cudaErrorInvalidValue);
  m.used -= block->second;
  m.blocks.erase(block);
  std::free(pointer);
  return outcome("cudaFree");
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  if (const cudaError_t error = outcome("cudaMallocHost"); error != cudaSuccess) return error;
  *pointer = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096 + 4096);
  return *pointer ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return cudaMallocHost(pointer, bytes); }
cudaError_t cudaFreeHost(void* pointer) { std::free(pointer); return outcome("cudaFreeHost"); }
cudaError_t llmtrain_emulated_launch() { return outcome("cudaLaunchKernelEx"); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  *total = total_memory();
  *free = *total - std::min(m.used, *total);
  return outcome("cudaMemGetInfo");
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) { std::memmove(to, from, bytes); return outcome("cudaMemcpyAsync"); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { std::memmove(to, from, bytes); return outcome("cudaMemcpy"); }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { std::memset(to, value, bytes); return outcome("cudaMemsetAsync"); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { *stream = new CUstream_st; return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { *stream = new CUstream_st; return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { delete stream; return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return outcome("cudaStreamSynchronize"); }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return outcome("cudaStreamWaitEvent"); }
cudaError_t cudaEventCreate(cudaEvent_t* event) { *event = new CUevent_st; return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { delete event; return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) { event->at = std::chrono::steady_clock::now(); return outcome("cudaEventRecord"); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return outcome("cudaEventSynchronize"); }
cudaError_t cudaEventQuery(cudaEvent_t) { return outcome("cudaEventQuery"); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}
