// ShardImage: the bytes of one rank's HDF5 file, laid out once and filled again at each save.
//
// The structure of a shard file never changes during a run, so HDF5 makes it once, in memory (core driver, chunks allocated early). From then on a
// save copies each array into its chunks, adds each chunk's Fletcher-32 and writes the image with our own checked pwrite and fsync: no HDF5 call,
// no HDF5 error path, while training runs. The image is also the snapshot that an asynchronous save writes from.
//
// In the file: /units/<unit>/<array>, one-dimensional, this rank's shard_elements. Little-endian; bfloat16 as a 16-bit floating-point type that
// h5py reads as float32.
//
// Errors: OperationError naming the HDF5 call. Thread rules: one thread at a time; HDF5 (not thread-safe) is only used in the constructor.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/content.h"
#include "checkpoint/digest.h"
#include "checkpoint/hdf5_tools.h"

namespace llmtrain {

class ShardImage {
 public:
  explicit ShardImage(const CheckpointContent& content);
  ShardImage(const ShardImage&) = delete;
  ShardImage& operator=(const ShardImage&) = delete;

  // Bytes of the file, which are also the bytes of memory taken. An upper bound without building: planned_bytes().
  size_t bytes() const { return size_; }
  static size_t planned_bytes(const CheckpointContent& content);
  // Elements of each chunk of an array of which a shard holds so many (the last one may be filled in part).
  static int64_t chunk_elements(int64_t shard_elements);

  // Copies elements [begin, begin + count) of the array into their chunks.
  void put(int unit, const std::string& array, int64_t begin, int64_t count, const void* data);
  // Where the bytes of the array belong: visit(address, first element, bytes) for each of its chunks; the last one only as far as elements go.
  void each_chunk(int unit, const std::string& array, const std::function<void(void* to, int64_t begin, size_t bytes)>& visit);
  struct Written {
    std::string digest;    // of all bytes of the file
    double digest_seconds;  // that checksums and digest took
  };
  // Adds the checksums, writes, fsyncs and checks the size. OperationError with path and errno.
  Written write(const std::string& path);

 private:
  struct Placed {  // one array: where its chunks lie in the image
    int unit;
    std::string array;
    size_t element_bytes;
    int64_t elements, chunk_elements;
    std::vector<uint64_t> addresses;
  };
  struct Chunk {  // with its checksum behind it
    uint64_t address;
    size_t bytes;
  };
  class Summing;
  void place_chunks(const CheckpointContent& content, int64_t file);
  const Placed& find(int unit, const std::string& array) const;

  hdf5::MemoryFile memory_;
  char* region_ = nullptr;  // its bytes
  size_t size_ = 0;
  std::vector<Placed> placed_;
  std::vector<Chunk> chunks_;  // of all arrays, as they follow each other in the file
};

// HDF5's own checksum of a chunk (H5Z_FILTER_FLETCHER32), as it stores it behind the data: two sums of 16-bit big-endian words modulo 65535 (an odd last
// byte counts as a high byte). Taken in pieces: all but the last are multiples of kPiece bytes.
class Fletcher32 {
 public:
  static constexpr size_t kPiece = 11520;
  void add(const void* data, size_t bytes);
  uint32_t value() const;

 private:
  uint64_t first_ = 0, second_ = 0;
};
uint32_t hdf5_fletcher32(const void* data, size_t bytes);

}  // namespace llmtrain
