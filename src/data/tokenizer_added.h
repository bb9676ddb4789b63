// Added tokens: strings that become a token before the model sees the text, with the flags of Hugging Face's AddedToken.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/unicode.h"

namespace llmtrain {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // not inside a word: no \w before or after
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = true;    // matched in normalized text
  bool special = false;      // left out by decode(skip_special)
  std::string decoded;       // what it decodes to: the content, normalized where it is matched so (set by build_matchers)
};

// Finds the strings of a set in text: leftmost, of those at one place the longest (a byte trie, entered only at bytes that begin a string).
class StringMatcher {
 public:
  void add(std::string_view content, int32_t value);  // the first of equal strings wins; an empty string is ignored
  bool empty() const { return nodes_.empty(); }
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end, int32_t& value) const;

 private:
  struct Node {
    unsigned char byte = 0;
    int32_t child = -1, sibling = -1;
    int32_t value = -1;
  };
  int32_t step(int32_t first_child, unsigned char byte) const {
    while (first_child >= 0 && nodes_[static_cast<size_t>(first_child)].byte != byte) first_child = nodes_[static_cast<size_t>(first_child)].sibling;
    return first_child;
  }
  std::vector<Node> nodes_;
  int32_t roots_[256];
  int distinct_first_ = 0;
  unsigned char only_first_ = 0;
};

// Cuts `text` at the added tokens of `matcher` (values index `tokens`): calls on_token(index) and on_text(begin, end) in order. The rules are those
// of Hugging Face tokenizers (added_vocabulary.rs): a match that is discarded as no single word still consumes its text for the search.
template <class OnToken, class OnText>
void split_at_added_tokens(const StringMatcher& matcher, const std::vector<AddedToken>& tokens, const UnicodeClasses& classes, std::string_view text,
                           OnToken&& on_token, OnText&& on_text) {
  size_t from = 0, done = 0, begin = 0, end = 0, space_begin = 0, space_end = 0;
  int32_t index = 0;
  while (matcher.find(text, from, begin, end, index)) {
    from = end;
    const AddedToken& token = tokens[static_cast<size_t>(index)];
    size_t start = begin, stop = end, length = 0;
    if (token.single_word) {
      size_t last = start;
      if (start > 0) {
        do --last;
        while ((static_cast<unsigned char>(text[last]) & 0xC0) == 0x80);
      }
      const bool word_before = start > 0 && (classes.mask(utf8_decode(text.data() + last, length)) & kWordMask);
      const bool word_after = stop < text.size() && (classes.mask(utf8_decode(text.data() + stop, length)) & kWordMask);
      if (word_before || word_after) continue;
    }
    if (token.lstrip) {
      while (start > done) {
        size_t last = start;
        do --last;
        while ((static_cast<unsigned char>(text[last]) & 0xC0) == 0x80);
        if (!(classes.mask(utf8_decode(text.data() + last, length)) & kSpaceMask)) break;
        start = last;
      }
      start = std::max(start, done);
    }
    if (token.rstrip) {
      if (stop < space_begin || stop > space_end) {  // the same run is not walked twice
        space_begin = stop;
        while (stop < text.size() && (classes.mask(utf8_decode(text.data() + stop, length)) & kSpaceMask)) stop += length;
        space_end = stop;
      }
      stop = space_end;
    }
    if (done < start) on_text(done, start);
    if (start < stop) on_token(index);  // a token of white space may lie wholly inside the space that the one before it took
    done = stop;
  }
  if (done != text.size()) on_text(done, text.size());
}

}  // namespace llmtrain
