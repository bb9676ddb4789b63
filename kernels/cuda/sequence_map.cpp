#include "kernels/cuda/sequence_map.h"

#include <algorithm>

namespace llmtrain::cuda {

// Sequences of one token each make as many tiles as tokens; empty sequences make none.
size_t SequenceMaps::planned_bytes(int64_t tokens) {
  const auto n = static_cast<size_t>(tokens);
  return padded((n + 2) * sizeof(int32_t)) + padded((n + 1) * sizeof(SequenceTile));
}

std::vector<SequenceTile> SequenceMaps::tiles_of(Sequences sequences) {
  std::vector<SequenceTile> tiles;
  const auto& ends = sequences.cu_seqlens;
  for (size_t i = 0; i + 1 < ends.size(); ++i)
    for (int32_t first = ends[i]; first < ends[i + 1]; first += kSequenceTile) tiles.push_back({ends[i], ends[i + 1], first, static_cast<int32_t>(i)});
  return tiles;
}

SequenceMap SequenceMaps::get(Stream& stream, Sequences sequences) {
  const auto& ends = sequences.cu_seqlens;
  const bool known = uploaded_.size() == ends.size() && std::equal(ends.begin(), ends.end(), uploaded_.begin());
  if (!known) {
    const std::vector<SequenceTile> tiles = tiles_of(sequences);
    const size_t head = padded(ends.size() * sizeof(int32_t)), bytes = head + padded(tiles.size() * sizeof(SequenceTile));
    char* memory = memory_.get(bytes);
    device_.copy_to_device(stream, memory, ends.data(), ends.size() * sizeof(int32_t));
    device_.copy_to_device(stream, memory + head, tiles.data(), tiles.size() * sizeof(SequenceTile));
    map_ = {};
    map_.cu_seqlens = reinterpret_cast<const int32_t*>(memory);
    map_.tiles = reinterpret_cast<const SequenceTile*>(memory + head);
    map_.count = static_cast<int>(ends.size()) - 1;
    map_.tile_count = static_cast<int>(tiles.size());
    uploaded_.assign(ends.begin(), ends.end());
  }
  map_.longest = sequences.longest;
  map_.host = sequences;
  return map_;
}

}  // namespace llmtrain::cuda
