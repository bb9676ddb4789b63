// A packed micro-batch in host memory: what the engine consumes. There is no padding: rows follow each other, attention is kept apart by cu_seqlens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace llmtrain {

inline constexpr int32_t kIgnore = -100;

struct Batch {
  std::vector<int32_t> tokens;      // [T]
  std::vector<int32_t> targets;     // [T]: the label of the NEXT token of the same row (already shifted), kIgnore where nothing is predicted
  std::vector<int32_t> positions;   // [T]: restart with each sample
  std::vector<int32_t> cu_seqlens;  // [S + 1]: tokens [cu[i], cu[i+1]) attend to each other
  int32_t longest = 0;              // longest of these sequences
  // Length by which longrope and dynamic rope choose their factors: the longest row, as padded by the reference implementation
  // (0: by the largest position + 1).
  int64_t rope_length = 0;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  void clear() {
    tokens.clear();
    targets.clear();
    positions.clear();
    cu_seqlens.assign(1, 0);
    longest = 0;
    rope_length = 0;
  }
  // Appends one row. labels[i] belongs to ids[i] (not shifted). restarts: indices where a new position count begins (0 is implied);
  // separate: each restart also begins an attention sequence of its own (neat packing, or plain rows), else the row is one sequence.
  void add_row(std::span<const int32_t> ids, std::span<const int32_t> labels, std::span<const int32_t> restarts, bool separate) {
    if (cu_seqlens.empty()) cu_seqlens.push_back(0);
    const auto n = static_cast<int32_t>(ids.size());
    if (n == 0) return;
    int32_t position = 0;
    size_t next = 0;
    for (int32_t i = 0; i < n; ++i) {
      while (next < restarts.size() && restarts[next] < i) ++next;
      const bool restart = i == 0 || (next < restarts.size() && restarts[next] == i);
      if (restart) {
        position = 0;
        if (i > 0 && separate) close_sequence();
      }
      tokens.push_back(ids[static_cast<size_t>(i)]);
      targets.push_back(i + 1 < n ? labels[static_cast<size_t>(i) + 1] : kIgnore);
      positions.push_back(position++);
    }
    close_sequence();
  }

 private:
  void close_sequence() {
    const auto end = static_cast<int32_t>(tokens.size());
    longest = std::max(longest, end - cu_seqlens.back());
    cu_seqlens.push_back(end);
  }
};

}  // namespace llmtrain
