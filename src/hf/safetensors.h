// Reader of one safetensors file (https://huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header, then the data.
//
// A file is refused, with InputError naming it and what is wrong, unless: the header is at most 100 MB and lies in the file; the tensors
// cover the data exactly, without hole, overlap or trailing bytes; no name stands twice; every number is a non-negative whole number;
// shape x element size is the byte range (multiplied with overflow checks); every element type is known. A pickle (.bin, .pt) is
// refused by its magic bytes. Only byte ranges that are asked for are read (pread), so that each rank reads its own part.
//
// Thread rules: a SafetensorsFile is read-only after open(); read_range() may run in many threads at once.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"
#include "core/tensor.h"

namespace llmtrain {

inline constexpr uint64_t kSafetensorsHeaderLimitBytes = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;                  // at most kMaxDims dimensions; none for a scalar
  uint64_t begin = 0, end = 0;  // bytes from the start of the file
};

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  // In the order of their data.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const SafetensorsEntry* find(const std::string& name) const;  // null where absent
  // The text of "__metadata__", in file order.
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

  // Elements [element_begin, element_begin + count) of a tensor, in row-major order, into `out` as out_type. Floating-point types are
  // converted into each other (round to nearest even); others are only read as what they are, else InputError.
  // OperationError when reading fails.
  void read_range(const SafetensorsEntry& entry, int64_t element_begin, int64_t count, void* out, DType out_type) const;
  void read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const;

 private:
  File file_;
  std::vector<SafetensorsEntry> entries_;
  std::vector<uint32_t> by_name_;  // indices into entries_, sorted by name
  std::vector<std::pair<std::string, std::string>> metadata_;
};

// The header (8 bytes of length, JSON, padded with blanks so that data starts at a multiple of 8) of a file whose tensors lie one after
// the other in this order. Fills begin and end of each entry as offsets into the file.
std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries);

bool is_floating(DType dtype);

}  // namespace llmtrain
