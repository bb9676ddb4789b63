// CheckpointReader: ranges of the flat arrays of a verified checkpoint, whatever number of ranks wrote it. Reading at M ranks what N wrote is reading
// ranges.
//
// Digests must have been verified (manifest.h) before a reader is made: HDF5 only opens files whose every byte is known. Beyond that a file is refused
// when an object is not what this format writes (a link, external storage, an unknown filter, another type or size).
// Errors: InputError naming file and object. Thread rules: one thread (HDF5).
#pragma once

#include <map>
#include <string>

#include "checkpoint/manifest.h"

namespace llmtrain {

class CheckpointReader {
 public:
  CheckpointReader(std::string folder, const Manifest& manifest);
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  // Elements [begin, begin + count) of the whole flat array (all ranks' shards one after another), in the array's stored dtype.
  void read(const StoredUnit& unit, const StoredArray& array, int64_t begin, int64_t count, void* out);
  // The same of a tensor, as float32.
  void read_tensor(const StoredUnit& unit, const StoredTensor& tensor, const StoredArray& array, int64_t begin, int64_t count, float* out);

 private:
  int64_t open_file(int rank);
  std::string folder_;
  int world_;
  std::map<int, int64_t> files_;  // rank -> HDF5 file
};

}  // namespace llmtrain
