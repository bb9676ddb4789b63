// Text to ids: added tokens are cut out, the rest is normalized, cut into words, and each word is merged, or found in a cache of words.
#include <algorithm>
#include <bit>
#include <cstring>

#include "data/tokenizer.h"
#include "data/tokenizer_data.h"

namespace llmtrain {
namespace {

// Words and their ids. Direct-mapped: a new word takes the place of an older one, so memory is fixed and nothing is ever cleared.
// Short words of few ids in 32-byte entries, longer ones in 128-byte entries.
class WordCache {
 public:
  static constexpr size_t kShort = 15, kShortIds = 3, kLong = 63, kLongIds = 15;

  // The ids of `word`, or nullptr; `count` of them. `readable`: how many bytes may be read from word.data() (16 make it faster).
  const int32_t* find(std::string_view word, size_t readable, uint32_t& count) {
    if (short_.empty()) {  // memory only where it is used
      short_.resize(size_t{1} << kShortBits);
      long_.resize(size_t{1} << kLongBits);
    }
    if (word.size() <= kShort) {
      load_key(word, readable);
      const Short& entry = short_[slot_];
      count = entry.count;
      if (entry.low == low_ && entry.high == high_) return entry.ids;
      return nullptr;
    }
    if (word.size() > kLong) return nullptr;
    slot_ = hash_long(word);
    const Long& entry = long_[slot_];
    count = entry.count;
    return entry.length == word.size() && std::memcmp(entry.text, word.data(), word.size()) == 0 ? entry.ids : nullptr;
  }
  // Right after a find() that did not.
  void put(std::string_view word, const int32_t* ids, size_t count) {
    if (word.size() <= kShort && count <= kShortIds) {
      Short& entry = short_[slot_];
      entry.low = low_;
      entry.high = high_;
      entry.count = static_cast<uint32_t>(count);
      std::copy(ids, ids + count, entry.ids);
    } else if (word.size() > kShort && word.size() <= kLong && count <= kLongIds) {
      Long& entry = long_[slot_];
      entry.length = static_cast<uint8_t>(word.size());
      entry.count = static_cast<uint8_t>(count);
      std::memcpy(entry.text, word.data(), word.size());
      std::copy(ids, ids + count, entry.ids);
    }
  }

 private:
  struct alignas(32) Short {
    uint64_t low = 0, high = 0;  // the text; the length is in the top byte of `high`: never 0 for a word
    int32_t ids[kShortIds];
    uint32_t count = 0;
  };
  struct alignas(128) Long {
    uint8_t length = 0, count = 0;
    char text[66];
    int32_t ids[kLongIds];
  };
  static constexpr unsigned kShortBits = 16, kLongBits = 13;

  void load_key(std::string_view word, size_t readable) {
    uint64_t key[2] = {0, 0};
    const size_t n = word.size();
    if (readable >= 16) {
      std::memcpy(key, word.data(), 16);
      key[0] = n >= 8 ? key[0] : key[0] & ((uint64_t{1} << (8 * n)) - 1);
      key[1] = n <= 8 ? 0 : key[1] & ((uint64_t{1} << (8 * (n - 8))) - 1);
    } else {
      std::memcpy(key, word.data(), n);
    }
    low_ = key[0];
    high_ = key[1] | uint64_t{n} << 56;
    const uint64_t h = (low_ ^ std::rotl(high_ * 0x9E3779B97F4A7C15u, 29)) * 0xC2B2AE3D27D4EB4Fu;
    slot_ = static_cast<size_t>((h ^ (h >> 29)) * 0x9E3779B97F4A7C15u >> (64 - kShortBits));
  }
  static size_t hash_long(std::string_view word) {
    uint64_t h = word.size(), part = 0;
    size_t i = 0;
    for (; i + 8 <= word.size(); i += 8) {
      std::memcpy(&part, word.data() + i, 8);
      h = (std::rotl(h, 23) ^ part) * 0x9E3779B97F4A7C15u;
    }
    std::memcpy(&part, word.data() + word.size() - 8, 8);
    h = (std::rotl(h, 23) ^ part) * 0xC2B2AE3D27D4EB4Fu;
    return static_cast<size_t>((h ^ (h >> 29)) * 0x9E3779B97F4A7C15u >> (64 - kLongBits));
  }

  std::vector<Short> short_;
  std::vector<Long> long_;
  uint64_t low_ = 0, high_ = 0;
  size_t slot_ = 0;
};

// Collects ids and hands them to the vector in blocks: a push_back per id would cost as much as a cached word.
class Output {
 public:
  void begin(std::vector<int32_t>& ids) {
    ids_ = &ids;
    count_ = 0;
  }
  void add(int32_t id) { add(&id, 1); }
  void add(const int32_t* ids, size_t n) {
    if (count_ + n > kBlock) flush();
    if (n > kBlock) {
      ids_->insert(ids_->end(), ids, ids + n);
      return;
    }
    for (size_t k = 0; k < n; ++k) block_[count_ + k] = ids[k];
    count_ += n;
  }
  void flush() {
    ids_->insert(ids_->end(), block_, block_ + count_);
    count_ = 0;
  }

 private:
  static constexpr size_t kBlock = 1024;
  std::vector<int32_t>* ids_ = nullptr;
  size_t count_ = 0;
  int32_t block_[kBlock];
};

}  // namespace

struct Encoder::State {
  static constexpr size_t kCutFrom = 12;  // bytes; shorter words are merged at once

  explicit State(std::shared_ptr<const TokenizerData> tables)
      : data(std::move(tables)), classes(UnicodeClasses::get()), merger(data->merges) {
    for (const int32_t id : data->byte_ids) all_bytes = all_bytes && id >= 0;
  }

  void text(std::string_view text);
  void raw_piece(std::string_view piece, bool first);
  void normalized_piece(std::string_view piece, bool first);
  void pre_tokenize(std::string_view piece, size_t step, bool first);
  void digits(std::string_view piece, size_t step, bool first);
  void markers(std::string_view piece, const PreStep& step, bool first);
  void model_piece(std::string_view piece);
  void word(std::string_view word, size_t readable);
  void segments(std::string_view text);
  void segment(std::string_view text, size_t readable);
  bool whole_token(std::string_view word);
  void merge_word(std::string_view word);
  void byte_symbols(std::string_view word);
  void character_symbols(std::string_view word);
  void unknown(std::string_view character, int32_t& pending);

  std::shared_ptr<const TokenizerData> data;
  const UnicodeClasses& classes;
  Merger merger;
  WordCache words, parts;  // `parts` only where a part of a word follows other rules than a word (ignore_merges)
  Output out;
  std::vector<int32_t> symbols;
  std::string normalized, scratch, token;
  bool all_bytes = true;
};

Encoder::Encoder(const Tokenizer& tokenizer) : state_(std::make_unique<State>(tokenizer.data_)) {}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  state_->out.begin(ids);
  if (utf8_is_valid(text)) {
    state_->text(text);
  } else {
    const std::string repaired = utf8_repaired(text);
    state_->text(repaired);
  }
  state_->out.flush();
}

void Encoder::State::text(std::string_view text) {
  if (data->raw_matcher.empty()) {
    if (!text.empty()) raw_piece(text, true);
    return;
  }
  split_at_added_tokens(
      data->raw_matcher, data->added, classes, text, [&](int32_t index) { out.add(data->added[static_cast<size_t>(index)].id); },
      [&](size_t begin, size_t end) { raw_piece(text.substr(begin, end - begin), begin == 0); });
}

void Encoder::State::raw_piece(std::string_view piece, bool first) {
  const auto& steps = data->normalizer;
  const bool unchanged = steps.empty() || (steps.size() == 1 && steps[0].kind == NormalizeStep::Kind::kForm
      && Normalizer::get().is_surely_normal(piece, steps[0].form));
  if (!unchanged) {
    normalize_text(*data, piece, normalized);
    piece = normalized;
  }
  if (piece.empty()) return;
  if (data->normalized_matcher.empty()) return normalized_piece(piece, first);
  split_at_added_tokens(
      data->normalized_matcher, data->added, classes, piece, [&](int32_t index) { out.add(data->added[static_cast<size_t>(index)].id); },
      [&](size_t begin, size_t end) { normalized_piece(piece.substr(begin, end - begin), first && begin == 0); });
}

void Encoder::State::normalized_piece(std::string_view piece, bool first) { pre_tokenize(piece, 0, first); }

void Encoder::State::pre_tokenize(std::string_view piece, size_t step, bool first) {
  if (step == data->pre_steps.size()) return model_piece(piece);
  const PreStep& now = data->pre_steps[step];
  switch (now.kind) {
    case PreStep::Kind::kPrefixSpace:
      if (piece[0] == ' ') {
        pre_tokenize(piece, step + 1, first);
      } else {
        pre_tokenize(" " + std::string(piece), step + 1, first);
      }
      break;
    case PreStep::Kind::kSplit: {
      const WordScanner scanner(classes, now.pattern);
      const bool last = step + 1 == data->pre_steps.size() && data->byte_level;
      for (size_t at = 0; at < piece.size();) {
        const size_t end = scanner.next(piece, at);
        if (last) {
          word(piece.substr(at, end - at), piece.size() - at);
        } else {
          pre_tokenize(piece.substr(at, end - at), step + 1, first && at == 0);
        }
        at = end;
      }
      break;
    }
    case PreStep::Kind::kDigits: digits(piece, step, first); break;
    case PreStep::Kind::kMarker: markers(piece, now, first); break;
  }
}

void Encoder::State::digits(std::string_view piece, size_t step, bool first) {
  const bool individual = data->pre_steps[step].individual;
  size_t begin = 0;
  bool was_number = false;
  for (size_t at = 0; at < piece.size();) {
    size_t length = 0;
    const bool number = classes.is_numeric(utf8_decode(piece.data() + at, length));
    if (at > begin && (number != was_number || (number && individual))) {
      pre_tokenize(piece.substr(begin, at - begin), step + 1, first && begin == 0);
      begin = at;
    }
    was_number = number;
    at += length;
  }
  pre_tokenize(piece.substr(begin), step + 1, first && begin == 0);
}

// Metaspace: from here on U+2581 is written as ' '.
void Encoder::State::markers(std::string_view piece, const PreStep& step, bool first) {
  const bool starts = piece[0] == ' ' || piece.substr(0, kMarker.size()) == kMarker;
  const bool prefix = !starts && (step.prepend == PreStep::Prepend::kAlways || (step.prepend == PreStep::Prepend::kFirst && first));
  scratch.assign(prefix ? " " : "");
  for (size_t at; (at = piece.find(kMarker)) != std::string_view::npos; piece.remove_prefix(at + kMarker.size())) {
    scratch.append(piece, 0, at);
    scratch += ' ';
  }
  scratch += piece;
  const std::string_view all(scratch);
  if (!step.cut) return model_piece(all);
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find(' ', begin + 1), all.size());
    model_piece(all.substr(begin, end - begin));
    begin = end;
  }
}

void Encoder::State::model_piece(std::string_view piece) {
  if (data->byte_level || !data->cut_at_neighbours) return word(piece, piece.size());
  segments(piece);
}

void Encoder::State::word(std::string_view word, size_t readable) {
  uint32_t count = 0;
  if (const int32_t* ids = words.find(word, readable, count)) return out.add(ids, count);
  symbols.clear();
  if (!(data->ignore_merges && whole_token(word))) {
    if (data->cut_at_neighbours && word.size() >= kCutFrom) return segments(word);
    merge_word(word);
  }
  words.put(word, symbols.data(), symbols.size());
  out.add(symbols.data(), symbols.size());
}

// Cuts where no merge can cross: the parts are short, so most of them are found in the cache even where words are long (Chinese, Thai).
void Encoder::State::segments(std::string_view text) {
  size_t begin = 0, length = 0;
  uint32_t previous = utf8_decode(text.data(), length);
  for (size_t at = length; at < text.size();) {
    const uint32_t c = utf8_decode(text.data() + at, length);
    if (!data->neighbours.may_cross(previous, c, text, at)) {
      segment(text.substr(begin, at - begin), text.size() - begin);
      begin = at;
    }
    previous = c;
    at += length;
  }
  segment(text.substr(begin), text.size() - begin);
}

void Encoder::State::segment(std::string_view text, size_t readable) {
  uint32_t count = 0;
  WordCache& cache = data->ignore_merges ? parts : words;  // a part that is a token may still come from other merges
  if (const int32_t* ids = cache.find(text, readable, count)) return out.add(ids, count);
  symbols.clear();
  merge_word(text);
  cache.put(text, symbols.data(), symbols.size());
  out.add(symbols.data(), symbols.size());
}

// ignore_merges: a word that is a token is that token, whatever its merges say.
bool Encoder::State::whole_token(std::string_view word) {
  if (word.size() > data->vocabulary.longest()) return false;
  token.clear();
  if (data->byte_level) {
    ByteAlphabet::get().append_text(word, token);
  } else {
    for (const char c : word) {
      if (c == ' ' && data->spaces_are_markers) token += kMarker;
      else token += c;
    }
  }
  const int32_t id = data->vocabulary.find(token);
  if (id >= 0) symbols.push_back(id);
  return id >= 0;
}

// The ids of a word, by merging, into `symbols`.
void Encoder::State::merge_word(std::string_view word) {
  if (data->byte_level) {
    byte_symbols(word);
  } else {
    character_symbols(word);
  }
  symbols.resize(merger.merge(symbols.data(), symbols.size()));
}

void Encoder::State::byte_symbols(std::string_view word) {
  if (all_bytes) {
    symbols.resize(word.size());
    for (size_t i = 0; i < word.size(); ++i) symbols[i] = data->byte_ids[static_cast<unsigned char>(word[i])];
    return;
  }
  int32_t pending = -1;
  for (const char c : word) {
    const int32_t id = data->byte_ids[static_cast<unsigned char>(c)];
    if (id < 0) {  // a byte outside the vocabulary: unknown, or nothing
      if (pending >= 0 && !data->fuse_unknown) symbols.push_back(pending);
      pending = data->unknown_id;
      continue;
    }
    if (pending >= 0) symbols.push_back(pending);
    pending = -1;
    symbols.push_back(id);
  }
  if (pending >= 0) symbols.push_back(pending);
}

void Encoder::State::character_symbols(std::string_view word) {
  int32_t pending = -1;  // an unknown token not yet written, so that the next one can fuse with it
  for (size_t at = 0; at < word.size();) {
    const auto first = static_cast<unsigned char>(word[at]);
    const size_t length = utf8_length(first);
    const std::string_view character = word.substr(at, length);
    at += length;
    const int32_t id = first < 0x80 ? data->ascii_ids[first] : data->vocabulary.find(character);
    if (id < 0) {
      unknown(character == " " && data->spaces_are_markers ? kMarker : character, pending);
      continue;
    }
    if (pending >= 0) symbols.push_back(pending);
    pending = -1;
    symbols.push_back(id);
  }
  if (pending >= 0) symbols.push_back(pending);
}

// Bytes where all of them are tokens, else the unknown token, else nothing. (Bytes do not write a pending unknown token first: as in HF.)
void Encoder::State::unknown(std::string_view character, int32_t& pending) {
  if (data->byte_fallback) {
    const bool all = std::all_of(character.begin(), character.end(), [&](char c) { return data->byte_ids[static_cast<unsigned char>(c)] >= 0; });
    if (all) {
      for (const char c : character) symbols.push_back(data->byte_ids[static_cast<unsigned char>(c)]);
      return;
    }
  }
  if (data->unknown_id < 0) return;
  if (pending >= 0 && !data->fuse_unknown) symbols.push_back(pending);
  pending = data->unknown_id;
}

}  // namespace llmtrain
