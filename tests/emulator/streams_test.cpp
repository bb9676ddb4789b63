// The emulated CUDA runtime itself: what its streams, events, copies and memory do, by the manual of the real one. Run with every stream starved
// (LLMTRAIN_EMULATED_STREAMS=starve:all:…), so that nothing happens before somebody waits for it: what is read too early shows.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#include "emulator/streams.h"

namespace llmtrain::emulator {
namespace {

constexpr size_t kCount = 1000, kBytes = kCount * sizeof(float);

void add_one(float* x, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += 1;
}

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) { EXPECT_EQ(cudaStreamCreateWithFlags(&handle_, flags), cudaSuccess); }
  ~Stream() { cudaStreamDestroy(handle_); }
  operator cudaStream_t() const { return handle_; }
  void add_one_to(float* x) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(8);
    config.blockDim = dim3(128);
    config.stream = handle_;
    EXPECT_EQ(cudaLaunchKernelEx(&config, add_one, x, static_cast<int>(kCount)), cudaSuccess);
  }

 private:
  cudaStream_t handle_ = nullptr;
};

struct Event {
  cudaEvent_t handle = nullptr;
  explicit Event(unsigned flags = cudaEventDefault) { EXPECT_EQ(cudaEventCreateWithFlags(&handle, flags), cudaSuccess); }
  ~Event() { cudaEventDestroy(handle); }
};

float* on_device(float value) {
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, kBytes), cudaSuccess);
  const std::vector<float> host(kCount, value);
  EXPECT_EQ(cudaMemcpy(p, host.data(), kBytes, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return static_cast<float*>(p);
}

float* pinned(float value) {
  void* p = nullptr;
  EXPECT_EQ(cudaMallocHost(&p, kBytes), cudaSuccess);
  std::fill_n(static_cast<float*>(p), kCount, value);
  return static_cast<float*>(p);
}

// Whether streams are made late: then what is not waited for has not happened.
bool starved() {
  const char* pace = std::getenv("LLMTRAIN_EMULATED_STREAMS");
  return pace && std::string(pace).rfind("starve:all", 0) == 0;
}

class EmulatedStreams : public testing::Test {
 protected:
  void SetUp() override {
    if (!starved()) GTEST_SKIP() << "LLMTRAIN_EMULATED_STREAMS is not starve:all";
  }
};

TEST_F(EmulatedStreams, AKernelHasRunWhenItsStreamWasWaitedForAndNotBefore) {
  Stream stream;
  float *x = on_device(1), *seen = pinned(0);
  stream.add_one_to(x);
  EXPECT_EQ(x[0], 1) << "device memory is host memory here";
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaMemcpyAsync(seen, x, kBytes, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(seen[0], 0);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(seen[kCount - 1], 2);
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  cudaFree(x);
  cudaFreeHost(seen);
}

TEST_F(EmulatedStreams, PinnedMemoryIsReadWhenTheStreamComesToItAndPageableMemoryAtOnce) {
  Stream stream;
  float *x = on_device(0), *y = on_device(0), *source = pinned(3);
  std::vector<float> pageable(kCount, 3);
  EXPECT_EQ(cudaMemcpyAsync(x, source, kBytes, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(y, pageable.data(), kBytes, cudaMemcpyHostToDevice, stream), cudaSuccess);
  source[0] = pageable[0] = 4;
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x[0], 4) << "the buffer was used again too early, and the copy shows it";
  EXPECT_EQ(y[0], 3);
  stream.add_one_to(y);
  EXPECT_EQ(cudaMemcpyAsync(pageable.data(), y, kBytes, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(pageable[0], 4) << "a copy to pageable memory returns when it is done";
  for (float* p : {x, y}) cudaFree(p);
  cudaFreeHost(source);
}

TEST_F(EmulatedStreams, StreamsWaitForEventsAsTheyWereRecordedLast) {
  Stream first, second;
  Event event(cudaEventDisableTiming);
  float *x = on_device(1), *copied = on_device(0);
  EXPECT_EQ(cudaStreamWaitEvent(second, event.handle, 0), cudaSuccess) << "nothing was recorded: nothing to wait for";
  first.add_one_to(x);
  EXPECT_EQ(cudaEventRecord(event.handle, first), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(second, event.handle, 0), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(copied, x, kBytes, cudaMemcpyDeviceToDevice, second), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(second), cudaSuccess);
  EXPECT_EQ(copied[0], 2);
  first.add_one_to(x);  // after the recorded point
  EXPECT_EQ(cudaMemcpyAsync(copied, x, kBytes, cudaMemcpyDeviceToDevice, second), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(second), cudaSuccess);
  EXPECT_EQ(copied[0], 2) << "nobody waited for the second addition";
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(x[0], 3);
  for (float* p : {x, copied}) cudaFree(p);
}

TEST_F(EmulatedStreams, EventsAreReachedInStreamOrderAndMeasureTime) {
  Stream stream;
  Event begin, end, untimed(cudaEventDisableTiming);
  float* x = on_device(1);
  float milliseconds = 0;
  EXPECT_EQ(cudaEventQuery(begin.handle), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin.handle, end.handle), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventRecord(begin.handle, stream), cudaSuccess);
  stream.add_one_to(x);
  EXPECT_EQ(cudaEventRecord(end.handle, stream), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(untimed.handle, stream), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(end.handle), cudaErrorNotReady);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin.handle, end.handle), cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(end.handle), cudaSuccess);
  EXPECT_EQ(x[0], 2);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin.handle, end.handle), cudaSuccess);
  EXPECT_GT(milliseconds, 0);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin.handle, untimed.handle), cudaErrorInvalidResourceHandle);
  cudaFree(x);
}

TEST_F(EmulatedStreams, AStreamThatNobodyWaitsForMovesInTheEnd) {
  Stream stream;
  float* x = on_device(1);
  stream.add_one_to(x);
  for (int tries = 0; tries < 1000 && cudaStreamQuery(stream) == cudaErrorNotReady; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_EQ(x[0], 2);
  cudaFree(x);
}

TEST_F(EmulatedStreams, TheLegacyStreamTakesTurnsWithBlockingStreamsOnly) {
  Stream blocking(cudaStreamDefault), free_running;
  float *x = on_device(1), *y = on_device(1), *copied = on_device(0);
  blocking.add_one_to(x);
  free_running.add_one_to(y);
  EXPECT_EQ(cudaMemcpyAsync(copied, x, kBytes, cudaMemcpyDeviceToDevice, nullptr), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(copied + 1, y, sizeof(float), cudaMemcpyDeviceToDevice, nullptr), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(x, 0, kBytes, nullptr), cudaSuccess);
  blocking.add_one_to(x);
  EXPECT_EQ(cudaStreamSynchronize(blocking), cudaSuccess);
  EXPECT_EQ(copied[0], 2);
  EXPECT_EQ(copied[1], 1);
  EXPECT_EQ(x[0], 1);
  for (float* p : {x, y, copied}) cudaFree(p);
}

TEST_F(EmulatedStreams, FreeingWaitsForTheDeviceAndLeavesNaN) {
  Stream stream;
  float *x = on_device(1), *seen = pinned(0);
  stream.add_one_to(x);
  EXPECT_EQ(cudaMemcpyAsync(seen, x, kBytes, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(cudaFree(x), cudaSuccess);
  EXPECT_EQ(seen[0], 2);
  EXPECT_EQ(cudaFree(x), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  cudaFreeHost(seen);
}

TEST_F(EmulatedStreams, AStreamThatIsDestroyedStillDoesItsWork) {
  float* x = on_device(1);
  {
    Stream stream;
    stream.add_one_to(x);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(x[0], 2);
  cudaFree(x);
}

TEST_F(EmulatedStreams, StreamsAndEventsBelongToTheDeviceThatWasCurrent) {
  ::setenv("LLMTRAIN_EMULATED_DEVICES", "2", 1);
  Stream first;
  float* x = on_device(1);
  EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
  cudaLaunchConfig_t config = {};
  config.stream = first;
  EXPECT_EQ(cudaLaunchKernelEx(&config, add_one, x, 1), cudaErrorInvalidResourceHandle) << "the stream is one of device 0";
  Event other;
  EXPECT_EQ(cudaEventRecord(other.handle, first), cudaErrorInvalidResourceHandle);
  std::thread([&] {  // a new thread begins with device 0
    Event event;
    EXPECT_EQ(cudaEventRecord(event.handle, first), cudaSuccess);
  }).join();
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
  cudaGetLastError();
  cudaFree(x);
}

using EmulatedFaults = EmulatedStreams;

TEST_F(EmulatedFaults, WhatIsDoneToMemoryThatWasGivenBackEndsTheProgram) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  float *x = on_device(1), *y = on_device(1);
  EXPECT_DEATH(
      {
        cudaFree(x);
        x[3] = 0;
        std::exit(0);
      },
      "device memory was written after it had been given back: byte 12|use-after-poison");
  EXPECT_DEATH(
      {
        Stream stream;
        cudaFree(x);
        cudaMemcpyAsync(y, x, kBytes, cudaMemcpyDeviceToDevice, stream);
        cudaStreamSynchronize(stream);
      },
      "a copy reads: memory that was given back");
  EXPECT_DEATH(
      {
        Stream stream;
        cudaMemcpyAsync(y, x, kBytes + 4, cudaMemcpyDeviceToDevice, stream);
        cudaStreamSynchronize(stream);
      },
      "a copy writes: 4004 bytes from byte 0 of a block of 4000");
  EXPECT_DEATH(
      {
        x[kCount] = 0;
        cudaFree(x);
      },
      "device memory was written behind its end: byte 4000 of a block of 4000|use-after-poison");
  EXPECT_DEATH(
      {
        Stream stream;
        float* source = pinned(1);
        cudaMemcpyAsync(x, source, kBytes, cudaMemcpyHostToDevice, stream);
        cudaFreeHost(source);
      },
      "pinned memory were given back while 1 copies have still to use them");
  for (float* p : {x, y}) cudaFree(p);
}

TEST_F(EmulatedFaults, AnErrorOfTheGpuComesLateAndStays) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  ::setenv("LLMTRAIN_EMULATED_FAULT", "kernel:2:0", 1);
  ::unsetenv("OMPI_COMM_WORLD_RANK");
  EXPECT_EXIT(
      {
        Stream stream;
        float* x = on_device(1);
        stream.add_one_to(x);
        stream.add_one_to(x);  // returns before it goes astray
        bool right = cudaStreamSynchronize(stream) == cudaErrorIllegalAddress;
        right = right && x[0] == 2 && cudaGetLastError() == cudaErrorIllegalAddress;
        void* more = nullptr;
        right = right && cudaMalloc(&more, 1) == cudaErrorIllegalAddress && cudaStreamSynchronize(stream) == cudaErrorIllegalAddress;
        std::exit(right ? 5 : 6);
      },
      testing::ExitedWithCode(5), "");
  ::unsetenv("LLMTRAIN_EMULATED_FAULT");
}

// ---- at any pace

TEST(EmulatedRuntime, ManyStreamsThatPassABufferOnLoseNothing) {
  constexpr int kStreams = 4, kRounds = 50;
  std::vector<Stream> streams(kStreams);
  std::vector<Event> events(kStreams);
  float* x = on_device(0);
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < kStreams; ++i) {
      EXPECT_EQ(cudaStreamWaitEvent(streams[static_cast<size_t>(i)], events[static_cast<size_t>((i + kStreams - 1) % kStreams)].handle, 0), cudaSuccess);
      streams[static_cast<size_t>(i)].add_one_to(x);
      EXPECT_EQ(cudaEventRecord(events[static_cast<size_t>(i)].handle, streams[static_cast<size_t>(i)]), cudaSuccess);
    }
  }
  std::vector<float> seen(kCount);
  EXPECT_EQ(cudaMemcpyAsync(seen.data(), x, kBytes, cudaMemcpyDeviceToHost, streams.back()), cudaSuccess);
  EXPECT_EQ(seen, std::vector<float>(kCount, kStreams * kRounds));
  cudaFree(x);
}

TEST(EmulatedRuntime, FreshMemoryIsNaN) {
  void *device = nullptr, *host = nullptr;
  EXPECT_EQ(cudaMalloc(&device, kBytes), cudaSuccess);
  EXPECT_EQ(cudaMallocHost(&host, kBytes), cudaSuccess);
  for (void* p : {device, host}) EXPECT_TRUE(std::isnan(static_cast<float*>(p)[kCount - 1]));
  cudaFree(device);
  cudaFreeHost(host);
}

}  // namespace
}  // namespace llmtrain::emulator
