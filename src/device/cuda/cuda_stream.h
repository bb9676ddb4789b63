// Streams and events of the CUDA backend (device.h).
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "device/device.h"

namespace llmtrain::cuda {

class CudaStream final : public Stream {
 public:
  // Does not synchronise with the legacy default stream. A higher priority lets communication's kernels start before waiting compute kernels.
  CudaStream(std::string name, int device, bool high_priority);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  DeviceKind device_kind() const override { return DeviceKind::cuda; }
  const std::string& name() const override { return name_; }
  void synchronize() override;
  cudaStream_t handle() const { return handle_; }

 private:
  std::string name_;
  cudaStream_t handle_ = nullptr;
};

// The handle of a Stream that is one of this backend's.
cudaStream_t handle_of(Stream& stream);

class CudaEvent final : public Event {
 public:
  CudaEvent();
  ~CudaEvent() override;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  void record(Stream& stream) override;
  void wait(Stream& stream) override;
  void synchronize() override;

 private:
  cudaEvent_t handle_ = nullptr;
  bool recorded_ = false;
};

class CudaTimePoint final : public TimePoint {
 public:
  CudaTimePoint();
  ~CudaTimePoint() override;
  CudaTimePoint(const CudaTimePoint&) = delete;
  CudaTimePoint& operator=(const CudaTimePoint&) = delete;
  void record(Stream& stream) override;
  bool reached() override;
  double seconds_after(const TimePoint& earlier) const override;  // resolves about half a microsecond

 private:
  cudaEvent_t handle_ = nullptr;
  bool recorded_ = false;
};

}  // namespace llmtrain::cuda
