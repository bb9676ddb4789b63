// Arena: planned memory (arena.h).
#include "device/arena.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr size_t kAlign = 256;

}  // namespace

Arena::Arena(Device& device, size_t bytes) : device_(&device), capacity_(bytes) {
  block_ = static_cast<char*>(device.allocate(bytes));
  // Fresh pages of the CPU are zero and stay untouched until somebody uses them; memory of other devices is cleared here.
  if (device.kind() != DeviceKind::cpu) {
    auto stream = device.make_stream("arena", false);
    device.zero(*stream, block_, bytes);
    stream->synchronize();
  }
}

Arena::~Arena() {
  if (device_ != nullptr) device_->free(block_);
}

void* Arena::take_bytes(const std::string& group, size_t bytes) {
  LLMTRAIN_ASSERT(!sealed_, "memory was asked for inside a step: " + group);
  LLMTRAIN_ASSERT(bytes <= SIZE_MAX - used_ - kAlign, "size overflow in " + group);
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  LLMTRAIN_ASSERT(planning() || rounded <= capacity_ - used_, "more memory than planned is asked for: " + group);
  char* p = planning() ? nullptr : block_ + used_;
  used_ += rounded;
  groups_[group] += rounded;
  return p;
}

TensorView Arena::take(const std::string& group, DType dtype, Shape shape) {
  TensorView view(static_cast<void*>(nullptr), dtype, shape);
  view.data = take_bytes(group, view.bytes());
  return view;
}

void Arena::count_elsewhere(const std::string& group, size_t bytes) {
  LLMTRAIN_ASSERT(!sealed_, "memory was asked for inside a step: " + group);
  elsewhere_ += bytes;
  groups_[group] += bytes;
}

size_t Arena::total_with_elsewhere() const { return used_ + elsewhere_; }

std::vector<std::string> Arena::table() const {
  std::vector<std::string> lines;
  const double total = static_cast<double>(total_with_elsewhere());
  const auto line = [&](const std::string& name, size_t bytes) {
    char text[128];
    std::snprintf(text, sizeof text, "%-28s %10.1f MiB %5.1f %%", name.c_str(), static_cast<double>(bytes) / 1048576.0,
                  total > 0 ? 100.0 * static_cast<double>(bytes) / total : 0.0);
    lines.emplace_back(text);
  };
  for (const auto& [name, bytes] : groups_) line(name, bytes);
  line("total", total_with_elsewhere());
  return lines;
}

}  // namespace llmtrain
