// SequenceMap: the packed sequences of a micro-batch on the device: where each begins, and which tiles of 64 tokens they are cut into.
//
// All layers of a micro-batch ask for the same sequences: what was uploaded last is kept and recognised.
// Thread rules: as Kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "device/device.h"
#include "kernels/kernels.h"
#include "kernels/workspace.h"

namespace llmtrain::cuda {

// A sequence is cut into tiles of kSequenceTile tokens, the last one shorter. Tiles never cross sequences.
inline constexpr int kSequenceTile = 64;

struct SequenceTile {
  int32_t begin, end;       // tokens of the whole sequence [begin, end)
  int32_t first;            // first token of the tile
  int32_t sequence;         // its number
};

struct SequenceMap {
  const int32_t* cu_seqlens = nullptr;   // device [count + 1]
  const SequenceTile* tiles = nullptr;   // device [tile_count], longest rest of a sequence first within each: tiles of one sequence in order
  int count = 0;
  int tile_count = 0;
  int32_t longest = 0;
  Sequences host;                        // as given; valid during the call
};

class SequenceMaps {
 public:
  explicit SequenceMaps(Device& device) : device_(device), memory_(device) {}
  // Bytes for batches of up to `tokens` tokens (each sequence has at least one).
  static size_t planned_bytes(int64_t tokens);
  void adopt(void* block, size_t bytes) { memory_.adopt(block, bytes); uploaded_.clear(); }
  SequenceMap get(Stream& stream, Sequences sequences);
  // The cut into tiles, on the host (also for tests).
  static std::vector<SequenceTile> tiles_of(Sequences sequences);

 private:
  Device& device_;
  Workspace memory_;
  std::vector<int32_t> uploaded_;
  SequenceMap map_;
};

}  // namespace llmtrain::cuda
