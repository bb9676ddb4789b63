// From rows of the token store to the packed batches of the engine: labels from trained spans, positions and attention by the kind of packing, no padding.
// Thread rules: a RowSet is used by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/store.h"
#include "model/batch.h"

namespace llmtrain {

class RowSet {
 public:
  RowSet() = default;
  // `vocab_size`: rows of the model's embedding, which every id must have.
  RowSet(TokenStore store, int64_t vocab_size);

  int64_t size() const { return static_cast<int64_t>(store_.size()); }
  const TokenStore& store() const { return store_; }
  int64_t length(size_t row) const { return static_cast<int64_t>(store_.tokens(row)); }           // tokens
  int64_t labels(size_t row) const { return static_cast<int64_t>(store_.trained_tokens(row)); }   // not -100, before the shift

  // Appends rows; OperationError for an id outside the vocabulary (a store that was made for another model). The rope length becomes the longest row as LLaMA-Factory pads it, rounded up to a multiple of 8.
  void append(Batch& batch, std::span<const size_t> rows) const;

  // Bounds for any batch of so many rows, whatever the order.
  struct Bounds {
    int64_t tokens = 0;            // of the longest rows together
    int64_t longest_sequence = 0;  // tokens that attend to each other
    int64_t longest_row = 0;
  };
  Bounds bounds(int64_t batch_rows) const;

 private:
  bool separate() const;
  TokenStore store_;
  int64_t vocab_size_ = 0;
  mutable std::vector<int32_t> labels_, restarts_;  // of one row, reused
};

}  // namespace llmtrain
