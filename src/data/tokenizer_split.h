// Splits text into words as the regular expressions of byte-level tokenizers do, without regular expressions: one scanner over Unicode
// classes per pattern, linear in the text. A pattern is recognised by its exact text; another one is refused.
//
// Every pattern here covers all text: each code point is a letter, a number, white space or something else, and each has an alternative.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "data/unicode.h"

namespace llmtrain {

struct SplitPattern {
  enum class Kind {
    kGpt2,    // 's|'t|…| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    kCl100k,  // (?i:'s|'t|…)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   (Qwen 2, Llama 3, Phi-4)
    kO200k    // as cl100k, but letters split before an upper-case letter that follows a lower-case one, and [\r\n/]*  (Phi-4-mini, Mistral Nemo)
  };
  Kind kind = Kind::kGpt2;
  size_t digits = 1;          // at most so many digits make a word
  bool contractions = true;   // kO200k: 's, 'll … stay with the word before them
};

// nullopt when the pattern is not one of those known.
std::optional<SplitPattern> recognise_split_pattern(std::string_view regex);

// Steps through one piece of text.
class WordScanner {
 public:
  WordScanner(const UnicodeClasses& classes, const SplitPattern& pattern) : classes_(classes), pattern_(pattern) {}
  // The end of the word that begins at `at` (< text.size()). `text` is valid UTF-8.
  size_t next(std::string_view text, size_t at) const {
    switch (pattern_.kind) {
      case SplitPattern::Kind::kGpt2: return next_gpt2(text, at);
      case SplitPattern::Kind::kCl100k: return next_cl100k(text, at);
      case SplitPattern::Kind::kO200k: return next_o200k(text, at);
    }
    return text.size();
  }

 private:
  // Class bit of the code point at `at`; its length in `length`. 0 at the end of the text.
  uint32_t bit_at(std::string_view text, size_t at, size_t& length) const {
    if (at >= text.size()) return length = 0, 0;
    const auto b = static_cast<unsigned char>(text[at]);
    if (b < 0x80) return length = 1, class_bit(classes_.of_ascii(b));
    const uint32_t c = utf8_decode(text.data() + at, length);
    return classes_.mask(c);
  }
  // The first offset from `at` whose class is not in `mask`.
  size_t run(std::string_view text, size_t at, uint32_t mask) const {
    size_t length = 0;
    while (at < text.size() && (bit_at(text, at, length) & mask)) at += length;
    return at;
  }
  size_t contraction(std::string_view text, size_t at, bool any_case) const;  // length of 's, 't, 're, 've, 'm, 'll, 'd at `at`, or 0
  size_t white_space(std::string_view text, size_t at, bool newlines) const;
  size_t next_gpt2(std::string_view text, size_t at) const;
  size_t next_cl100k(std::string_view text, size_t at) const;
  size_t next_o200k(std::string_view text, size_t at) const;
  size_t lower_word(std::string_view text, size_t at) const;
  size_t suffixed(std::string_view text, size_t end) const { return pattern_.contractions ? end + contraction(text, end, true) : end; }

  const UnicodeClasses& classes_;
  SplitPattern pattern_;
};

}  // namespace llmtrain
