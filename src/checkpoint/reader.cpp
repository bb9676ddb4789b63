#include "checkpoint/reader.h"

#include <algorithm>
#include <vector>

#include "checkpoint/hdf5_tools.h"
#include "core/error.h"

namespace llmtrain {

CheckpointReader::CheckpointReader(std::string folder, const Manifest& manifest) : folder_(std::move(folder)), world_(manifest.content.world) {
  hdf5::silence();
}

CheckpointReader::~CheckpointReader() {
  for (const auto& [rank, file] : files_) H5Fclose(file);
}

int64_t CheckpointReader::open_file(int rank) {
  const auto it = files_.find(rank);
  if (it != files_.end()) return it->second;
  if (files_.size() >= 16) {  // neighbouring ranges come from neighbouring files: a few open ones are enough
    H5Fclose(files_.begin()->second);
    files_.erase(files_.begin());
  }
  const std::string path = folder_ + "/" + shard_file_name(rank, world_);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) throw InputError(path, "this is not an HDF5 file that can be opened (" + hdf5::last_error() + ")");
  files_[rank] = file;
  return file;
}

namespace {

// Every link on the way must be a hard one: no soft or external link leads out of the file.
void refuse_links(hid_t file, const StoredUnit& unit, const std::string& array, const std::string& where) {
  for (const std::string& path : {std::string("/units"), "/units/" + unit.name, "/units/" + unit.name + "/" + array}) {
    H5L_info_t info;
    if (H5Lget_info(file, path.c_str(), &info, H5P_DEFAULT) < 0) throw InputError(where, path + " is missing");
    if (info.type != H5L_TYPE_HARD) throw InputError(where, path + " is a soft or external link, which is refused");
  }
  const std::string path = "/units/" + unit.name + "/" + array;
  const hdf5::Handle object(H5Oopen(file, path.c_str(), H5P_DEFAULT), H5Oclose, "H5Oopen", where);
  if (H5Iget_type(object) != H5I_DATASET) throw InputError(where, path + " is not an array");
}

void refuse_foreign_storage(hid_t dataset, const std::string& where) {
  const hdf5::Handle dcpl(H5Dget_create_plist(dataset), H5Pclose, "H5Dget_create_plist", where);
  if (H5Pget_external_count(dcpl) != 0) throw InputError(where, "the data lie in another file (external storage), which is refused");
  if (H5Pget_layout(dcpl) != H5D_CHUNKED) throw InputError(where, "unexpected storage layout (not in chunks), which is refused");
  const int filters = H5Pget_nfilters(dcpl);
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0, config = 0;
    size_t values = 0;
    if (H5Pget_filter2(dcpl, static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, &config) != H5Z_FILTER_FLETCHER32) {
      throw InputError(where, "a filter other than Fletcher-32, which is refused");
    }
  }
}

}  // namespace

void CheckpointReader::read(const StoredUnit& unit, const StoredArray& array, int64_t begin, int64_t count, void* out) {
  auto* to = static_cast<char*>(out);
  while (count > 0) {
    LLMTRAIN_ASSERT(array.shard_elements > 0 && begin < array.shard_elements * world_, "a range outside " + unit.name + "/" + array.name);
    const int rank = static_cast<int>(begin / array.shard_elements);
    const int64_t inside = begin % array.shard_elements, n = std::min(count, array.shard_elements - inside);
    const hid_t file = open_file(rank);
    const std::string path = "/units/" + unit.name + "/" + array.name, where = folder_ + "/" + shard_file_name(rank, world_) + ":" + path;
    refuse_links(file, unit, array.name, where);
    const hdf5::Handle dataset(H5Dopen2(file, path.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen", where);
    refuse_foreign_storage(dataset, where);
    const hdf5::Handle type(H5Dget_type(dataset), H5Tclose, "H5Dget_type", where), expected = hdf5::file_type(array.dtype);
    const hdf5::Handle space(H5Dget_space(dataset), H5Sclose, "H5Dget_space", where);
    if (H5Tequal(type, expected) <= 0) throw InputError(where, std::string("the elements are not ") + name_of(array.dtype));
    if (H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_npoints(space) != array.shard_elements) throw InputError(where, "unexpected size, not the manifest's " + std::to_string(array.shard_elements) + " elements");
    const hsize_t from = static_cast<hsize_t>(inside), size = static_cast<hsize_t>(n);
    hdf5::check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &from, nullptr, &size, nullptr), "H5Sselect_hyperslab", where);
    const hdf5::Handle memory(H5Screate_simple(1, &size, nullptr), H5Sclose, "H5Screate_simple", where);
    hdf5::check(H5Dread(dataset, expected, memory, space, H5P_DEFAULT, to), "H5Dread", where);
    to += static_cast<size_t>(n) * size_of(array.dtype);
    begin += n;
    count -= n;
  }
}

void CheckpointReader::read_tensor(const StoredUnit& unit, const StoredTensor& tensor, const StoredArray& array, int64_t begin, int64_t count, float* out) {
  LLMTRAIN_ASSERT(begin + count <= tensor.shape.elements(), "a range outside " + tensor.name);
  if (array.dtype == DType::float32) return read(unit, array, tensor.offset + begin, count, out);
  std::vector<char> raw(static_cast<size_t>(count) * size_of(array.dtype));
  read(unit, array, tensor.offset + begin, count, raw.data());
  convert_elements(raw.data(), array.dtype, out, DType::float32, static_cast<size_t>(count));
}

}  // namespace llmtrain
