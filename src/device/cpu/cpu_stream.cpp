// Streams and events of the CPU backend (cpu_stream.h).
#include "device/cpu/cpu_stream.h"

#include <pthread.h>

#include <chrono>
#include <utility>

#include "core/error.h"

namespace llmtrain {

void CpuMark::reach(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  reached_ = true;
  error_ = std::move(error);
  changed_.notify_all();
}

void CpuMark::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return reached_; });
  if (error_) std::rethrow_exception(error_);
}

bool CpuMark::reached() const {
  std::lock_guard lock(mutex_);
  return reached_;
}

ThreadedStream::ThreadedStream(std::string name) : CpuStream(std::move(name)) {}

ThreadedStream::~ThreadedStream() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    arrived_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void ThreadedStream::push(Item item) {
  std::lock_guard lock(mutex_);
  if (!thread_.joinable()) {
    thread_ = std::thread([this] { loop(); });
    pthread_setname_np(thread_.native_handle(), name_.substr(0, 15).c_str());
  }
  queue_.push_back(std::move(item));
  arrived_.notify_one();
}

void ThreadedStream::run(std::function<void()> work) { push({std::move(work), nullptr}); }

std::shared_ptr<CpuMark> ThreadedStream::mark() {
  auto mark = std::make_shared<CpuMark>();
  {
    std::lock_guard lock(mutex_);
    if (!busy_ && queue_.empty()) {  // nothing to wait for: no detour over the thread
      mark->reach(error_);
      return mark;
    }
  }
  push({nullptr, mark});
  return mark;
}

void ThreadedStream::synchronize() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return !busy_ && queue_.empty(); });
  if (std::exception_ptr error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
}

void ThreadedStream::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    arrived_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) break;
    Item item = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    std::exception_ptr error = error_;
    lock.unlock();
    if (item.mark) {
      item.mark->reach(error);
    } else if (!error) {
      try {
        item.work();
      } catch (...) {
        error = std::current_exception();
      }
    }
    item = {};  // what the work captured is let go before anybody is told that it is done
    lock.lock();
    if (error && !error_) error_ = error;
    busy_ = false;
    if (queue_.empty()) idle_.notify_all();
  }
  const auto dropped = std::make_exception_ptr(OperationError("stream '" + name_ + "' ended before its work was done"));
  for (Item& item : queue_)
    if (item.mark) item.mark->reach(error_ ? error_ : dropped);
  queue_.clear();
  idle_.notify_all();
}

void CpuEvent::record(Stream& stream) {
  auto* cpu = dynamic_cast<CpuStream*>(&stream);
  LLMTRAIN_ASSERT(cpu != nullptr, "an event of the CPU was recorded on a stream of another device: " + stream.name());
  mark_ = cpu->mark();
}

void CpuEvent::wait(Stream& stream) {
  if (!mark_) return;
  auto* host = dynamic_cast<HostStream*>(&stream);
  LLMTRAIN_ASSERT(host != nullptr, "a stream of another device cannot wait for an event of the CPU: " + stream.name());
  if (host->is_inline()) {
    mark_->wait();
  } else {
    host->run([mark = mark_] { mark->wait(); });
  }
}

void CpuEvent::synchronize() {
  if (mark_) mark_->wait();
}

void CpuTimePoint::record(Stream& stream) {
  auto* host = dynamic_cast<HostStream*>(&stream);
  LLMTRAIN_ASSERT(host != nullptr, "a time of the CPU was asked for on a stream of another device: " + stream.name());
  if (host->is_inline()) {
    nanoseconds_->store(std::chrono::steady_clock::now().time_since_epoch().count());
    return;
  }
  nanoseconds_ = std::make_shared<std::atomic<int64_t>>(0);  // an earlier recording may still be on its way
  host->run([at = nanoseconds_] { at->store(std::chrono::steady_clock::now().time_since_epoch().count()); });
}

double CpuTimePoint::seconds_after(const TimePoint& earlier) const {
  const auto& begin = dynamic_cast<const CpuTimePoint&>(earlier);
  return static_cast<double>(nanoseconds_->load() - begin.nanoseconds_->load()) * 1e-9;
}

}  // namespace llmtrain
