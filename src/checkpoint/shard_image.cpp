#include "checkpoint/shard_image.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
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

// The two sums over one run of words, without a carry from word to word, so that the compiler's vectors fit: each of 360 rounds takes 16 words, two to a 32-bit
// lane. `plain` adds the words of one place in the round and `sloped` adds `plain` at each round, which weighs round k by 360 - k (and stays below 2^32:
// 360 * 361 / 2 * 65535). The weight of word 16 k + place in HDF5's second sum is 5760 - 16 k - place = 16 (360 - k) - place. Of little-endian words:
// exchanging the bytes of every word is a multiplication by 256 modulo 65535, which value() makes up for.
#if defined(__x86_64__)
#define LLMTRAIN_CLONES __attribute__((target_clones("avx2", "default")))  // picked when the program is loaded
#else
#define LLMTRAIN_CLONES
#endif

struct RunSums {
  uint64_t first, second;
};
constexpr size_t kRounds = 360, kLanes = 8, kRunWords = kRounds * 2 * kLanes;

LLMTRAIN_CLONES RunSums sums_of_run(const unsigned char* p) {
  using Lanes = uint32_t __attribute__((vector_size(4 * kLanes)));
  Lanes plain[2] = {}, sloped[2] = {};
  for (size_t k = 0; k < kRounds; ++k, p += sizeof(Lanes)) {
    Lanes pairs;
    std::memcpy(&pairs, p, sizeof pairs);
    plain[0] += pairs & 0xffff;
    plain[1] += pairs >> 16;
    sloped[0] += plain[0];
    sloped[1] += plain[1];
  }
  RunSums s{0, 0};
  for (uint64_t place = 0; place < 2 * kLanes; ++place) {
    s.first += plain[place % 2][place / 2];
    s.second += 2 * kLanes * uint64_t{sloped[place % 2][place / 2]} - place * plain[place % 2][place / 2];
  }
  return s;
}

// Modulo 65535, where only a sum of nothing but zeros is 0 (others are 65535), as in HDF5.
uint64_t folded(uint64_t sum) {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

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

void Fletcher32::add(const void* data, size_t bytes) {
  static_assert(std::endian::native == std::endian::little);
  static_assert(kPiece == 2 * kRunWords);
  const auto* p = static_cast<const unsigned char*>(data);
  for (; bytes >= kPiece; bytes -= kPiece, p += kPiece) {
    const RunSums s = sums_of_run(p);
    second_ = folded(second_ + kRunWords * first_ + s.second);
    first_ = folded(first_ + s.first);
  }
  for (; bytes > 0; bytes -= std::min<size_t>(bytes, 2), p += 2) {
    first_ += p[0] + (bytes > 1 ? uint64_t{p[1]} << 8 : 0);
    second_ += first_;
  }
  first_ = folded(first_);
  second_ = folded(second_);
}

uint32_t Fletcher32::value() const { return static_cast<uint32_t>(folded(second_ << 8) << 16 | folded(first_ << 8)); }

uint32_t hdf5_fletcher32(const void* data, size_t bytes) {
  Fletcher32 sum;
  sum.add(data, bytes);
  return sum.value();
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

// Sums the chunks as the write goes along. up_to() sums what lies before `end` (and up to a piece beyond) and puts the checksums that begin there in their places.
class ShardImage::Summing {
 public:
  Summing(char* region, const std::vector<Chunk>& chunks) : region_(region), chunks_(chunks) {}
  bool has_checksum_before(uint64_t end) const { return next_ < chunks_.size() && chunks_[next_].address + chunks_[next_].bytes < end; }
  void up_to(uint64_t end) {
    while (next_ < chunks_.size() && chunks_[next_].address + done_ < end) {
      const Chunk& c = chunks_[next_];
      const uint64_t inside = std::min<uint64_t>(end - c.address - done_, c.bytes - done_);
      const size_t n = std::min<size_t>((inside + Fletcher32::kPiece - 1) / Fletcher32::kPiece * Fletcher32::kPiece, c.bytes - done_);
      sum_.add(region_ + c.address + done_, n);
      done_ += n;
      if (done_ < c.bytes) continue;
      const uint32_t value = sum_.value();
      std::memcpy(region_ + c.address + c.bytes, &value, sizeof value);
      sum_ = {};
      done_ = 0;
      ++next_;
    }
  }

 private:
  char* region_;
  const std::vector<Chunk>& chunks_;
  size_t next_ = 0, done_ = 0;  // the chunk, and how many of its bytes are summed
  Fletcher32 sum_;
};

// In blocks that stay in a core's own cache: the copy by write() brings them there, and sums and digest find them there (a block in which a checksum begins
// is summed first). The disk is told to begin with every few MiB at once.
ShardImage::Written ShardImage::write(const std::string& path) {
  using Clock = std::chrono::steady_clock;
  File file = File::create(path);
  Digest digest;
  Summing summing(region_, chunks_);
  Clock::duration digesting{};
  constexpr size_t kBlock = size_t{256} << 10, kAtOnce = size_t{8} << 20;
  for (size_t at = 0; at < size_;) {
    const size_t n = std::min(kBlock, size_ - at);
    auto begin = Clock::now();
    if (summing.has_checksum_before(at + n)) summing.up_to(at + n);
    digesting += Clock::now() - begin;
    file.write_at(region_ + at, n, at);
    begin = Clock::now();
    summing.up_to(at + n);
    digest.add(region_ + at, n);
    digesting += Clock::now() - begin;
    at += n;
    if (at % kAtOnce == 0 || at == size_) {  // a hint: fsync below says how it went
      const size_t begun = (at - 1) / kAtOnce * kAtOnce;
      ::sync_file_range(file.fd(), static_cast<off64_t>(begun), static_cast<off64_t>(at - begun), SYNC_FILE_RANGE_WRITE);
    }
  }
  file.sync();
  if (file.size() != size_) throw OperationError("write " + path + ": the file has " + std::to_string(file.size()) + " bytes, " + std::to_string(size_) + " were written");
  file.close();
  return {digest.hex(), std::chrono::duration<double>(digesting).count()};
}

}  // namespace llmtrain
