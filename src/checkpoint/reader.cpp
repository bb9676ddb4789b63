#include "checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "checkpoint/hdf5_tools.h"
#include "checkpoint/shard_image.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {

struct CheckpointReader::Shard {
  std::string path;
  hdf5::Handle hdf5;
  File file;
  std::map<std::string, Chunks> arrays;  // "unit/array"
};

CheckpointReader::CheckpointReader(std::string folder, const Manifest& manifest) : folder_(std::move(folder)), manifest_(manifest), world_(manifest.content.world) {
  hdf5::silence();
}

CheckpointReader::~CheckpointReader() = default;

CheckpointReader::Shard& CheckpointReader::open_shard(int rank) {
  std::unique_ptr<Shard>& shard = shards_[rank];
  if (shard) return *shard;
  if (shards_.size() > 16) {  // neighbouring ranges come from neighbouring files: a few open ones are enough
    auto oldest = shards_.begin();
    if (oldest->first == rank) ++oldest;
    shards_.erase(oldest);
    for (Kept& k : kept_) k.of = nullptr;
  }
  auto opened = std::make_unique<Shard>();
  opened->path = folder_ + "/" + shard_file_name(rank, world_);
  opened->file = File::open_for_reading(opened->path);
  const hid_t id = H5Fopen(opened->path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  if (id < 0) throw InputError(opened->path, "this is not an HDF5 file that can be opened (" + hdf5::last_error() + ")");
  opened->hdf5 = hdf5::Handle(id, H5Fclose, "H5Fopen", opened->path);
  shard = std::move(opened);
  return *shard;
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

void refuse_foreign_storage(hid_t dcpl, const std::string& where) {
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

// Chunks of the size this format gives them, all there, each with its checksum.
void refuse_other_chunks(hid_t dcpl, hid_t dataset, hid_t space, int64_t elements, int64_t chunk, const std::string& where) {
  hsize_t stored = 0, there = 0;
  if (H5Pget_nfilters(dcpl) != 1 || H5Pget_chunk(dcpl, 1, &stored) != 1 || stored != static_cast<hsize_t>(chunk)) {
    throw InputError(where, "unexpected chunks (of " + std::to_string(stored) + " elements, not of " + std::to_string(chunk) + " with a checksum), which is refused");
  }
  hdf5::check(H5Dget_num_chunks(dataset, space, &there), "H5Dget_num_chunks", where);
  if (there != static_cast<hsize_t>((elements + chunk - 1) / chunk)) throw InputError(where, "some of its chunks are missing");
}

constexpr size_t kSumBytes = sizeof(uint32_t);

// One chunk with its checksum from the file.
void read_chunk(const File& file, uint64_t address, size_t bytes, void* to, const std::string& where) {
  uint32_t sum = 0;
  file.read_at(to, bytes, address);
  file.read_at(&sum, sizeof sum, address + bytes);
  if (hdf5_fletcher32(to, bytes) != sum) throw OperationError(where + ": a chunk is damaged: its checksum is wrong, though the file's digest was right before");
}

}  // namespace

const CheckpointReader::Chunks& CheckpointReader::chunks_of(Shard& shard, const StoredUnit& unit, const StoredArray& array) {
  const auto known = shard.arrays.find(unit.name + "/" + array.name);
  if (known != shard.arrays.end()) return known->second;
  const std::string path = "/units/" + unit.name + "/" + array.name, where = shard.path + ":" + path;
  refuse_links(shard.hdf5, unit, array.name, where);
  const hdf5::Handle dataset(H5Dopen2(shard.hdf5, path.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen", where);
  const hdf5::Handle dcpl(H5Dget_create_plist(dataset), H5Pclose, "H5Dget_create_plist", where);
  refuse_foreign_storage(dcpl, where);
  const hdf5::Handle type(H5Dget_type(dataset), H5Tclose, "H5Dget_type", where), expected = hdf5::file_type(array.dtype);
  const hdf5::Handle space(H5Dget_space(dataset), H5Sclose, "H5Dget_space", where);
  if (H5Tequal(type, expected) <= 0) throw InputError(where, std::string("the elements are not ") + name_of(array.dtype));
  if (H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_npoints(space) != array.shard_elements) {
    throw InputError(where, "unexpected size, not the manifest's " + std::to_string(array.shard_elements) + " elements");
  }
  Chunks chunks;
  chunks.elements = ShardImage::chunk_elements(array.shard_elements);
  chunks.bytes = static_cast<size_t>(chunks.elements) * size_of(array.dtype);
  refuse_other_chunks(dcpl, dataset, space, array.shard_elements, chunks.elements, where);
  const uint64_t file_bytes = shard.file.size(), stored = chunks.bytes + kSumBytes;
  for (int64_t begin = 0; begin < array.shard_elements; begin += chunks.elements) {
    const auto [address, bytes, mask] = hdf5::chunk_at(dataset, begin, where);
    if (address == HADDR_UNDEF || mask != 0 || bytes != stored || stored > file_bytes || address > file_bytes - stored) {
      throw InputError(where, "the chunk at element " + std::to_string(begin) + " is not what this format writes, which is refused");
    }
    chunks.addresses.push_back(address);
  }
  return shard.arrays.emplace(unit.name + "/" + array.name, std::move(chunks)).first->second;
}

void CheckpointReader::check() {
  for (int rank = 0; rank < world_; ++rank) {
    Shard& shard = open_shard(rank);
    for (const StoredUnit& unit : manifest_.content.units) {
      for (const StoredArray& array : unit.arrays) {
        if (array.shard_elements > 0) chunks_of(shard, unit, array);
      }
    }
  }
}

const char* CheckpointReader::keep(const Shard& shard, const Chunks& chunks, size_t number, const std::string& where) {
  for (const Kept& k : kept_) {
    if (k.of == &chunks && k.number == number) return k.bytes.data();
  }
  Kept& k = kept_[next_kept_];
  next_kept_ = (next_kept_ + 1) % kept_.size();
  k.of = nullptr;  // until it is whole
  k.bytes.resize(chunks.bytes);
  read_chunk(shard.file, chunks.addresses[number], chunks.bytes, k.bytes.data(), where);
  k.of = &chunks;
  k.number = number;
  return k.bytes.data();
}

void CheckpointReader::read(const StoredUnit& unit, const StoredArray& array, int64_t begin, int64_t count, void* out) {
  auto* to = static_cast<char*>(out);
  const size_t element = size_of(array.dtype);
  while (count > 0) {
    LLMTRAIN_ASSERT(array.shard_elements > 0 && begin < array.shard_elements * world_, "a range outside " + unit.name + "/" + array.name);
    Shard& shard = open_shard(static_cast<int>(begin / array.shard_elements));
    const std::string where = shard.path + ":/units/" + unit.name + "/" + array.name;
    const Chunks& chunks = chunks_of(shard, unit, array);
    const int64_t inside = begin % array.shard_elements, first = inside % chunks.elements;
    const size_t number = static_cast<size_t>(inside / chunks.elements);
    const int64_t n = std::min({count, array.shard_elements - inside, chunks.elements - first});
    if (n == chunks.elements) {
      read_chunk(shard.file, chunks.addresses[number], chunks.bytes, to, where);
    } else {
      std::memcpy(to, keep(shard, chunks, number, where) + static_cast<size_t>(first) * element, static_cast<size_t>(n) * element);
    }
    to += static_cast<size_t>(n) * element;
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
