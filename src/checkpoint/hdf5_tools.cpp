#include "checkpoint/hdf5_tools.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace llmtrain::hdf5 {

void silence() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

std::string last_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
        if (n == 0 && e->desc) *static_cast<std::string*>(out) = e->desc;
        return 0;
      },
      &text);
  return text.empty() ? "failed" : text;
}

void fail(const std::string& call, const std::string& what) { throw OperationError(call + " " + what + ": " + last_error()); }

// HDF5's core driver asks the callbacks for memory: they hand out the reserved region, which never moves.
void* MemoryFile::grow(size_t bytes, Region& region) {
  if (bytes > region.reserved) return nullptr;
  region.used = std::max(region.used, bytes);
  return region.base;
}

MemoryFile::MemoryFile(size_t most_bytes) {
  silence();
  void* p = ::mmap(nullptr, most_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw_errno("mmap", "memory for an HDF5 file", errno);
  region_ = {static_cast<char*>(p), most_bytes, 0};
  const Handle fapl(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "H5Pcreate", "file access");
  check(H5Pset_libver_bounds(fapl, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST), "H5Pset_libver_bounds", "latest");
  check(H5Pset_fapl_core(fapl, size_t{1} << 16, false), "H5Pset_fapl_core", "memory file");
  H5FD_file_image_callbacks_t callbacks{};
  callbacks.udata = &region_;
  callbacks.image_malloc = [](size_t size, H5FD_file_image_op_t, void* u) { return grow(size, *static_cast<Region*>(u)); };
  callbacks.image_realloc = [](void*, size_t size, H5FD_file_image_op_t, void* u) { return grow(size, *static_cast<Region*>(u)); };
  callbacks.image_memcpy = [](void* to, const void* from, size_t size, H5FD_file_image_op_t, void*) { return std::memmove(to, from, size); };
  callbacks.image_free = [](void*, H5FD_file_image_op_t, void*) -> herr_t { return 0; };
  callbacks.udata_copy = [](void* u) { return u; };
  callbacks.udata_free = [](void*) -> herr_t { return 0; };
  check(H5Pset_file_image_callbacks(fapl, &callbacks), "H5Pset_file_image_callbacks", "memory file");
  file_ = Handle(H5Fcreate("file in memory", H5F_ACC_TRUNC, H5P_DEFAULT, fapl), H5Fclose, "H5Fcreate", "file in memory");
}

MemoryFile::~MemoryFile() {
  file_.reset();
  if (region_.base) ::munmap(region_.base, region_.reserved);
}

size_t MemoryFile::finish() {
  hsize_t size = 0;
  check(H5Fflush(file_, H5F_SCOPE_GLOBAL), "H5Fflush", "file in memory");
  check(H5Fget_filesize(file_, &size), "H5Fget_filesize", "file in memory");
  file_.close("H5Fclose", "file in memory");  // writes the superblock's last state
  return std::max<size_t>(region_.used, static_cast<size_t>(size));
}

StoredChunk chunk_at(hid_t dataset, int64_t begin, const std::string& what) {
  const hsize_t offset = static_cast<hsize_t>(begin);
  StoredChunk chunk;
  check(H5Dget_chunk_info_by_coord(dataset, &offset, &chunk.mask, &chunk.address, &chunk.bytes), "H5Dget_chunk_info_by_coord", what);
  return chunk;
}

Handle file_type(DType dtype) {
  const auto copy = [](hid_t t) { return Handle(H5Tcopy(t), H5Tclose, "H5Tcopy", "element type"); };
  switch (dtype) {
    case DType::float32: return copy(H5T_IEEE_F32LE);
    case DType::float64: return copy(H5T_IEEE_F64LE);
    case DType::int64: return copy(H5T_STD_I64LE);
    case DType::int32: return copy(H5T_STD_I32LE);
    case DType::uint8: return copy(H5T_STD_U8LE);
    case DType::float16: {
      Handle t = copy(H5T_IEEE_F32LE);
      check(H5Tset_fields(t, 15, 10, 5, 0, 10), "H5Tset_fields", "float16");
      check(H5Tset_precision(t, 16), "H5Tset_precision", "float16");
      check(H5Tset_size(t, 2), "H5Tset_size", "float16");
      check(H5Tset_ebias(t, 15), "H5Tset_ebias", "float16");
      return t;
    }
    case DType::bfloat16: {
      Handle t = copy(H5T_IEEE_F32LE);
      check(H5Tset_fields(t, 15, 7, 8, 0, 7), "H5Tset_fields", "bfloat16");
      check(H5Tset_precision(t, 16), "H5Tset_precision", "bfloat16");
      check(H5Tset_size(t, 2), "H5Tset_size", "bfloat16");
      check(H5Tset_ebias(t, 127), "H5Tset_ebias", "bfloat16");
      return t;
    }
    default: break;
  }
  LLMTRAIN_ASSERT(false, "no HDF5 type for this dtype");
}

}  // namespace llmtrain::hdf5
