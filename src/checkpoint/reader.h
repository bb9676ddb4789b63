// CheckpointReader: ranges of the flat arrays of a verified checkpoint, whatever number of ranks wrote it. Reading at M ranks what N wrote is reading
// ranges.
//
// Digests must have been verified (manifest.h) before a reader is made: HDF5 only opens files whose every byte is known. Beyond that a file is refused
// when an object is not what this format writes (a link, external storage, an unknown filter, another type, size or chunk).
//
// HDF5 says where the chunks of an array lie; the reader takes them from there itself, straight to where they are wanted, and compares each chunk's
// Fletcher-32. HDF5's own way through its chunk cache took three times as long.
//
// Errors: InputError naming file and object; OperationError where a chunk no longer is what the digest vouched for. Thread rules: one thread (HDF5).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace llmtrain {

class CheckpointReader {
 public:
  CheckpointReader(std::string folder, const Manifest& manifest);  // `manifest` must outlive it
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  // Looks at every array of every shard as read() would, without reading its elements. InputError as above. A reader of its own: it opens each shard once.
  void check();
  // Elements [begin, begin + count) of the whole flat array (all ranks' shards one after another), in the array's stored dtype.
  void read(const StoredUnit& unit, const StoredArray& array, int64_t begin, int64_t count, void* out);
  // The same of a tensor, as float32.
  void read_tensor(const StoredUnit& unit, const StoredTensor& tensor, const StoredArray& array, int64_t begin, int64_t count, float* out);

 private:
  struct Shard;
  struct Chunks {  // where one array of one shard lies
    int64_t elements = 0;  // of a chunk
    size_t bytes = 0;      // of a chunk, without its checksum
    std::vector<uint64_t> addresses;
  };
  struct Kept {  // a chunk of which only a part was wanted: the next range often begins in it
    const Chunks* of = nullptr;
    size_t number = 0;
    std::vector<char> bytes;
  };
  Shard& open_shard(int rank);
  const Chunks& chunks_of(Shard& shard, const StoredUnit& unit, const StoredArray& array);
  const char* keep(const Shard& shard, const Chunks& chunks, size_t number, const std::string& where);

  std::string folder_;
  const Manifest& manifest_;
  int world_;
  std::map<int, std::unique_ptr<Shard>> shards_;  // by rank
  std::array<Kept, 4> kept_;
  size_t next_kept_ = 0;
};

}  // namespace llmtrain
