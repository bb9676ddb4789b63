// Small helpers around the HDF5 C API (https://support.hdfgroup.org/documentation/hdf5/v1_14/): handles that close themselves, errors with HDF5's own
// text, element types.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <string>
#include <utility>

#include "core/dtype.h"

namespace llmtrain::hdf5 {

// What HDF5 said last (its innermost message), "failed" if nothing.
std::string last_error();
// Throws OperationError "H5Dopen /a/b: <HDF5's innermost message>".
[[noreturn]] void fail(const std::string& call, const std::string& what);
// HDF5's printing of errors is switched off once; fail() fetches the text instead.
void silence();

inline herr_t check(herr_t status, const char* call, const std::string& what) {
  if (status < 0) fail(call, what);
  return status;
}

class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close, const char* call, const std::string& what) : id_(id), close_(close) {
    if (id < 0) fail(call, what);
  }
  Handle(Handle&& o) noexcept : id_(std::exchange(o.id_, -1)), close_(o.close_) {}
  Handle& operator=(Handle&& o) noexcept {
    if (this != &o) {
      reset();
      id_ = std::exchange(o.id_, -1);
      close_ = o.close_;
    }
    return *this;
  }
  ~Handle() { reset(); }
  void reset() {
    if (id_ >= 0) close_(id_);
    id_ = -1;
  }
  // Closes and reports a failure, which the destructor cannot.
  void close(const char* call, const std::string& what) {
    const hid_t id = std::exchange(id_, -1);
    if (id >= 0 && close_(id) < 0) fail(call, what);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

// The file type of a DType; bfloat16 is a 16-bit float with 8 exponent bits. The caller owns the handle.
Handle file_type(DType dtype);

// Where HDF5 stores the chunk that begins at element `begin` of a one-dimensional dataset: bytes from the start of the file (HADDR_UNDEF: nowhere), stored bytes
// with filters, and the mask of filters left out (HDF5 reference manual, H5Dget_chunk_info_by_coord). OperationError naming `what`.
struct StoredChunk {
  haddr_t address = HADDR_UNDEF;
  hsize_t bytes = 0;
  unsigned mask = 0;
};
StoredChunk chunk_at(hid_t dataset, int64_t begin, const std::string& what);

// A new HDF5 file (latest format) that is made in memory of our own and never on disk. Add to file(), then finish(): the bytes are complete only once HDF5
// has closed the file.  (H5Fget_file_image on an open file clears flags of the superblock without mending its checksum, so it is of no use here.)
class MemoryFile {
 public:
  explicit MemoryFile(size_t most_bytes);  // address space only: pages are taken when they are touched
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  Handle& file() { return file_; }
  size_t finish();  // closes; the size of the file
  char* data() { return region_.base; }

 private:
  struct Region {
    char* base = nullptr;
    size_t reserved = 0, used = 0;
  };
  static void* grow(size_t bytes, Region& region);
  Region region_;
  Handle file_;
};

}  // namespace llmtrain::hdf5
