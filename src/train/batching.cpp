// Rows to batches; see batching.h.
#include "train/batching.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr uint64_t kPadMultiple = 8;  // LLaMA-Factory's collators pad a micro-batch to a multiple of this

}  // namespace

RowSet::RowSet(TokenStore store, int64_t vocab_size) : store_(std::move(store)), vocab_size_(vocab_size) {}

bool RowSet::separate() const { return store_.info().pack == PackKind::neat; }

void RowSet::append(Batch& batch, std::span<const size_t> rows) const {
  for (const size_t index : rows) {
    const RowView row = store_.row(index);
    for (const int32_t id : row.ids) {
      if (id < 0 || id >= vocab_size_)
        throw OperationError("row " + std::to_string(index + 1) + " of the token store has the id " + std::to_string(id) + ", and the model's embedding has " +
                             std::to_string(vocab_size_) + " rows: the store was made for another model");
    }
    labels_.assign(row.ids.size(), kIgnore);
    for (const Span& span : row.trained) std::copy(row.ids.begin() + span.begin, row.ids.begin() + span.end, labels_.begin() + span.begin);
    restarts_.assign(row.restarts.begin(), row.restarts.end());
    batch.add_row(row.ids, labels_, restarts_, separate());
    const auto padded = static_cast<int64_t>((store_.padded_tokens(index) + kPadMultiple - 1) / kPadMultiple * kPadMultiple);
    batch.rope_length = std::max(batch.rope_length, padded);
  }
}

RowSet::Bounds RowSet::bounds(int64_t batch_rows) const {
  Bounds bounds;
  std::vector<int64_t> lengths(store_.size());
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = static_cast<int64_t>(store_.tokens(i));
  const size_t most = std::min(lengths.size(), static_cast<size_t>(batch_rows));
  std::partial_sort(lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(most), lengths.end(), std::greater<>());
  bounds.tokens = std::accumulate(lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(most), int64_t{0});
  bounds.longest_row = lengths.empty() ? 0 : lengths.front();
  bounds.longest_sequence = bounds.longest_row;
  if (!separate()) return bounds;
  bounds.longest_sequence = 0;
  for (size_t i = 0; i < store_.size(); ++i) {
    const RowView row = store_.row(i);
    for (size_t s = 0; s < row.restarts.size(); ++s) {
      const size_t next = s + 1 < row.restarts.size() ? row.restarts[s + 1] : row.ids.size();
      bounds.longest_sequence = std::max(bounds.longest_sequence, static_cast<int64_t>(next - row.restarts[s]));
    }
  }
  return bounds;
}

}  // namespace llmtrain
