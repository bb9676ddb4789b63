#include "checkpoint/index_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "checkpoint/hdf5_tools.h"
#include "core/error.h"

namespace llmtrain {
namespace {

using Dims = std::array<hsize_t, kMaxDims>;

// Calls `block(start, count, elements)` for the boxes that make up elements [begin, end) of a row-major tensor, in order.
template <class Block>
void for_each_box(const Shape& shape, int dim, int64_t begin, int64_t end, Dims start, const Block& block) {
  if (begin >= end) return;
  int64_t inner = 1;
  for (int i = dim + 1; i < shape.rank; ++i) inner *= shape[i];
  const auto whole = [&](int64_t first, int64_t count) {
    if (count <= 0) return;
    Dims from = start, size{};
    for (int i = 0; i < dim; ++i) size[static_cast<size_t>(i)] = 1;
    from[static_cast<size_t>(dim)] = static_cast<hsize_t>(first);
    size[static_cast<size_t>(dim)] = static_cast<hsize_t>(count);
    for (int i = dim + 1; i < shape.rank; ++i) {
      from[static_cast<size_t>(i)] = 0;
      size[static_cast<size_t>(i)] = static_cast<hsize_t>(shape[i]);
    }
    block(from, size, count * inner);
  };
  const auto part = [&](int64_t row, int64_t from, int64_t to) {
    Dims at = start;
    at[static_cast<size_t>(dim)] = static_cast<hsize_t>(row);
    for_each_box(shape, dim + 1, from, to, at, block);
  };
  const int64_t first = begin / inner, last = end / inner;  // rows
  if (begin % inner == 0) {
    whole(first, last - first);
  } else if (first == last) {
    part(first, begin % inner, end % inner);
    return;
  } else {
    part(first, begin % inner, inner);
    whole(first + 1, last - first - 1);
  }
  if (end % inner) part(last, 0, end % inner);
}

void set_nan_fill(hid_t dcpl, DType dtype) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16) {
    hdf5::check(H5Pset_fill_value(dcpl, H5T_NATIVE_FLOAT, &nan), "H5Pset_fill_value", "NaN");
  }
}

void add_tensor(hid_t group, const CheckpointContent& content, const StoredUnit& unit, const StoredArray& array, const StoredTensor& tensor) {
  Dims dims{};
  for (int i = 0; i < tensor.shape.rank; ++i) dims[static_cast<size_t>(i)] = static_cast<hsize_t>(tensor.shape[i]);
  const hdf5::Handle space(H5Screate_simple(tensor.shape.rank, dims.data(), nullptr), H5Sclose, "H5Screate_simple", tensor.name);
  const hdf5::Handle dcpl(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate", "virtual dataset");
  set_nan_fill(dcpl, array.dtype);
  const std::string source = "/units/" + unit.name + "/" + array.name;
  const hsize_t shard = static_cast<hsize_t>(array.shard_elements);
  const int64_t begin = tensor.offset, end = begin + tensor.shape.elements();
  for (int rank = 0; rank < content.world; ++rank) {
    const int64_t low = std::max(begin, rank * array.shard_elements), high = std::min(end, (rank + 1) * array.shard_elements);
    if (low >= high) continue;
    const std::string file = shard_file_name(rank, content.world);
    hsize_t at = static_cast<hsize_t>(low - rank * array.shard_elements);
    for_each_box(tensor.shape, 0, low - begin, high - begin, Dims{}, [&](const Dims& start, const Dims& count, int64_t elements) {
      hdf5::check(H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr), "H5Sselect_hyperslab", tensor.name);
      const hdf5::Handle from(H5Screate_simple(1, &shard, nullptr), H5Sclose, "H5Screate_simple", source);
      const hsize_t n = static_cast<hsize_t>(elements);
      hdf5::check(H5Sselect_hyperslab(from, H5S_SELECT_SET, &at, nullptr, &n, nullptr), "H5Sselect_hyperslab", source);
      hdf5::check(H5Pset_virtual(dcpl, space, file.c_str(), source.c_str(), from), "H5Pset_virtual", tensor.name);
      at += n;
    });
  }
  hdf5::check(H5Sselect_all(space), "H5Sselect_all", tensor.name);
  const hdf5::Handle type = hdf5::file_type(array.dtype);
  const hdf5::Handle dataset(H5Dcreate2(group, tensor.name.c_str(), type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT), H5Dclose, "H5Dcreate", tensor.name);
}

// "/model" for weights, trained or frozen; "/adam_m" …
std::string group_of(const std::string& array) { return array == "weight" || array == "frozen" ? "model" : array; }

}  // namespace

std::string build_index_file(const CheckpointContent& content) {
  size_t tensors = 0;
  for (const StoredUnit& unit : content.units) tensors += unit.tensors.size();
  // Each mapping costs some hundred bytes: this is far more, and only address space.
  hdf5::MemoryFile memory((size_t{64} << 20) + tensors * static_cast<size_t>(content.world) * 8192);
  hdf5::Handle& file = memory.file();
  for (const StoredUnit& unit : content.units) {
    for (const StoredArray& array : unit.arrays) {
      const std::string name = "/" + group_of(array.name);
      const bool there = H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0;
      const hdf5::Handle group(there ? H5Gopen2(file, name.c_str(), H5P_DEFAULT) : H5Gcreate2(file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                               H5Gclose, "H5Gcreate", name);
      for (const StoredTensor& tensor : unit.tensors) {
        if (tensor.trained == array.trained) add_tensor(group, content, unit, array, tensor);
      }
    }
  }
  const size_t size = memory.finish();
  return std::string(memory.data(), size);
}

}  // namespace llmtrain
