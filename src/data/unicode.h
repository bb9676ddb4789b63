// Unicode for tokenizers: what class a code point has, stepping through UTF-8, and the normalization forms.
//
// The ids of a tokenizer are fixed by the Unicode version of the library that made the golden ids, not by the one installed here. Classes
// are those of Unicode 16 (the regular expression engine of Hugging Face tokenizers 0.23): utf8proc's data, completed by a table of what
// Unicode 15.1 and 16 added. Normalization is that of Unicode 9 (the crate unicode-normalization-alignments 0.1, which tokenizers uses):
// code points assigned later neither decompose nor reorder. Both were measured code point by code point against tokenizers 0.23.3.
//
// Thread rules: the tables are immutable once made; get() is safe from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace llmtrain {

enum class CharClass : uint8_t {
  kOther,    // punctuation, symbols, controls, unassigned, private use
  kLu, kLl, kLt, kLm, kLo,  // letters: \p{L}
  kM,        // marks: \p{M}
  kNd,       // decimal digits and letter numbers (Nd, Nl)
  kNo,       // other numbers
  kSpace,    // White_Space other than \r and \n
  kNewline,  // \r and \n
  kWordOther // neither letter, mark nor number, yet in \w: connector punctuation, joiners, circled letters
};

inline constexpr uint32_t class_bit(CharClass c) { return 1u << static_cast<unsigned>(c); }
inline constexpr uint32_t kLetterMask = class_bit(CharClass::kLu) | class_bit(CharClass::kLl) | class_bit(CharClass::kLt) |
                                        class_bit(CharClass::kLm) | class_bit(CharClass::kLo);
inline constexpr uint32_t kNumberMask = class_bit(CharClass::kNd) | class_bit(CharClass::kNo);
inline constexpr uint32_t kNewlineMask = class_bit(CharClass::kNewline);
inline constexpr uint32_t kSpaceMask = class_bit(CharClass::kSpace) | kNewlineMask;
inline constexpr uint32_t kWordMask = kLetterMask | class_bit(CharClass::kM) | class_bit(CharClass::kNd) | class_bit(CharClass::kWordOther);

// Length of a UTF-8 sequence by its first byte (valid text).
inline size_t utf8_length(unsigned char first) { return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4; }
// The code point at p (valid text); sets `length`.
inline uint32_t utf8_decode(const char* text, size_t& length) {
  const auto* p = reinterpret_cast<const unsigned char*>(text);
  const uint32_t b = p[0];
  if (b < 0x80) return length = 1, b;
  if (b < 0xE0) return length = 2, ((b & 0x1F) << 6) | (p[1] & 0x3Fu);
  if (b < 0xF0) return length = 3, ((b & 0x0F) << 12) | ((p[1] & 0x3Fu) << 6) | (p[2] & 0x3Fu);
  return length = 4, ((b & 0x07) << 18) | ((p[1] & 0x3Fu) << 12) | ((p[2] & 0x3Fu) << 6) | (p[3] & 0x3Fu);
}
// Appends one code point (a scalar value).
void utf8_append(std::string& out, uint32_t code_point);
bool utf8_is_valid(std::string_view text);
// Valid UTF-8: each maximal broken part becomes one U+FFFD (Unicode 3.9, "substitution of maximal subparts", as Rust and Python do).
std::string utf8_repaired(std::string_view text);

class UnicodeClasses {
 public:
  static const UnicodeClasses& get();
  CharClass of(uint32_t c) const { return c < kDense ? dense_[c] : c >= 0xE0100 && c < 0xE01F0 ? CharClass::kM : CharClass::kOther; }
  uint32_t mask(uint32_t c) const { return class_bit(of(c)); }
  // char::is_numeric of the reference (Unicode 17, two blocks of digits ahead of \p{N} here): the pre-tokenizer Digits goes by it.
  bool is_numeric(uint32_t c) const { return (mask(c) & kNumberMask) || (c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6); }
  CharClass of_ascii(unsigned char c) const { return dense_[c]; }

 private:
  UnicodeClasses();
  static constexpr uint32_t kDense = 0x40000;  // planes 0 to 3; above them only the variation selectors have a class
  std::vector<CharClass> dense_;
};

enum class NormalForm { kNFC, kNFD, kNFKC, kNFKD };

// Normalization forms with a quick check. Linear in the text (marks are ordered by a stable sort: n log n in a run of marks).
class Normalizer {
 public:
  static const Normalizer& get();
  // True when the text surely is in the form already; false says nothing.
  bool is_surely_normal(std::string_view text, NormalForm form) const;
  // Appends the normalized text. `text` is valid UTF-8.
  void append(std::string_view text, NormalForm form, std::string& out) const;

 private:
  Normalizer();
  struct Pair {
    uint64_t key;  // first << 32 | second
    uint32_t composed;
  };
  uint32_t compose(uint32_t first, uint32_t second) const;  // 0 when the two do not compose
  void append_slow(std::string_view text, NormalForm form, std::string& out) const;
  uint8_t combining_class(uint32_t c) const { return c < kDense ? combining_[c] : 0; }
  static constexpr uint32_t kDense = 0x40000;
  enum : uint8_t { kMayChangeC = 1, kMayChangeD = 2, kMayChangeKC = 4, kMayChangeKD = 8 };
  std::vector<uint8_t> combining_;   // canonical combining class
  std::vector<uint8_t> may_change_;  // bits above
  std::vector<Pair> pairs_;          // sorted by key
};

}  // namespace llmtrain
