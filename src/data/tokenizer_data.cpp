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
  const bool prepended = steps.size() == 2 && steps[0].kind == NormalizeStep::Kind::kPrepend && steps[0].content == kMarker && is_marker_replace(steps[1]);
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
// unknown ones fused or dropped, or with merges of byte tokens, what lies on both sides may meet although their texts do not stand in one token.
void find_neighbours(TokenizerData& data) {
  const auto& bytes = data.byte_ids;
  const bool all_bytes = std::all_of(bytes.begin(), bytes.end(), [](int32_t id) { return id >= 0; });
  data.cut_at_neighbours = !data.byte_level && !data.ignore_merges && data.byte_fallback && all_bytes;
  if (!data.cut_at_neighbours) return;
  std::vector<bool> is_byte(static_cast<size_t>(data.vocabulary.end()), false), seen(static_cast<size_t>(data.vocabulary.end()), false);
  for (const int32_t id : bytes) is_byte[static_cast<size_t>(id)] = true;
  data.merges.for_each([&](int32_t left, int32_t right, int32_t merged) {
    if (is_byte[static_cast<size_t>(left)] || is_byte[static_cast<size_t>(right)]) data.cut_at_neighbours = false;
    if (seen[static_cast<size_t>(merged)]) return;
    seen[static_cast<size_t>(merged)] = true;
    const std::string_view token = data.vocabulary.token(merged);
    uint32_t previous = 0;
    for (size_t i = 0; i < token.size();) {
      size_t length = 0;
      uint32_t c = utf8_decode(token.data() + i, length);
      if (data.spaces_are_markers && c == 0x2581) c = ' ';
      if (i > 0) data.neighbours.add(previous, c);
      previous = c;
      i += length;
    }
  });
}

}  // namespace

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

void finish_tokenizer(TokenizerData& data) {
  choose_marker_normalizer(data);
  look_up_symbols(data);
  find_neighbours(data);
  std::string content;
  for (size_t i = 0; i < data.added.size(); ++i) {
    const AddedToken& token = data.added[i];
    if (token.normalized) {
      normalize_text(data, token.content, content);
      data.normalized_matcher.add(content, static_cast<int32_t>(i));
    } else {
      data.raw_matcher.add(token.content, static_cast<int32_t>(i));
    }
  }
}

}  // namespace llmtrain
