// Streams and events of the CUDA backend (cuda_stream.h), and the error that every checked call ends in.
#include "device/cuda/cuda_stream.h"

#include <utility>

#include "core/error.h"
#include "device/cuda/check.h"

namespace llmtrain::cuda {

void fail(cudaError_t error, const char* call, const char* file, int line) {
  cudaGetLastError();  // an error that is not sticky is told once
  const std::string path = file;
  throw OperationError(std::string(call) + " (" + path.substr(path.rfind('/') + 1) + ":" + std::to_string(line) + "): " + cudaGetErrorName(error) + ", " +
                       cudaGetErrorString(error));
}

CudaStream::CudaStream(std::string name, int device, bool high_priority) : name_(std::move(name)) {
  CUDA_CHECK(cudaSetDevice(device));
  int least = 0, greatest = 0;
  CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_CHECK(cudaStreamCreateWithPriority(&handle_, cudaStreamNonBlocking, high_priority ? greatest : least));
}

CudaStream::~CudaStream() { cudaStreamDestroy(handle_); }

void CudaStream::synchronize() { CUDA_CHECK(cudaStreamSynchronize(handle_)); }

cudaStream_t handle_of(Stream& stream) {
  auto* cuda = dynamic_cast<CudaStream*>(&stream);
  LLMTRAIN_ASSERT(cuda != nullptr, "work for the GPU on a stream of another device: " + stream.name());
  return cuda->handle();
}

CudaEvent::CudaEvent() { CUDA_CHECK(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming)); }

CudaEvent::~CudaEvent() { cudaEventDestroy(handle_); }

void CudaEvent::record(Stream& stream) {
  CUDA_CHECK(cudaEventRecord(handle_, handle_of(stream)));
  recorded_ = true;
}

void CudaEvent::wait(Stream& stream) {
  if (recorded_) CUDA_CHECK(cudaStreamWaitEvent(handle_of(stream), handle_, 0));
}

void CudaEvent::synchronize() {
  if (recorded_) CUDA_CHECK(cudaEventSynchronize(handle_));
}

CudaTimePoint::CudaTimePoint() { CUDA_CHECK(cudaEventCreateWithFlags(&handle_, cudaEventDefault)); }

CudaTimePoint::~CudaTimePoint() { cudaEventDestroy(handle_); }

void CudaTimePoint::record(Stream& stream) {
  CUDA_CHECK(cudaEventRecord(handle_, handle_of(stream)));
  recorded_ = true;
}

bool CudaTimePoint::reached() {
  if (!recorded_) return false;
  const cudaError_t state = cudaEventQuery(handle_);
  if (state == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(state, "cudaEventQuery", __FILE__, __LINE__);
  return true;
}

double CudaTimePoint::seconds_after(const TimePoint& earlier) const {
  float milliseconds = 0;
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, dynamic_cast<const CudaTimePoint&>(earlier).handle_, handle_));
  return static_cast<double>(milliseconds) * 1e-3;
}

}  // namespace llmtrain::cuda
