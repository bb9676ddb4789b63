// Ids to text: the decoders of Hugging Face tokenizers.
#include <algorithm>

#include "data/tokenizer.h"
#include "data/tokenizer_data.h"

namespace llmtrain {
namespace {

// The byte that "<0xE4>" stands for, or -1.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

void replace_all(std::string& text, std::string_view pattern, std::string_view content) {
  size_t at = text.find(pattern);
  if (at == std::string::npos) return;
  std::string out;
  size_t from = 0;
  for (; at != std::string::npos; at = text.find(pattern, from)) {
    out.append(text, from, at - from);
    out += content;
    from = at + pattern.size();
  }
  out.append(text, from, std::string::npos);
  text.swap(out);
}

void fuse(std::vector<std::string>& pieces) {
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  pieces.assign(1, std::move(all));
}

void decode_bytes(std::vector<std::string>& pieces) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (utf8_is_valid(bytes)) {
      out.push_back(bytes);
    } else {  // as tokenizers does: one replacement character for each byte
      for (size_t i = 0; i < bytes.size(); ++i) out.emplace_back("\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (std::string& piece : pieces) {
    const int byte = fallback_byte(piece);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
    } else {
      flush();
      out.push_back(std::move(piece));
    }
  }
  flush();
  pieces.swap(out);
}

void strip(std::string& piece, const DecodeStep& step) {
  const std::string& c = step.content;
  size_t begin = 0, end = piece.size();
  for (size_t k = 0; k < step.start && end - begin >= c.size() && piece.compare(begin, c.size(), c) == 0; ++k) begin += c.size();
  for (size_t k = 0; k < step.stop && end - begin >= c.size() && piece.compare(end - c.size(), c.size(), c) == 0; ++k) end -= c.size();
  piece = piece.substr(begin, end - begin);
}

void apply(const DecodeStep& step, std::vector<std::string>& pieces) {
  switch (step.kind) {
    case DecodeStep::Kind::kByteLevel: {
      std::string bytes;
      for (const std::string& piece : pieces) {
        if (!ByteAlphabet::get().append_bytes(piece, bytes)) bytes += piece;
      }
      pieces.assign(1, utf8_is_valid(bytes) ? std::move(bytes) : utf8_repaired(bytes));
      break;
    }
    case DecodeStep::Kind::kMetaspace:
      for (size_t i = 0; i < pieces.size(); ++i) replace_all(pieces[i], kMarker, i == 0 && step.prefix ? "" : " ");
      break;
    case DecodeStep::Kind::kReplace:
      for (std::string& piece : pieces) replace_all(piece, step.pattern, step.content);
      break;
    case DecodeStep::Kind::kByteFallback: decode_bytes(pieces); break;
    case DecodeStep::Kind::kFuse: fuse(pieces); break;
    case DecodeStep::Kind::kStrip:
      for (std::string& piece : pieces) strip(piece, step);
      break;
  }
}

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const int32_t id : ids) {
    const auto added = data_->added_by_id.find(id);
    if (added == data_->added_by_id.end()) {
      if (data_->vocabulary.has(id)) pieces.emplace_back(data_->vocabulary.token(id));  // an unknown id says nothing
      continue;
    }
    const AddedToken& token = data_->added[static_cast<size_t>(added->second)];
    if (!(skip_special && token.special)) pieces.push_back(token.decoded);
  }
  std::string text;
  if (!data_->has_decoder) {  // the tokens with a space between
    for (const std::string& piece : pieces) text += (text.empty() && &piece == &pieces.front() ? "" : " ") + piece;
    return text;
  }
  for (const DecodeStep& step : data_->decoder) apply(step, pieces);
  for (const std::string& piece : pieces) text += piece;
  return text;
}

}  // namespace llmtrain
