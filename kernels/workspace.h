// Scratch memory of a backend's kernels: one block, planned by Kernels::reserve() and taken from the arena. A call that needs more than was
// planned (Kernels used without reserve(), a shape outside the limits) gets a block of the device that is kept for later calls.
//
// Thread rules: one call at a time, as Kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/device.h"

namespace llmtrain {

inline constexpr size_t kScratchAlignment = 256;
inline constexpr size_t padded(size_t bytes) { return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment; }

class Workspace {
 public:
  explicit Workspace(Device& device) : device_(device) {}
  ~Workspace() { release(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Memory of the arena. Null while planning.
  void adopt(void* block, size_t bytes) {
    release();
    block_ = static_cast<char*>(block);
    capacity_ = block ? bytes : 0;
  }
  // At least `bytes`, contents undefined, valid until the next call of get().
  char* get(size_t bytes) {
    if (bytes <= capacity_) return block_;
    release();
    block_ = own_ = static_cast<char*>(device_.allocate(bytes));
    capacity_ = bytes;
    return block_;
  }
  size_t capacity() const { return capacity_; }

 private:
  void release() {
    if (own_) device_.free(own_);
    block_ = own_ = nullptr;
    capacity_ = 0;
  }
  Device& device_;
  char* block_ = nullptr;
  char* own_ = nullptr;
  size_t capacity_ = 0;
};

// Hands out parts of a block, each aligned.
class Carver {
 public:
  explicit Carver(char* block) : next_(block) {}
  template <class T>
  T* take(int64_t n) {
    T* p = reinterpret_cast<T*>(next_);
    next_ += padded(static_cast<size_t>(n) * sizeof(T));
    return p;
  }

 private:
  char* next_;
};

}  // namespace llmtrain
