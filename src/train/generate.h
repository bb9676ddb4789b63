// Generation: choosing tokens from logits, turning ids into text as they come, and the loop over both.
// Thread rules: one thread; generate() is collective (every rank runs the model, all choose the same token).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "train/engine.h"

namespace llmtrain {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token (greedy)
  double top_p = 1;        // the smallest set of tokens whose probability reaches this (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751)
  int64_t top_k = 0;       // the k most likely tokens; 0: all
  uint64_t seed = 0;
};

// InputError naming the flag.
void check_sampling(const SamplingOptions& options);

// The token for position `position`: a pure function of the logits, the options and the position. Of equal logits the smallest id comes first.
int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, int64_t position);

// Text of a growing list of ids, in pieces that never end inside a character: bytes of an unfinished one wait for the next ids.
class TextStream {
 public:
  // `context`: ids that stand before and are not printed (a leading blank of a SentencePiece token depends on them).
  TextStream(const Tokenizer& tokenizer, std::span<const int32_t> context);
  // The text that became certain with this id; may be empty.
  std::string add(int32_t id);
  // What is left at the end, with U+FFFD for a character that never came to its end.
  std::string finish();

 private:
  std::string decode(size_t begin, size_t end) const;
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t begin_ = 0;  // ids before this do not change what comes
  size_t read_ = 0;   // ids before this are printed
};

struct Generated {
  std::vector<int32_t> ids;  // new ones, a stop id included
  bool stopped = false;      // by a stop id, else by the number of tokens
};

// Continues `prompt` by at most `max_new_tokens`, until one of `stop_ids`. `emit` gets each new id that is not a stop id (on every rank).
Generated generate(Engine& engine, std::span<const int32_t> prompt, int64_t max_new_tokens, std::span<const int32_t> stop_ids, const SamplingOptions& sampling,
                   const std::function<void(int32_t)>& emit);

}  // namespace llmtrain
