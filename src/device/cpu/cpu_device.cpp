// The CPU as a Device: memory by mmap (huge pages for large blocks), inline and threaded streams, copies by memcpy.
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "device/cpu/cgroup.h"
#include "device/cpu/cpu_stream.h"
#include "device/device.h"

namespace llmtrain {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads) : threads_(threads) {}
  ~CpuDevice() override {
    for (const auto& [pointer, bytes] : blocks_) munmap(pointer, bytes);
  }

  DeviceKind kind() const override { return DeviceKind::cpu; }

  std::string describe() const override {
    std::string model = "CPU", line;
    std::ifstream in("/proc/cpuinfo");
    while (std::getline(in, line)) {
      if (line.compare(0, 10, "model name") != 0 || line.find(": ") == std::string::npos) continue;
      model = line.substr(line.find(": ") + 2);
      break;
    }
    return model + ", " + std::to_string(threads_) + (threads_ == 1 ? " thread" : " threads") + " a rank, " +
           std::to_string(bytes_available() >> 20) + " MiB free";
  }

  void* allocate(size_t bytes) override {
    // Blocks that hold a huge page begin at the boundary of one, else the kernel cannot use it for their first part.
    const bool huge = bytes >= kHugePage;
    const size_t unit = huge ? kHugePage : kPage;
    if (bytes > SIZE_MAX - 2 * kHugePage) throw OperationError("allocating " + std::to_string(bytes) + " bytes: more than an address space holds");
    const size_t size = (bytes + kPage - (bytes == 0 ? 0 : 1)) / kPage * kPage, mapped = huge ? size + unit : size;
    void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
      throw OperationError("allocating " + std::to_string(bytes >> 20) + " MiB (" + std::to_string(bytes_available() >> 20) +
                           " MiB are free): " + std::strerror(errno));
    }
    char* begin = static_cast<char*>(p);
    if (huge) {
      const size_t skip = (unit - reinterpret_cast<uintptr_t>(begin) % unit) % unit;
      if (skip > 0) munmap(begin, skip);
      munmap(begin + skip + size, mapped - skip - size);  // never empty: skip < unit
      begin += skip;
      madvise(begin, size, MADV_HUGEPAGE);  // advice only: where it is refused small pages do
    }
    std::lock_guard lock(mutex_);
    blocks_[begin] = size;
    return begin;
  }

  void free(void* pointer) override {
    if (pointer == nullptr) return;
    std::lock_guard lock(mutex_);
    const auto block = blocks_.find(pointer);
    LLMTRAIN_ASSERT(block != blocks_.end(), "free of memory that this device did not allocate");
    munmap(pointer, block->second);
    blocks_.erase(block);
  }

  void* allocate_host(size_t bytes) override { return allocate(bytes); }
  void free_host(void* pointer) override { free(pointer); }
  size_t bytes_available() const override { return memory_available(); }

  std::unique_ptr<Stream> make_stream(const std::string& name, bool asynchronous) override {
    if (asynchronous) return std::make_unique<ThreadedStream>(name);
    return std::make_unique<InlineStream>(name);
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<CpuEvent>(); }
  std::unique_ptr<TimePoint> make_time_point() override { return std::make_unique<CpuTimePoint>(); }

  void zero(Stream& stream, void* to, size_t bytes) override {
    if (bytes == 0) return;
    auto* host = dynamic_cast<HostStream*>(&stream);
    LLMTRAIN_ASSERT(host != nullptr, "work of the CPU on a stream of another device: " + stream.name());
    host->run([to, bytes] { std::memset(to, 0, bytes); });
  }
  void copy(Stream& stream, void* to, const void* from, size_t bytes) override {
    if (bytes == 0 || to == from) return;
    auto* host = dynamic_cast<HostStream*>(&stream);
    LLMTRAIN_ASSERT(host != nullptr, "a copy of the CPU on a stream of another device: " + stream.name());
    host->run([to, from, bytes] { std::memcpy(to, from, bytes); });
  }
  void copy_to_host(Stream& stream, void* host, const void* from, size_t bytes) override { copy(stream, host, from, bytes); }
  void copy_to_device(Stream& stream, void* to, const void* host, size_t bytes) override { copy(stream, to, host, bytes); }

 private:
  int threads_;
  std::mutex mutex_;
  std::unordered_map<void*, size_t> blocks_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(int threads) { return std::make_unique<CpuDevice>(threads); }

}  // namespace llmtrain
