// The streams of the emulated GPUs: each is a queue with a thread of its own, so that work runs when a GPU could run it and not when it was asked for.
// What is missing (a wait between streams, a wait of the host) then shows as other bits, as NaN, or as a failed check.
//
// LLMTRAIN_EMULATED_STREAMS chooses when the queues move:
//   concurrent        each as fast as it can (the default)
//   in-order          nothing is queued: every call is done when it returns
//   late:SEED         before some operations a delay that follows from SEED, the stream and the operation's number
//   starve:K[:US]     stream K (the K-th that this process made, from 0) moves only when somebody waits for it, or after US microseconds (100000)
//   starve:all[:US]   every stream does
// CUDA_LAUNCH_BLOCKING=1: a launch returns when the kernel has run, as with the real runtime.
//
// Thread rules: any thread.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace llmtrain::emulator {

// A point in a queue: reached when so many operations of it are done.
struct Position {
  std::shared_ptr<CUstream_st> queue;
  uint64_t number = 0;
};

// The legacy stream of the current device for null. Null: no such stream (any more).
std::shared_ptr<CUstream_st> find_queue(cudaStream_t stream);
int device_of(const CUstream_st& queue);
std::shared_ptr<CUstream_st> make_queue(int device, bool blocking);
void destroy_queue(cudaStream_t stream);

// Does `work` behind everything that the queue was given before; nothing is done any more once the device is broken. The point behind it.
Position enqueue(const std::shared_ptr<CUstream_st>& queue, std::function<void()> work);
// What comes next on `queue` begins after `position` was reached.
void enqueue_wait(const std::shared_ptr<CUstream_st>& queue, const Position& position);
Position end_of(const std::shared_ptr<CUstream_st>& queue);
bool reached(const Position& position);
void wait_until(const Position& position);
// For everything that the streams of this device were given.
void wait_for_device(int device);
// CUDA_LAUNCH_BLOCKING.
bool launches_block();

// An error of the GPU itself: this process's work on its GPUs is over, and every call says so.
bool broken();
void break_devices();

int current_device();

}  // namespace llmtrain::emulator
