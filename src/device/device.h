// A device, its streams and its events: one concept a class, one implementation a backend (cpu/ here, cuda/ in the plugin).
//
// Device   the place where tensors live: allocates memory, makes streams and events, copies.
// Stream   work in order. On the CPU the compute stream runs its work inside the call; a communication stream may be a thread of its own.
// Event    a point in a stream. record() marks it, wait() makes another stream wait for it, synchronize() makes the host wait.
//          Recording twice without anything having waited in between is allowed; waiting on an event that was never recorded returns at once.
//
// Thread rules: a Device may be used from any thread; a Stream is fed by one thread at a time.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <string>

namespace llmtrain {

enum class DeviceKind { cpu, cuda };

class Stream {
 public:
  virtual ~Stream() = default;
  virtual DeviceKind device_kind() const = 0;
  virtual const std::string& name() const = 0;
  // Waits until all work submitted so far is done; rethrows the first error that the work raised.
  virtual void synchronize() = 0;
};

// A stream whose work is host code (the CPU backend's streams; MPI's collectives on any backend).
class HostStream : public Stream {
 public:
  // Runs `work` after everything submitted before: at once (inline stream) or on the stream's thread.
  virtual void run(std::function<void()> work) = 0;
  virtual bool is_inline() const = 0;
};

class Event {
 public:
  virtual ~Event() = default;
  virtual void record(Stream& stream) = 0;
  virtual void wait(Stream& stream) = 0;  // work submitted to `stream` from now on starts after the recorded point
  virtual void synchronize() = 0;         // the calling thread waits for the recorded point
};

// A point in a stream whose time can be asked for once the stream has passed it: for measuring without waiting. May be recorded again and again.
class TimePoint {
 public:
  virtual ~TimePoint() = default;
  virtual void record(Stream& stream) = 0;
  virtual bool reached() = 0;  // never waits; false before the first record()
  // Seconds from `earlier` to this point, on the device's clock; both must have been reached, on any streams of one Device.
  virtual double seconds_after(const TimePoint& earlier) const = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string describe() const = 0;  // one line for the log
  // Memory for tensors, aligned to 256 bytes, contents undefined (CPU: pages touched by the caller's thread later). OperationError when it is not to
  // be had.
  virtual void* allocate(size_t bytes) = 0;
  virtual void free(void* pointer) = 0;  // never throws: destructors call it
  // Host memory that copies to and from the device are fastest with, and that the device's kernels may read and write (CUDA: pinned and mapped; CPU:
  // the same as allocate). Contents undefined. OperationError when it is not to be had.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void free_host(void* pointer) = 0;
  virtual size_t bytes_available() const = 0;  // CPU: the smaller of free memory and what the cgroup leaves; CUDA: free memory of the GPU
  // `asynchronous` asks for a stream that makes progress while the compute stream works (CPU: a thread).
  virtual std::unique_ptr<Stream> make_stream(const std::string& name, bool asynchronous) = 0;
  virtual std::unique_ptr<Event> make_event() = 0;
  virtual std::unique_ptr<TimePoint> make_time_point() = 0;
  virtual void zero(Stream& stream, void* to, size_t bytes) = 0;
  virtual void copy(Stream& stream, void* to, const void* from, size_t bytes) = 0;  // within the device
  // `host` may be read after the stream has been waited for.
  virtual void copy_to_host(Stream& stream, void* host, const void* from, size_t bytes) = 0;
  // `host` may be changed as soon as this returns, unless it is memory of allocate_host(): then after the copy was done.
  virtual void copy_to_device(Stream& stream, void* to, const void* host, size_t bytes) = 0;
};

// The CUDA device comes from the plugin: device/cuda_backend.h.
// `threads`: how many threads a rank's kernels may use (device/cpu/threads.h finds the number).
std::unique_ptr<Device> make_cpu_device(int threads);

}  // namespace llmtrain
