#include "checkpoint/shard_image.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "checkpoint/hdf5_tools.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

constexpr int64_t kMostChunkElements = int64_t{1} << 20;

hdf5::Handle create_array(hid_t group, const StoredArray& array) {
  const hsize_t elements = static_cast<hsize_t>(array.shard_elements), chunk = static_cast<hsize_t>(ShardImage::chunk_elements(array.shard_elements));
  const hdf5::Handle space(H5Screate_simple(1, &elements, nullptr), H5Sclose, "H5Screate_simple", array.name);
  const hdf5::Handle type = hdf5::file_type(array.dtype);
  const hdf5::Handle dcpl(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate", "dataset creation");
  hdf5::check(H5Pset_chunk(dcpl, 1, &chunk), "H5Pset_chunk", array.name);
  hdf5::check(H5Pset_fletcher32(dcpl), "H5Pset_fletcher32", array.name);
  hdf5::check(H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time", array.name);
  hdf5::check(H5Pset_fill_time(dcpl, H5D_FILL_TIME_ALLOC), "H5Pset_fill_time", array.name);
  return hdf5::Handle(H5Dcreate2(group, array.name.c_str(), type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT), H5Dclose, "H5Dcreate", array.name);
}

}  // namespace

namespace {

// The two sums over one run of 360 words, without a carry from word to word, so that the compiler's vectors fit: lane l takes the words l, l + 8, …,
// `plain` adds them and `sloped` adds `plain` at each of the 45 rounds, which weighs round k by 45 - k. The weight of word 8 k + l in HDF5's second sum is
// 360 - 8 k - l = 8 (45 - k) - l. All modulo 2^32, as there.
#if defined(__x86_64__)
#define LLMTRAIN_CLONES __attribute__((target_clones("avx2", "default")))  // picked when the program is loaded
#else
#define LLMTRAIN_CLONES
#endif

struct RunSums {
  uint32_t first, second;
};
constexpr size_t kRunWords = 360, kLanes = 8;

LLMTRAIN_CLONES RunSums sums_of_run(const unsigned char* p) {
  using Words = uint16_t __attribute__((vector_size(2 * kLanes)));
  using Lanes = uint32_t __attribute__((vector_size(4 * kLanes)));
  Lanes plain{}, sloped{};
  for (size_t k = 0; k < kRunWords / kLanes; ++k, p += 2 * kLanes) {
    Words w;
    std::memcpy(&w, p, sizeof w);
    w = static_cast<Words>(w << 8) | static_cast<Words>(w >> 8);  // big-endian words on a little-endian machine
    plain += __builtin_convertvector(w, Lanes);
    sloped += plain;
  }
  RunSums s{0, 0};
  for (uint32_t l = 0; l < kLanes; ++l) {
    s.first += plain[l];
    s.second += kLanes * sloped[l] - l * plain[l];
  }
  return s;
}

uint32_t folded(uint32_t sum) { return (sum & 0xffff) + (sum >> 16); }

// memcpy for what is not read again soon: written past the caches, a line is not fetched from memory before it is overwritten, which saves a third of the
// traffic. The C library's does so only from a size on that a chunk does not reach.
void copy_past_caches(void* to, const void* from, size_t bytes) {
#if defined(__x86_64__)
  auto* d = static_cast<char*>(to);
  const auto* s = static_cast<const char*>(from);
  constexpr size_t kLine = 64;
  const size_t head = std::min(bytes, (kLine - reinterpret_cast<uintptr_t>(d) % kLine) % kLine);
  std::memcpy(d, s, head);
  d += head;
  s += head;
  bytes -= head;
  for (; bytes >= kLine; bytes -= kLine, d += kLine, s += kLine) {
    const auto* quarter = reinterpret_cast<const __m128i*>(s);
    const __m128i a = _mm_loadu_si128(quarter), b = _mm_loadu_si128(quarter + 1), c = _mm_loadu_si128(quarter + 2), e = _mm_loadu_si128(quarter + 3);
    auto* line = reinterpret_cast<__m128i*>(d);
    _mm_stream_si128(line, a);
    _mm_stream_si128(line + 1, b);
    _mm_stream_si128(line + 2, c);
    _mm_stream_si128(line + 3, e);
  }
  _mm_sfence();  // before the I/O thread is told
  to = d;
  from = s;
#endif
  std::memcpy(to, from, bytes);
}

}  // namespace

// Sums of 16-bit big-endian words, folded every 360 words, as HDF5 defines its checksum (an odd last byte counts as a high byte).
uint32_t hdf5_fletcher32(const void* data, size_t bytes) {
  static_assert(std::endian::native == std::endian::little);
  const auto* p = static_cast<const unsigned char*>(data);
  uint32_t sum1 = 0, sum2 = 0;
  size_t words = bytes / 2;
  for (; words >= kRunWords; words -= kRunWords, p += 2 * kRunWords) {
    const RunSums s = sums_of_run(p);
    sum2 = folded(sum2 + kRunWords * sum1 + s.second);
    sum1 = folded(sum1 + s.first);
  }
  if (words > 0) {
    for (; words > 0; --words, p += 2) {
      sum1 += static_cast<uint32_t>(p[0]) << 8 | p[1];
      sum2 += sum1;
    }
    sum1 = folded(sum1);
    sum2 = folded(sum2);
  }
  if (bytes % 2) {
    sum1 += static_cast<uint32_t>(*p) << 8;
    sum2 = folded(sum2 + sum1);
    sum1 = folded(sum1);
  }
  return folded(sum2) << 16 | folded(sum1);
}

// Equal chunks of at most kMostChunkElements, so that the last one wastes less than one element per chunk.
int64_t ShardImage::chunk_elements(int64_t shard_elements) {
  const int64_t chunks = std::max<int64_t>((shard_elements + kMostChunkElements - 1) / kMostChunkElements, 1);
  return std::max<int64_t>((shard_elements + chunks - 1) / chunks, 1);
}

size_t ShardImage::planned_bytes(const CheckpointContent& content) {
  size_t total = size_t{1} << 20;
  for (const StoredUnit& u : content.units) {
    total += 16384;
    for (const StoredArray& a : u.arrays) {
      const int64_t chunk = ShardImage::chunk_elements(a.shard_elements), chunks = (a.shard_elements + chunk - 1) / chunk;
      total += static_cast<size_t>(chunks) * (static_cast<size_t>(chunk) * size_of(a.dtype) + 64) + 16384;
    }
  }
  return total;
}

ShardImage::ShardImage(const CheckpointContent& content) : memory_(2 * planned_bytes(content)) {
  hdf5::Handle& file = memory_.file();
  {
    const hdf5::Handle units(H5Gcreate2(file, "units", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose, "H5Gcreate", "units");
    for (const StoredUnit& u : content.units) {
      const hdf5::Handle group(H5Gcreate2(units, u.name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose, "H5Gcreate", u.name);
      for (const StoredArray& a : u.arrays) {
        if (a.shard_elements > 0) create_array(group, a);
      }
    }
  }
  hdf5::check(H5Fflush(file, H5F_SCOPE_GLOBAL), "H5Fflush", "shard in memory");
  place_chunks(content, file);
  size_ = memory_.finish();
  region_ = memory_.data();
}

void ShardImage::place_chunks(const CheckpointContent& content, int64_t file) {
  for (int u = 0; u < static_cast<int>(content.units.size()); ++u) {
    const StoredUnit& unit = content.units[static_cast<size_t>(u)];
    for (const StoredArray& a : unit.arrays) {
      if (a.shard_elements == 0) continue;
      const std::string path = "/units/" + unit.name + "/" + a.name;
      const hdf5::Handle dataset(H5Dopen2(file, path.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen", path);
      Placed placed{u, a.name, size_of(a.dtype), a.shard_elements, ShardImage::chunk_elements(a.shard_elements), {}};
      for (int64_t begin = 0; begin < a.shard_elements; begin += placed.chunk_elements) {
        const auto [address, bytes, mask] = hdf5::chunk_at(dataset, begin, path);
        LLMTRAIN_ASSERT(address != HADDR_UNDEF && mask == 0 && bytes == static_cast<hsize_t>(placed.chunk_elements) * placed.element_bytes + 4,
                        "a chunk of " + path + " is not where and as it was asked for");
        placed.addresses.push_back(address);
        chunks_.push_back({address, static_cast<size_t>(placed.chunk_elements) * placed.element_bytes});
      }
      placed_.push_back(std::move(placed));
    }
  }
  std::sort(chunks_.begin(), chunks_.end(), [](const Chunk& a, const Chunk& b) { return a.address < b.address; });
}

const ShardImage::Placed& ShardImage::find(int unit, const std::string& array) const {
  for (const Placed& p : placed_) {
    if (p.unit == unit && p.array == array) return p;
  }
  LLMTRAIN_ASSERT(false, "no array " + array + " in unit " + std::to_string(unit));
}

void ShardImage::each_chunk(int unit, const std::string& array, const std::function<void(void*, int64_t, size_t)>& visit) {
  const Placed& p = find(unit, array);
  for (size_t c = 0; c < p.addresses.size(); ++c) {
    const int64_t begin = static_cast<int64_t>(c) * p.chunk_elements, n = std::min(p.chunk_elements, p.elements - begin);
    visit(region_ + p.addresses[c], begin, static_cast<size_t>(n) * p.element_bytes);
  }
}

void ShardImage::put(int unit, const std::string& array, int64_t begin, int64_t count, const void* data) {
  const Placed& p = find(unit, array);
  const auto* from = static_cast<const char*>(data);
  while (count > 0) {
    const int64_t chunk = begin / p.chunk_elements, inside = begin % p.chunk_elements, n = std::min(count, p.chunk_elements - inside);
    const size_t bytes = static_cast<size_t>(n) * p.element_bytes;
    copy_past_caches(region_ + p.addresses.at(static_cast<size_t>(chunk)) + static_cast<size_t>(inside) * p.element_bytes, from, bytes);
    from += bytes;
    begin += n;
    count -= n;
  }
}

// Block by block, so that what is summed is still in a cache when it is written and digested; the disk is told to begin with each block at once.
std::string ShardImage::write(const std::string& path) {
  File file = File::create(path);
  Digest digest;
  constexpr size_t kBlock = size_t{8} << 20;
  size_t next = 0;
  for (size_t at = 0; at < size_; at += kBlock) {
    const size_t n = std::min(kBlock, size_ - at);
    for (; next < chunks_.size() && chunks_[next].address + chunks_[next].bytes < at + n; ++next) {  // whose checksum begins in this block
      const Chunk& c = chunks_[next];
      const uint32_t sum = hdf5_fletcher32(region_ + c.address, c.bytes);
      std::memcpy(region_ + c.address + c.bytes, &sum, sizeof sum);
    }
    file.write_at(region_ + at, n, at);
    digest.add(region_ + at, n);
    ::sync_file_range(file.fd(), static_cast<off64_t>(at), static_cast<off64_t>(n), SYNC_FILE_RANGE_WRITE);  // a hint: fsync below says how it went
  }
  file.sync();
  if (file.size() != size_) throw OperationError("write " + path + ": the file has " + std::to_string(file.size()) + " bytes, " + std::to_string(size_) + " were written");
  file.close();
  return digest.hex();
}

}  // namespace llmtrain
