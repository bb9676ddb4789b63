// Arena: all memory that a run needs on a device, planned before step 0 and handed out by name. Nothing is allocated inside a step.
//
// The same code runs twice: with a planning Arena (nothing is allocated, pointers are null, sizes are summed) and with the real one, which takes
// one block of the planned size. After seal() a further request is a broken invariant.
//
// Thread rules: used by one thread during set-up.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "device/device.h"

namespace llmtrain {

class Arena {
 public:
  // A planning arena: counts only.
  Arena() = default;
  // A real arena of exactly `bytes` (a planning arena's total()).
  Arena(Device& device, size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  bool planning() const { return device_ == nullptr; }
  // `group` is a row of the plan's table ("activations", "gradient shards", …). Aligned to 256 bytes. Contents: zero.
  TensorView take(const std::string& group, DType dtype, Shape shape);
  void* take_bytes(const std::string& group, size_t bytes);
  // Memory that lies elsewhere (registered with a communicator, HDF5, oneDNN) but belongs into the plan.
  void count_elsewhere(const std::string& group, size_t bytes);
  void seal() { sealed_ = true; }

  size_t total() const { return used_; }                    // bytes of this arena's own block
  size_t total_with_elsewhere() const;
  const std::map<std::string, size_t>& groups() const { return groups_; }
  // The plan as lines of text: group, MiB, share.
  std::vector<std::string> table() const;

 private:
  Device* device_ = nullptr;
  char* block_ = nullptr;
  size_t capacity_ = 0, used_ = 0, elsewhere_ = 0;
  bool sealed_ = false;
  std::map<std::string, size_t> groups_;
};

}  // namespace llmtrain
