// The GPU as a Device: cudaMalloc, pinned host memory, streams, copies. Small copies from pageable host memory go through a ring of pinned slots, as
// CUDA would wait for the whole stream before them.
#include "device/cuda/cuda_device.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "device/cuda/check.h"
#include "device/cuda/cuda_stream.h"

namespace llmtrain::cuda {
namespace {

// Pinned slots that are used in turns; a slot is free again when the copy out of it was done.
class StagingRing {
 public:
  static constexpr size_t kSlotBytes = size_t{1} << 20;
  static constexpr int kSlots = 8;

  ~StagingRing() {
    for (Slot& slot : slots_) {
      if (slot.event) cudaEventSynchronize(slot.event);  // a copy may still read the slot
      if (slot.event) cudaEventDestroy(slot.event);
      if (slot.memory) cudaFreeHost(slot.memory);
    }
  }
  void copy(cudaStream_t stream, void* to, const void* host, size_t bytes) {
    const std::lock_guard lock(mutex_);
    Slot& slot = slots_[static_cast<size_t>(next_++ % kSlots)];
    if (!slot.memory) {
      CUDA_CHECK(cudaMallocHost(&slot.memory, kSlotBytes));
      CUDA_CHECK(cudaEventCreateWithFlags(&slot.event, cudaEventDisableTiming));
    } else {
      CUDA_CHECK(cudaEventSynchronize(slot.event));
    }
    std::memcpy(slot.memory, host, bytes);
    CUDA_CHECK(cudaMemcpyAsync(to, slot.memory, bytes, cudaMemcpyHostToDevice, stream));
    CUDA_CHECK(cudaEventRecord(slot.event, stream));
  }

 private:
  struct Slot {
    void* memory = nullptr;
    cudaEvent_t event = nullptr;
  };
  std::mutex mutex_;
  Slot slots_[kSlots];
  unsigned next_ = 0;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index), info_(device_info(index)) { CUDA_CHECK(cudaSetDevice(index)); }

  DeviceKind kind() const override { return DeviceKind::cuda; }
  int index() const { return index_; }

  std::string describe() const override {
    char text[160];
    std::snprintf(text, sizeof text, "GPU %d, %s (sm_%d%d), %zu MiB of %zu free", index_, info_.name.c_str(), info_.major, info_.minor,
                  bytes_available() >> 20, info_.memory_bytes >> 20);
    return text;
  }

  void* allocate(size_t bytes) override {
    CUDA_CHECK(cudaSetDevice(index_));
    void* p = nullptr;
    const cudaError_t error = cudaMalloc(&p, bytes == 0 ? 1 : bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OperationError("allocating " + std::to_string(bytes >> 20) + " MiB on GPU " + std::to_string(index_) + " (" +
                           std::to_string(bytes_available() >> 20) + " MiB are free): " + cudaGetErrorString(error));
    }
    check(error, "cudaMalloc", __FILE__, __LINE__);
    return p;
  }
  // Freeing is what destructors do, also on the way out after an error of the GPU, which every later call repeats: it was told by the call that
  // found it.
  void free(void* pointer) override {
    if (cudaFree(pointer) != cudaSuccess) cudaGetLastError();
  }

  void* allocate_host(size_t bytes) override {
    CUDA_CHECK(cudaSetDevice(index_));
    void* p = nullptr;
    const cudaError_t error = cudaHostAlloc(&p, bytes == 0 ? 1 : bytes, cudaHostAllocPortable);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OperationError("pinning " + std::to_string(bytes >> 20) + " MiB of host memory: " + cudaGetErrorString(error));
    }
    check(error, "cudaHostAlloc", __FILE__, __LINE__);
    return p;
  }
  void free_host(void* pointer) override {
    if (pointer && cudaFreeHost(pointer) != cudaSuccess) cudaGetLastError();
  }

  size_t bytes_available() const override {
    CUDA_CHECK(cudaSetDevice(index_));
    size_t free = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return free;
  }

  std::unique_ptr<Stream> make_stream(const std::string& name, bool asynchronous) override {
    return std::make_unique<CudaStream>(name, index_, asynchronous);
  }
  std::unique_ptr<Event> make_event() override {
    CUDA_CHECK(cudaSetDevice(index_));
    return std::make_unique<CudaEvent>();
  }
  std::unique_ptr<TimePoint> make_time_point() override {
    CUDA_CHECK(cudaSetDevice(index_));
    return std::make_unique<CudaTimePoint>();
  }

  void zero(Stream& stream, void* to, size_t bytes) override {
    if (bytes > 0) CUDA_CHECK(cudaMemsetAsync(to, 0, bytes, handle_of(stream)));
  }
  void copy(Stream& stream, void* to, const void* from, size_t bytes) override {
    if (bytes > 0 && to != from) CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle_of(stream)));  // pinned memory too
  }
  void copy_to_host(Stream& stream, void* host, const void* from, size_t bytes) override {
    if (bytes > 0) CUDA_CHECK(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, handle_of(stream)));
  }
  void copy_to_device(Stream& stream, void* to, const void* host, size_t bytes) override {
    if (bytes == 0) return;
    if (bytes <= StagingRing::kSlotBytes) return staging_.copy(handle_of(stream), to, host, bytes);
    CUDA_CHECK(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, handle_of(stream)));
  }

 private:
  int index_;
  CudaDeviceInfo info_;
  StagingRing staging_;
};

}  // namespace

int device_count(std::string& why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    why = driver == 0 ? "no NVIDIA driver is loaded on this machine"
                      : "the NVIDIA driver supports CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) +
                            " only; this build needs a driver for CUDA 13 (R580 or newer)";
  } else if (error == cudaErrorNoDevice || error == cudaSuccess) {
    why = "the driver shows no GPU to this process (is CUDA_VISIBLE_DEVICES empty, or was no GPU asked for in the job?)";
  } else {
    why = std::string("cudaGetDeviceCount: ") + cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
  }
  return 0;
}

CudaDeviceInfo device_info(int device) {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  CudaDeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.memory_bytes = properties.totalGlobalMem;
  for (const char byte : properties.uuid.bytes) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(byte));
    info.uuid += hex;
  }
  char pci[32] = {};
  CUDA_CHECK(cudaDeviceGetPCIBusId(pci, sizeof pci, device));
  info.pci = pci;
  return info;
}

std::unique_ptr<Device> make_device(int device) { return std::make_unique<CudaDevice>(device); }

int device_index(const Device& device) {
  const auto* cuda = dynamic_cast<const CudaDevice*>(&device);
  LLMTRAIN_ASSERT(cuda != nullptr, "a device of another backend");
  return cuda->index();
}

}  // namespace llmtrain::cuda
