// What a loaded tokenizer consists of. Private to the tokenizer's own sources.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/bpe_model.h"
#include "data/tokenizer_added.h"
#include "data/tokenizer_split.h"
#include "data/unicode.h"

namespace llmtrain {

inline constexpr std::string_view kMarker = "\xE2\x96\x81";  // U+2581, SentencePiece's white space

struct NormalizeStep {
  enum class Kind { kForm, kPrepend, kReplace };
  Kind kind = Kind::kForm;
  NormalForm form = NormalForm::kNFC;
  std::string pattern, content;  // kPrepend: content
};

struct PreStep {
  enum class Kind {
    kPrefixSpace,  // a space before a piece that does not begin with one
    kSplit,        // by a pattern
    kDigits,       // numbers apart: each digit (individual) or each run
    kMarker        // Metaspace: spaces become U+2581, perhaps one is put in front, perhaps cut before each
  };
  enum class Prepend { kAlways, kFirst, kNever };
  Kind kind = Kind::kSplit;
  SplitPattern pattern;
  bool individual = false;
  Prepend prepend = Prepend::kAlways;
  bool cut = true;
};

struct DecodeStep {
  enum class Kind { kByteLevel, kMetaspace, kReplace, kByteFallback, kFuse, kStrip };
  Kind kind = Kind::kFuse;
  std::string pattern, content;  // kReplace; kStrip: content; kMetaspace: content = the marker
  size_t start = 0, stop = 0;    // kStrip
  bool prefix = false;           // kMetaspace: the first token lost its marker to the prefix
};

// Which two code points stand side by side in some merge result. Where two do not, no merge crosses between them, so the text can be cut there
// and its parts encoded by themselves (and found in a cache) with the same result. May answer yes for a pair that is not there.
// Byte-level tokens may begin or end inside a code point: such a part stands for every code point that ends (begins) with its bytes.
class NeighbourSet {
 public:
  // The neighbours inside one token; U+2581 counts as `marker_as`.
  void add_token(std::string_view bytes, uint32_t marker_as);
  // Whether a merge may cross between the code points a | b that stand at text[at - length(a)] and text[at].
  bool may_cross(uint32_t a, uint32_t b, std::string_view text, size_t at) const {
    if ((a | b) < 128) return test(whole_, a << 7 | b);
    return test(whole_, whole_slot(a, b)) || (has_parts_ && parts_may_cross(a, b, text, at));
  }

 private:
  static constexpr uint32_t kAscii = 128 * 128, kWholeBits = 22, kPartBits = 17;
  static uint32_t mix(uint32_t a, uint32_t b) { return (a * 0x9E3779B1u ^ b * 0x85EBCA6Bu) * 0xC2B2AE35u; }
  static uint32_t whole_slot(uint32_t a, uint32_t b) { return (a | b) < 128 ? a << 7 | b : kAscii + (mix(a, b) >> (32 - kWholeBits)); }
  static uint32_t part_slot(uint32_t a, uint32_t b) { return mix(a, b) >> (32 - kPartBits); }
  static bool test(const std::vector<uint64_t>& bits, uint32_t slot) { return bits[slot >> 6] >> (slot & 63) & 1; }
  static void set(std::vector<uint64_t>& bits, uint32_t slot) { bits[slot >> 6] |= uint64_t{1} << (slot & 63); }
  bool parts_may_cross(uint32_t a, uint32_t b, std::string_view text, size_t at) const;
  std::vector<uint64_t> whole_ = std::vector<uint64_t>((kAscii + (1u << kWholeBits)) / 64, 0);  // two whole code points
  std::vector<uint64_t> parts_ = std::vector<uint64_t>((1u << kPartBits) / 64, 0);              // a part on at least one side
  bool has_parts_ = false;
};

struct TokenizerData {
  std::string folder;
  std::string file;  // tokenizer.json or tokenizer.model, for messages

  // The model.
  Vocabulary vocabulary;
  MergeTable merges;
  bool byte_level = false;      // symbols are bytes, else code points
  bool ignore_merges = false;   // a word that is a token is that token
  bool byte_fallback = false;   // an unknown code point becomes its bytes
  bool fuse_unknown = false;
  int32_t unknown_id = -1;
  std::array<int32_t, 256> byte_ids{};   // byte level: the token of each byte; else <0x00>…<0xFF>; -1 where absent
  std::array<int32_t, 128> ascii_ids{};  // not byte level: the token of each ASCII character (of U+2581 for ' ' where spaces_are_markers)
  int32_t marker_id = -1;
  bool spaces_are_markers = false;  // inside, U+2581 is written as one space: no true space can reach the model
  bool cut_at_neighbours = false;
  NeighbourSet neighbours;

  // Around the model.
  std::vector<AddedToken> added;
  int32_t added_end = 0;  // largest id of an added token + 1
  std::unordered_map<std::string, int32_t> added_index;  // content -> index in added
  std::unordered_map<int32_t, int32_t> added_by_id;      // id -> index in added
  StringMatcher raw_matcher, normalized_matcher;
  std::vector<NormalizeStep> normalizer;
  bool marker_normalizer = false;  // the normalizer is [Prepend U+2581,] Replace ' ' by U+2581: done in one pass
  bool marker_prepend = false;
  std::vector<PreStep> pre_steps;
  std::vector<DecodeStep> decoder;
  bool has_decoder = false;

  std::string bos_token, eos_token, pad_token, unk_token, chat_template;
  bool add_bos_token = false;
  std::string post_first;  // the token that the post_processor of tokenizer.json puts before a text, "" for none

  int32_t id_of(std::string_view token) const;
};

// The byte-level alphabet of GPT-2: every byte as a printable code point.
struct ByteAlphabet {
  static const ByteAlphabet& get();
  std::array<std::string, 256> text;            // UTF-8 of the code point of each byte
  std::array<int16_t, 512> byte_of;             // by code point; -1 where it stands for none
  // Appends the bytes that `token` spells; false (nothing appended) when a code point is outside the alphabet.
  bool append_bytes(std::string_view token, std::string& out) const;
  void append_text(std::string_view bytes, std::string& out) const;

 private:
  ByteAlphabet();
};

// Adds a token as Hugging Face tokenizers would: the id of an equal token of the model, else the next free id. InputError (naming `where`) when
// that is not `written_id` (pass -1 to take whatever comes). Flags of a token that is there already are replaced.
void add_token(TokenizerData& data, AddedToken token, int64_t written_id, const std::string& where);
// Text through the normalizer, in the representation of the model's input where marker_normalizer.
void normalize_text(const TokenizerData& data, std::string_view text, std::string& out);
void normalize_as_written(const TokenizerData& data, std::string_view text, std::string& out);  // with U+2581 as itself
// Makes the matchers and the decoded texts of the added tokens anew: after a change of the added tokens.
void build_matchers(TokenizerData& data);
// Makes what is derived from the rest: matchers, byte and ASCII ids, neighbours. Call last.
void finish_tokenizer(TokenizerData& data);

// Readers of the files. InputError naming the file.
void read_tokenizer_json(const std::string& path, TokenizerData& data);
void read_tokenizer_model(const std::string& path, const std::string& config_path, TokenizerData& data);  // SentencePiece or tiktoken
void read_sentencepiece(std::string_view content, const std::string& path, TokenizerData& data);
void read_tiktoken(std::string_view content, const std::string& path, TokenizerData& data);
void read_tokenizer_config(TokenizerData& data);

}  // namespace llmtrain
