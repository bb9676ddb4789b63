// Which rows each rank takes in each micro-step: a pure function of (seed, epoch, global position).
//
// An epoch is a sequence of all rows, each once: in order, or shuffled. Shuffled it is torch.randperm of a generator seeded with seed + epoch, the order that
// transformers' Trainer takes (accelerate's SeedableRandomSampler), up to 2^24 rows; beyond, where such a list would take too much of every rank's memory, a
// permutation that is a function (permutation.h). It is dealt out in the order optimizer step, micro-step, rank, row: round k
// (a micro-step of all ranks) takes per_device_batch * world rows, rank 0 the first per_device_batch of them. Where the last round is short, rank 0
// is filled first; a rank left without rows gets an empty list and still takes part in every collective. No row is used twice in an epoch. The
// sequence does not depend on the world: the same global batch holds the same rows whatever number of ranks shares it.
// May be used from many threads; the order of the epoch that was asked for last is kept, and shared by copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace llmtrain {

class Sampler {
 public:
  // rows >= 0; per_device_batch, accumulation, world >= 1. drop_last: rows at the end of an epoch that do not fill a round are left out of it.
  Sampler(uint64_t rows, int64_t per_device_batch, int64_t accumulation, int world, uint64_t seed, bool shuffle, bool drop_last = false);

  uint64_t rows() const { return rows_; }
  uint64_t rounds() const;                            // of an epoch: ceil(rows / (per_device_batch * world)); floor under drop_last
  uint64_t steps_per_epoch() const;                   // ceil(rounds / accumulation)
  int64_t micro_steps(uint64_t step) const;           // of the step within its epoch: accumulation, fewer in the last, 0 beyond the epoch
  // Row ids of one micro-step of one rank; may be empty.
  std::vector<size_t> rows_of(uint64_t epoch, uint64_t step, int64_t micro_step, int rank) const;
  // Row ids of all ranks and micro-steps of a step, in order.
  std::vector<size_t> rows_of_step(uint64_t epoch, uint64_t step) const;
  // The row at a position of an epoch's sequence.
  size_t row_at(uint64_t epoch, uint64_t position) const;

  static constexpr uint64_t kMostListed = uint64_t{1} << 24;

 private:
  struct Listed;
  std::vector<size_t> range(uint64_t epoch, uint64_t begin, uint64_t end) const;
  std::shared_ptr<const std::vector<uint32_t>> list_of(uint64_t epoch) const;
  uint64_t rows_, batch_, accumulation_, world_, seed_;
  bool shuffle_, drop_last_;
  std::shared_ptr<Listed> listed_;  // null: nothing is listed
};

}  // namespace llmtrain
