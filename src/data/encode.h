// From messages to token ids with their trained spans: templates, truncation, packs and blocks.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/convert.h"
#include "data/options.h"
#include "data/templates.h"
#include "data/tokenizer.h"

namespace llmtrain {

// Tokens [begin, end) of a sequence whose labels are their ids; labels elsewhere are -100.
struct Span {
  uint32_t begin = 0, end = 0;
  bool operator==(const Span&) const = default;
};

// A row (one of the two of a ranking) on its way into the store.
struct Sequence {
  std::vector<int32_t> ids;
  std::vector<Span> trained;        // ascending, maximal: spans that touch are one
  std::vector<uint32_t> restarts;   // packs: where positions begin anew, 0 included; else empty
  void clear();
  // Appends tokens, all with loss or all without.
  void append(const std::vector<int32_t>& more, size_t count, bool with_loss);
};

// How many tokens of source and target a turn keeps within `budget`, as LLaMA-Factory computes it, in double and in its order (formats.md §3).
std::pair<int64_t, int64_t> kept_lengths(int64_t source, int64_t target, int64_t budget);

// Which samples go into which pack: take the longest remaining one that fits, of equal lengths the last, until none fits; then open the next pack.
// Lengths above `capacity` must have been sorted out before.
std::vector<std::vector<size_t>> knapsack_packs(const std::vector<size_t>& lengths, size_t capacity);

// Encodes rows. One per thread: it holds an Encoder with its cache of words.
class RowEncoder {
 public:
  RowEncoder(const Tokenizer& tokenizer, const Template& tmpl, const SpecialTokens& tokens, const DataOptions& options, const std::string& date);
  // Each returns whether the row was cut to fit. RowError for a tool list or call that its format cannot express.
  bool supervised(const Example& example, Sequence& out);
  bool ranking(const Example& example, Sequence& chosen, Sequence& rejected);
  // text + EOS. `limit` tokens at most, 0 = no limit (blocks). Tokens equal to the pad id carry no loss, as LLaMA-Factory's collator has it.
  bool pretraining(const Example& example, int64_t limit, Sequence& out);
  // Appends `count` ids from `ids` as one more sequence of pretraining: loss everywhere but on pads.
  void append_pretraining(const int32_t* ids, size_t count, Sequence& out) const;

 private:
  using Ids = std::vector<int32_t>;
  void encode(const std::vector<Element>& elements, Ids& ids);
  std::vector<Message> with_thoughts_removed(const Example& example, const Message& answer, bool discard_history) const;
  bool needs_empty_thought(const Message& answer) const;
  void prompt_and_answer(const Example& example, const Message& answer, Ids& prompt, Ids& reply);

  const Template& tmpl_;
  const SpecialTokens& tokens_;
  const DataOptions& options_;
  std::string date_, eos_text_;
  int64_t cutoff_;
  Encoder encoder_;
  Ids empty_thought_;
};

}  // namespace llmtrain
