#include "data/tokenizer_data.h"

#include <algorithm>

#include "core/error.h"

namespace llmtrain {
namespace {

// "<0x0A>" for 10.
std::string byte_token(unsigned byte) {
  const char* const digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">";
}

bool is_marker_replace(const NormalizeStep& s) { return s.kind == NormalizeStep::Kind::kReplace && s.pattern == " " && s.content == kMarker; }

// Whether the normalizer can be done by keeping each ' ' and writing U+2581 as ' '.
void choose_marker_normalizer(TokenizerData& data) {
  const auto& steps = data.normalizer;
  const bool alone = steps.size() == 1 && is_marker_replace(steps[0]);
  const bool prepended = steps.size() == 2 && steps[0].kind == NormalizeStep::Kind::kPrepend && steps[0].content == kMarker
      && is_marker_replace(steps[1]);
  bool fits = (alone || prepended) && !data.byte_level;
  for (const PreStep& step : data.pre_steps) fits = fits && (step.kind == PreStep::Kind::kMarker || step.kind == PreStep::Kind::kDigits);
  for (const AddedToken& token : data.added) fits = fits && !(token.normalized && (token.lstrip || token.rstrip));  // a space is \s, U+2581 is not
  data.marker_normalizer = fits;
  data.marker_prepend = fits && prepended;
  const bool metaspace = !data.pre_steps.empty() && data.pre_steps.back().kind == PreStep::Kind::kMarker;
  data.spaces_are_markers = data.marker_normalizer || metaspace;
}

void look_up_symbols(TokenizerData& data) {
  const Vocabulary& vocabulary = data.vocabulary;
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  for (unsigned b = 0; b < 256; ++b) data.byte_ids[b] = vocabulary.find(data.byte_level ? alphabet.text[b] : byte_token(b));
  data.marker_id = vocabulary.find(kMarker);
  for (unsigned c = 0; c < 128; ++c) {
    const char text = static_cast<char>(c);
    data.ascii_ids[c] = data.spaces_are_markers && c == ' ' ? data.marker_id : vocabulary.find({&text, 1});
  }
  const bool all_bytes = std::all_of(data.byte_ids.begin(), data.byte_ids.end(), [](int32_t id) { return id >= 0; });
  const bool never_unknown = all_bytes && (data.byte_level || data.byte_fallback);
  if (!never_unknown && data.unknown_id < 0 && !data.unk_token.empty()) {
    throw InputError(data.file, "the unk_token \"" + data.unk_token + "\" is not in the vocabulary");
  }
}

// The pairs of neighbours inside merge results. Cutting between others is exact only if every code point becomes symbols of its own text: with
// unknown ones fused or dropped, or with merges of fallback bytes, what lies on both sides may meet although their texts do not stand in one token.
void find_neighbours(TokenizerData& data) {
  const auto& bytes = data.byte_ids;
  const bool all_bytes = std::all_of(bytes.begin(), bytes.end(), [](int32_t id) { return id >= 0; });
  data.cut_at_neighbours = all_bytes && (data.byte_level || (data.byte_fallback && !data.ignore_merges));
  if (!data.cut_at_neighbours) return;
  std::vector<bool> is_fallback(static_cast<size_t>(data.vocabulary.end()), false), seen(static_cast<size_t>(data.vocabulary.end()), false);
  if (!data.byte_level) {
    for (const int32_t id : bytes) is_fallback[static_cast<size_t>(id)] = true;
  }
  std::string raw;
  data.merges.for_each([&](int32_t left, int32_t right, int32_t merged) {
    if (is_fallback[static_cast<size_t>(left)] || is_fallback[static_cast<size_t>(right)]) data.cut_at_neighbours = false;
    if (seen[static_cast<size_t>(merged)]) return;
    seen[static_cast<size_t>(merged)] = true;
    std::string_view token = data.vocabulary.token(merged);
    if (data.byte_level) {
      raw.clear();
      if (!ByteAlphabet::get().append_bytes(token, raw)) return;  // no text spells it
      token = raw;
    }
    data.neighbours.add_token(token, data.spaces_are_markers ? ' ' : 0x2581);
  });
}

}  // namespace

namespace {
// A part of a code point as a key: its bytes and how many, apart from every code point.
uint32_t part_key(std::string_view bytes) {
  uint32_t key = 0x80u | static_cast<uint32_t>(bytes.size());
  for (const char c : bytes) key = key << 8 | static_cast<unsigned char>(c);
  return key;
}
bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }
}  // namespace

void NeighbourSet::add_token(std::string_view bytes, uint32_t marker_as) {
  struct Item {
    uint32_t key;
    bool part;
  };
  Item previous{0, false};
  bool first = true;
  for (size_t i = 0; i < bytes.size();) {
    size_t end = i + 1;
    while (end < bytes.size() && continues(bytes[end])) ++end;
    const size_t n = end - i, need = continues(bytes[i]) ? 4 : utf8_length(static_cast<unsigned char>(bytes[i]));
    Item item{0, n != need};
    if (!item.part) {
      size_t length = 0;
      item.key = utf8_decode(bytes.data() + i, length);
      if (item.key == 0x2581) item.key = marker_as;
    } else {
      const bool may_be = continues(bytes[i]) ? i == 0 && n < 4 : end == bytes.size() && n < need;
      if (!may_be) return;  // no valid text holds these bytes
      item.key = part_key(bytes.substr(i, n));
    }
    if (!first) {
      if (previous.part || item.part) {
        has_parts_ = true;
        set(parts_, part_slot(previous.key, item.key));
      } else {
        set(whole_, whole_slot(previous.key, item.key));
      }
    }
    first = false;
    previous = item;
    i = end;
  }
}

bool NeighbourSet::parts_may_cross(uint32_t a, uint32_t b, std::string_view text, size_t at) const {
  const size_t before = a < 0x80 ? 1 : a < 0x800 ? 2 : a < 0x10000 ? 3 : 4, after = b < 0x80 ? 1 : b < 0x800 ? 2 : b < 0x10000 ? 3 : 4;
  for (size_t m = 1; m <= after; ++m) {
    const uint32_t right = m == after ? b : part_key(text.substr(at, m));
    for (size_t k = 1; k <= before; ++k) {
      if (k == before && m == after) continue;
      const uint32_t left = k == before ? a : part_key(text.substr(at - k, k));
      if (test(parts_, part_slot(left, right))) return true;
    }
  }
  return false;
}

ByteAlphabet::ByteAlphabet() {
  byte_of.fill(-1);
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    const uint32_t c = printable ? b : next++;
    utf8_append(text[b], c);
    byte_of[c] = static_cast<int16_t>(b);
  }
}

const ByteAlphabet& ByteAlphabet::get() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

bool ByteAlphabet::append_bytes(std::string_view token, std::string& out) const {
  const size_t before = out.size();
  for (size_t i = 0; i < token.size();) {
    size_t length = 0;
    const uint32_t c = utf8_decode(token.data() + i, length);
    i += length;
    if (c >= byte_of.size() || byte_of[c] < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte_of[c]);
  }
  return true;
}

void ByteAlphabet::append_text(std::string_view bytes, std::string& out) const {
  for (const char b : bytes) out += text[static_cast<unsigned char>(b)];
}

void normalize_text(const TokenizerData& data, std::string_view text, std::string& out) {
  out.clear();
  if (text.empty()) return;
  if (data.marker_normalizer) {
    if (data.marker_prepend) out += ' ';
    for (size_t at; (at = text.find(kMarker)) != std::string_view::npos; text.remove_prefix(at + kMarker.size())) {
      out.append(text, 0, at);
      out += ' ';
    }
    out += text;
    return;
  }
  normalize_as_written(data, text, out);
}

void normalize_as_written(const TokenizerData& data, std::string_view text, std::string& out) {
  std::string now(text);
  for (const NormalizeStep& step : data.normalizer) {
    out.clear();
    switch (step.kind) {
      case NormalizeStep::Kind::kForm: Normalizer::get().append(now, step.form, out); break;
      case NormalizeStep::Kind::kPrepend:
        if (!now.empty()) out = step.content;
        out += now;
        break;
      case NormalizeStep::Kind::kReplace: {
        std::string_view rest(now);
        for (size_t at; (at = rest.find(step.pattern)) != std::string_view::npos; rest.remove_prefix(at + step.pattern.size())) {
          out.append(rest, 0, at);
          out += step.content;
        }
        out += rest;
        break;
      }
    }
    now.swap(out);
  }
  out.swap(now);
}

void build_matchers(TokenizerData& data) {
  data.raw_matcher = StringMatcher();
  data.normalized_matcher = StringMatcher();
  std::string content;
  for (size_t i = 0; i < data.added.size(); ++i) {
    AddedToken& token = data.added[i];
    token.decoded = token.content;
    if (token.normalized) {
      if (!data.normalizer.empty()) normalize_as_written(data, token.content, token.decoded);
      normalize_text(data, token.content, content);
      data.normalized_matcher.add(content, static_cast<int32_t>(i));
    } else {
      data.raw_matcher.add(token.content, static_cast<int32_t>(i));
    }
  }
}

void finish_tokenizer(TokenizerData& data) {
  choose_marker_normalizer(data);
  look_up_symbols(data);
  find_neighbours(data);
  build_matchers(data);
}

}  // namespace llmtrain
