#include "data/tokenizer_split.h"

#include <string>

namespace llmtrain {
namespace {

constexpr uint32_t kNeither = ~(kLetterMask | kNumberMask | kSpaceMask);  // [^\s\p{L}\p{N}]
constexpr uint32_t kMark = class_bit(CharClass::kM);
constexpr uint32_t kUpper = class_bit(CharClass::kLu) | class_bit(CharClass::kLt) | class_bit(CharClass::kLm) | class_bit(CharClass::kLo) | kMark;
constexpr uint32_t kLower = class_bit(CharClass::kLl) | class_bit(CharClass::kLm) | class_bit(CharClass::kLo) | kMark;

struct Known {
  const char* regex;
  SplitPattern pattern;
};

}  // namespace

std::optional<SplitPattern> recognise_split_pattern(std::string_view regex) {
  using Kind = SplitPattern::Kind;
  // The texts as the projects write them; the possessive forms match the same, because what follows a possessive part never needs it back.
  const std::string upper = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  const std::string suffix = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?", o200k_tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::string cl100k_head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
  const std::string cl100k_tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::pair<std::string, SplitPattern> known[] = {
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", {Kind::kGpt2, 0, true}},
      {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", {Kind::kGpt2, 0, true}},
      {cl100k_head + R"(\p{N})" + cl100k_tail, {Kind::kCl100k, 1, true}},
      {cl100k_head + R"(\p{N}{1,3})" + cl100k_tail, {Kind::kCl100k, 3, true}},
      {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)", {Kind::kCl100k, 3, true}},
      {upper + "*" + lower + "+" + suffix + "|" + upper + "+" + lower + "*" + suffix + R"(|\p{N}{1,3})" + o200k_tail, {Kind::kO200k, 3, true}},
      {upper + "*" + lower + "+|" + upper + "+" + lower + R"(*|\p{N})" + o200k_tail, {Kind::kO200k, 1, false}},
  };
  for (const auto& [text, pattern] : known) {
    if (regex == text) return pattern;
  }
  return std::nullopt;
}

size_t WordScanner::contraction(std::string_view text, size_t at, bool any_case) const {
  if (at + 1 >= text.size() || text[at] != '\'') return 0;
  const auto fold = [&](size_t i) { return i < text.size() ? static_cast<char>(any_case ? text[i] | 0x20 : text[i]) : '\0'; };
  const auto is_letter = [&](size_t i) { return i < text.size() && static_cast<unsigned char>((text[i] | 0x20) - 'a') < 26; };
  const char first = is_letter(at + 1) ? fold(at + 1) : '\0';
  switch (first) {
    case 's': case 't': case 'm': case 'd': return 2;
    case 'r': case 'v': return is_letter(at + 2) && fold(at + 2) == 'e' ? 3 : 0;
    case 'l': return is_letter(at + 2) && fold(at + 2) == 'l' ? 3 : 0;
    default: break;
  }
  // U+017F LATIN SMALL LETTER LONG S folds to s.
  return any_case && text.substr(at + 1, 2) == "\xC5\xBF" ? 3 : 0;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ (without `newlines`: the last two) at white space: through the last line break of the run; without one the run but
// its last code point where something follows, else all of it.
size_t WordScanner::white_space(std::string_view text, size_t at, bool newlines) const {
  size_t end = at, last = at, after_newline = 0, length = 0;
  for (uint32_t bit; (bit = bit_at(text, end, length)) & kSpaceMask;) {
    last = end;
    end += length;
    if (bit & kNewlineMask) after_newline = end;
  }
  if (newlines && after_newline) return after_newline;
  if (end == text.size() || last == at) return end;
  return last;
}

size_t WordScanner::next_gpt2(std::string_view text, size_t at) const {
  if (const size_t n = contraction(text, at, false)) return at + n;
  size_t length = 0;
  uint32_t bit = bit_at(text, at, length);
  size_t from = at;
  if (text[at] == ' ') {
    size_t next_length = 0;
    const uint32_t next_bit = bit_at(text, at + 1, next_length);
    if (next_bit != 0 && !(next_bit & kSpaceMask)) {
      bit = next_bit;
      length = next_length;
      from = at + 1;
    }
  }
  if (bit & kLetterMask) return run(text, from + length, kLetterMask);
  if (bit & kNumberMask) return run(text, from + length, kNumberMask);
  if (!(bit & kSpaceMask)) return run(text, from + length, kNeither);
  return white_space(text, at, false);
}

size_t WordScanner::next_cl100k(std::string_view text, size_t at) const {
  size_t length = 0;
  const uint32_t bit = bit_at(text, at, length);
  if (bit & kLetterMask) return run(text, at + length, kLetterMask);
  if (bit & kNumberMask) {
    size_t end = at + length;
    for (size_t k = 1; k < pattern_.digits && (bit_at(text, end, length) & kNumberMask); ++k) end += length;
    return end;
  }
  if (text[at] == '\'') {
    if (const size_t n = contraction(text, at, true)) return at + n;
  }
  size_t next_length = 0;
  const uint32_t next_bit = bit_at(text, at + length, next_length);
  if (!(bit & kNewlineMask) && (next_bit & kLetterMask)) return run(text, at + length + next_length, kLetterMask);
  const bool blank_before = text[at] == ' ' && next_bit != 0 && (next_bit & kNeither);
  if (blank_before || (bit & kNeither)) {
    size_t end = blank_before ? at + length + next_length : at + length;
    end = run(text, end, kNeither);
    return run(text, end, kNewlineMask);
  }
  return white_space(text, at, true);
}

// [U]*[L]+(contraction)? at `at`, where U = Lu Lt Lm Lo M and L = Ll Lm Lo M; 0 when it does not match. The greedy [U]* gives code points
// back until [L]+ can begin: at the first Ll after the run, else at the last code point of the run that is in L.
size_t WordScanner::lower_word(std::string_view text, size_t at) const {
  size_t end = at, length = 0, last_lower_end = 0;
  uint32_t bit = 0;
  while ((bit = bit_at(text, end, length)) & kUpper) {
    end += length;
    if (bit & kLower) last_lower_end = end;
  }
  if (bit & kLower) return suffixed(text, run(text, end + length, kLower));
  return last_lower_end ? suffixed(text, last_lower_end) : 0;
}

size_t WordScanner::next_o200k(std::string_view text, size_t at) const {
  size_t length = 0, next_length = 0;
  const uint32_t bit = bit_at(text, at, length);
  const bool may_lead = !(bit & (kNewlineMask | kLetterMask | kNumberMask));  // [^\r\n\p{L}\p{N}]
  if (may_lead && (bit_at(text, at + length, next_length) & (kUpper | kLower))) {
    if (const size_t end = lower_word(text, at + length)) return end;
    if (bit & kMark) return lower_word(text, at);  // a mark may lead and be in L: the first alternative without its lead comes before the second
    return suffixed(text, run(text, at + length, kUpper));
  }
  if (bit & (kUpper | kLower)) {
    if (const size_t end = lower_word(text, at)) return end;
    return suffixed(text, run(text, at, kUpper));  // [U]+[L]*: there is no L here, or the first alternative had matched
  }
  if (bit & kNumberMask) {
    size_t end = at + length;
    for (size_t k = 1; k < pattern_.digits && (bit_at(text, end, length) & kNumberMask); ++k) end += length;
    return end;
  }
  const uint32_t next_bit = bit_at(text, at + length, next_length);
  const bool blank_before = text[at] == ' ' && next_bit != 0 && (next_bit & kNeither);
  if (blank_before || (bit & kNeither)) {
    size_t end = blank_before ? at + length + next_length : at + length;
    end = run(text, end, kNeither);
    while (end < text.size() && (text[end] == '\r' || text[end] == '\n' || text[end] == '/')) ++end;
    return end;
  }
  return white_space(text, at, true);
}

}  // namespace llmtrain
