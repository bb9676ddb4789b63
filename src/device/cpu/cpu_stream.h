// Streams and events of the CPU backend: a stream that runs its work inside the call, a stream with a thread of its own, and events between them.
//
// A threaded stream sleeps on a condition variable while it has nothing to do. The first error that its work raises is kept, the work behind it is
// skipped, and synchronize() (or an event recorded behind the failure) rethrows it in the thread that waits.
// Thread rules: run(), record() and wait() of one stream from one thread at a time; marks are safe everywhere.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "device/device.h"

namespace llmtrain {

// One recorded point of a stream: reached or not, with the error of the work before it.
class CpuMark {
 public:
  void reach(std::exception_ptr error);
  void wait();  // until reached; rethrows
  bool reached() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
  std::exception_ptr error_;
};

class CpuStream : public HostStream {
 public:
  // Marks the point behind everything submitted so far.
  virtual std::shared_ptr<CpuMark> mark() = 0;
  DeviceKind device_kind() const override { return DeviceKind::cpu; }
  const std::string& name() const override { return name_; }

 protected:
  explicit CpuStream(std::string name) : name_(std::move(name)) {}
  std::string name_;
};

class InlineStream final : public CpuStream {
 public:
  explicit InlineStream(std::string name) : CpuStream(std::move(name)) {}
  void run(std::function<void()> work) override { work(); }
  bool is_inline() const override { return true; }
  void synchronize() override {}
  std::shared_ptr<CpuMark> mark() override { return nullptr; }  // everything submitted is done already
};

class ThreadedStream final : public CpuStream {
 public:
  explicit ThreadedStream(std::string name);
  // Ends the thread after the work that runs now; work that has not begun is dropped (its marks report that). Call synchronize() before to keep it.
  ~ThreadedStream() override;
  void run(std::function<void()> work) override;
  bool is_inline() const override { return false; }
  void synchronize() override;
  std::shared_ptr<CpuMark> mark() override;

 private:
  struct Item {
    std::function<void()> work;
    std::shared_ptr<CpuMark> mark;
  };
  void push(Item item);
  void loop();

  std::mutex mutex_;
  std::condition_variable arrived_, idle_;
  std::deque<Item> queue_;
  bool busy_ = false, stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;  // started by the first work
};

class CpuEvent final : public Event {
 public:
  void record(Stream& stream) override;
  void wait(Stream& stream) override;
  void synchronize() override;

 private:
  std::shared_ptr<CpuMark> mark_;  // none: never recorded, or reached when recorded
};

// The steady clock's time at which the stream came by.
class CpuTimePoint final : public TimePoint {
 public:
  void record(Stream& stream) override;
  bool reached() override { return nanoseconds_->load() != 0; }
  double seconds_after(const TimePoint& earlier) const override;

 private:
  // Shared with the stream's thread, which may come by after this object has gone. 0: not yet.
  std::shared_ptr<std::atomic<int64_t>> nanoseconds_ = std::make_shared<std::atomic<int64_t>>(0);
};

}  // namespace llmtrain
