// Reads tokenizer.model where a folder has no tokenizer.json: SentencePiece's protobuf (BPE) or tiktoken's list of ranks (Llama 3).
//
// SentencePiece: sentencepiece_model.proto of github.com/google/sentencepiece; only the fields that decide ids are read. Merges follow from
// the pieces: two neighbours merge where their text is a piece, the piece of the highest score first.
// tiktoken: one "base64(token) rank" a line (github.com/openai/tiktoken, load.py); two neighbours merge where their bytes are a token, the
// lowest rank first.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer_data.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxFile = size_t{256} << 20;
constexpr size_t kMaxToken = 1024;  // bytes: every split of a token is looked up

// Protocol buffers, wire format: enough to walk a message.
class Message {
 public:
  Message(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}
  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field = key >> 3;
    wire = static_cast<unsigned>(key & 7);
    switch (wire) {
      case 0: number = varint(); break;
      case 1: take(8); break;
      case 2: {
        const uint64_t n = varint();
        bytes = take(n);
        break;
      }
      case 5: bytes = take(4); break;
      default: fail();
    }
    return true;
  }
  float as_float() const {
    float f = 0;
    if (wire != 5) fail();
    std::memcpy(&f, bytes.data(), 4);
    return f;
  }
  std::string_view as_bytes() const {
    if (wire != 2) fail();
    return bytes;
  }
  uint64_t as_number() const {
    if (wire != 0) fail();
    return number;
  }
  uint64_t field = 0;

 private:
  [[noreturn]] void fail() const {
    throw InputError(file_, "not a SentencePiece model, or a damaged one (near byte " + std::to_string(at_) + " of a message)");
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) fail();
      const auto b = static_cast<unsigned char>(bytes_[at_++]);
      value |= uint64_t{b & 0x7Fu} << shift;
      if (b < 0x80) return value;
    }
    fail();
  }
  std::string_view take(uint64_t n) {
    if (n > bytes_.size() - at_) fail();
    const std::string_view part = bytes_.substr(at_, static_cast<size_t>(n));
    at_ += static_cast<size_t>(n);
    return part;
  }
  unsigned wire = 0;
  uint64_t number = 0;
  std::string_view bytes;
  std::string_view bytes_;
  const std::string& file_;
  size_t at_ = 0;
};

enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Piece {
  std::string_view text;
  float score = 0;
  uint64_t type = kNormal;
};

struct SentencePieceModel {
  std::vector<Piece> pieces;
  uint64_t model_type = 1;  // the proto's default: unigram
  bool byte_fallback = false, suffix_space = false;
  std::string_view normalizer, charsmap;
  bool dummy_prefix = true, remove_extra = true, escape = true;
};

Piece read_piece(std::string_view bytes, const std::string& file) {
  Piece piece;
  Message m(bytes, file);
  while (m.next()) {
    if (m.field == 1) piece.text = m.as_bytes();
    if (m.field == 2) piece.score = m.as_float();
    if (m.field == 3) piece.type = m.as_number();
  }
  return piece;
}

SentencePieceModel parse_model(std::string_view content, const std::string& file) {
  SentencePieceModel model;
  Message m(content, file);
  while (m.next()) {
    if (m.field == 1) model.pieces.push_back(read_piece(m.as_bytes(), file));
    if (m.field == 2) {
      Message trainer(m.as_bytes(), file);
      while (trainer.next()) {
        if (trainer.field == 3) model.model_type = trainer.as_number();
        if (trainer.field == 24) model.suffix_space = trainer.as_number() != 0;
        if (trainer.field == 35) model.byte_fallback = trainer.as_number() != 0;
      }
    }
    if (m.field == 3) {
      Message normalizer(m.as_bytes(), file);
      while (normalizer.next()) {
        if (normalizer.field == 1) model.normalizer = normalizer.as_bytes();
        if (normalizer.field == 2) model.charsmap = normalizer.as_bytes();
        if (normalizer.field == 3) model.dummy_prefix = normalizer.as_number() != 0;
        if (normalizer.field == 4) model.remove_extra = normalizer.as_number() != 0;
        if (normalizer.field == 5) model.escape = normalizer.as_number() != 0;
      }
    }
  }
  return model;
}

void check_model(const SentencePieceModel& model, const std::string& file) {
  const char* const advice = "Use a folder with tokenizer.json, or a BPE model that leaves its text as it is.";
  const char* const kinds[] = {"?", "unigram", "BPE", "word", "char"};
  if (model.model_type != 2) {
    const std::string kind = model.model_type < 5 ? kinds[model.model_type] : "?";
    throw InputError(file, "a SentencePiece model of the kind " + kind + " is not supported", advice);
  }
  if (!model.charsmap.empty()) throw InputError(file, "the SentencePiece normalizer " + std::string(model.normalizer) + " is not supported", advice);
  if (model.remove_extra) throw InputError(file, "the SentencePiece option remove_extra_whitespaces is not supported", advice);
  if (!model.escape) throw InputError(file, "a SentencePiece model without escape_whitespaces is not supported", advice);
  if (model.suffix_space) throw InputError(file, "the SentencePiece option treat_whitespace_as_suffix is not supported", advice);
}

// Every split of a token into two tokens is a merge of the token's rank.
void add_splits(TokenizerData& data, int32_t id, uint32_t rank, const std::vector<bool>& mergeable) {
  const std::string_view token = data.vocabulary.token(id);
  for (size_t cut = 1; cut < token.size(); ++cut) {
    if ((static_cast<unsigned char>(token[cut]) & 0xC0) == 0x80) continue;  // inside a code point
    const int32_t left = data.vocabulary.find(token.substr(0, cut));
    if (left < 0 || !mergeable[static_cast<size_t>(left)]) continue;
    const int32_t right = data.vocabulary.find(token.substr(cut));
    if (right >= 0 && mergeable[static_cast<size_t>(right)]) data.merges.add(left, right, id, rank);
  }
}

void add_decoder(TokenizerData& data, bool strip) {
  using Kind = DecodeStep::Kind;
  data.decoder = {{Kind::kReplace, std::string(kMarker), " ", 0, 0, false}, {Kind::kByteFallback, "", "", 0, 0, false}, 
                  {Kind::kFuse, "", "", 0, 0, false}};
  if (strip) data.decoder.push_back({Kind::kStrip, "", " ", 1, 0, false});
  data.has_decoder = true;
}

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool decode_base64(std::string_view text, std::string& out) {
  out.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  size_t padding = 0;
  while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int digit = i >= text.size() - padding ? 0 : base64_digit(text[i]);
    if (digit < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if (i % 4 != 3) continue;
    for (int shift = 16; shift >= 0; shift -= 8) out += static_cast<char>(bits >> shift & 0xFF);
  }
  out.resize(out.size() - padding);
  return true;
}

bool looks_like_tiktoken(std::string_view content) {
  const std::string_view line = content.substr(0, std::min(content.find('\n'), content.size()));
  const size_t space = line.find(' ');
  std::string ignored;
  return space != std::string_view::npos && space + 1 < line.size() && line[space + 1] >= '0' && line[space + 1] <= '9'
      && decode_base64(line.substr(0, space), ignored);
}

}  // namespace

void read_sentencepiece(std::string_view content, const std::string& path, TokenizerData& data) {
  data.file = path;
  const SentencePieceModel model = parse_model(content, path);
  if (model.pieces.empty()) throw InputError(path, "a SentencePiece model without pieces");
  check_model(model, path);
  std::vector<bool> mergeable(model.pieces.size(), false);
  std::vector<int32_t> order;
  data.vocabulary.reserve(model.pieces.size(), content.size());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const Piece& piece = model.pieces[i];
    const std::string where = "piece " + std::to_string(i);
    if (piece.text.empty() || piece.text.size() > kMaxToken || !utf8_is_valid(piece.text)) {
      throw InputError(path, where + " is empty, longer than 1024 bytes or no UTF-8");
    }
    if (piece.type == kUnused) throw InputError(path, where + ", \"" + std::string(piece.text) + "\": unused pieces are not supported");
    if (!data.vocabulary.add(piece.text, static_cast<int32_t>(i))) {
      throw InputError(path, where + ", \"" + std::string(piece.text) + "\", stands twice");
    }
    if (piece.type == kUnknown) data.unknown_id = static_cast<int32_t>(i);
    if (piece.score != piece.score) throw InputError(path, where + " has no number as its score");
    mergeable[i] = piece.type == kNormal;
    if (mergeable[i]) order.push_back(static_cast<int32_t>(i));
  }
  const auto score = [&](int32_t id) { return model.pieces[static_cast<size_t>(id)].score; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });
  data.merges.reserve(model.pieces.size() * 2);
  for (size_t rank = 0; rank < order.size(); ++rank) add_splits(data, order[rank], static_cast<uint32_t>(rank), mergeable);
  data.byte_fallback = model.byte_fallback;
  data.fuse_unknown = true;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const Piece& piece = model.pieces[i];
    if (piece.type != kUnknown && piece.type != kControl && piece.type != kUserDefined) continue;
    AddedToken token;
    token.content = std::string(piece.text);
    token.normalized = false;
    token.special = piece.type != kUserDefined;
    add_token(data, std::move(token), static_cast<int64_t>(i), path);
  }
  if (model.dummy_prefix) data.normalizer.push_back({NormalizeStep::Kind::kPrepend, NormalForm::kNFC, "", std::string(kMarker)});
  data.normalizer.push_back({NormalizeStep::Kind::kReplace, NormalForm::kNFC, " ", std::string(kMarker)});
  add_decoder(data, model.dummy_prefix);
}

void read_tiktoken(std::string_view content, const std::string& path, TokenizerData& data) {
  data.file = path;
  data.byte_level = true;
  data.ignore_merges = true;  // tiktoken looks the whole word up first
  PreStep split;
  split.pattern = {SplitPattern::Kind::kCl100k, 3, true};
  data.pre_steps.push_back(split);
  data.decoder.push_back({DecodeStep::Kind::kByteLevel, "", "", 0, 0, false});
  data.has_decoder = true;

  std::string bytes, text;
  size_t line_number = 0;
  for (size_t at = 0; at < content.size();) {
    const size_t end = std::min(content.find('\n', at), content.size());
    const std::string_view line = content.substr(at, end - at);
    at = end + 1;
    ++line_number;
    if (line.empty()) continue;
    const std::string where = path + ":" + std::to_string(line_number);
    const size_t space = line.find(' ');
    const std::string_view digits = space == std::string_view::npos ? "" : line.substr(space + 1);
    const bool number = !digits.empty() && digits.size() <= 9 && digits.find_first_not_of("0123456789") == std::string_view::npos;
    if (!number || !decode_base64(line.substr(0, space), bytes)) {
      throw InputError(where, "not \"base64(token) rank\"");
    }
    const int32_t rank = std::stoi(std::string(digits));
    if (bytes.empty() || bytes.size() > kMaxToken) throw InputError(where, "a token of no or more than 1024 bytes");
    if (static_cast<size_t>(rank) > content.size()) throw InputError(where, "the rank " + std::to_string(rank) + " is out of range");
    text.clear();
    ByteAlphabet::get().append_text(bytes, text);
    if (!data.vocabulary.add(text, rank)) throw InputError(where, "the token or the rank stands twice");
  }
  const std::vector<bool> mergeable(static_cast<size_t>(data.vocabulary.end()), true);
  data.merges.reserve(data.vocabulary.count() * 5 / 2);
  for (int32_t id = 0; id < data.vocabulary.end(); ++id) {
    if (data.vocabulary.has(id)) add_splits(data, id, static_cast<uint32_t>(id), mergeable);
  }
}

void read_tokenizer_model(const std::string& path, const std::string& config_path, TokenizerData& data) {
  const MappedFile file(path);
  if (file.size() > kMaxFile) throw InputError(path, "larger than 256 MiB");
  if (file.size() == 0) throw InputError(path, "is empty");
  if (looks_like_tiktoken(file.view())) return read_tiktoken(file.view(), path, data);
  read_sentencepiece(file.view(), path, data);
  // LlamaTokenizer's own switches (transformers, LlamaConverter): without `legacy` only the first piece of a text gets a space in front.
  if (!is_regular_file(config_path)) return;
  const Json config = parse_json_file(config_path, size_t{4} << 20);
  if (!config.is_object()) return;
  const auto is = [&](const char* key, const Json& value) { return config.contains(key) && config[key] == value; };
  if (!is("tokenizer_class", "LlamaTokenizer") && !is("tokenizer_class", "LlamaTokenizerFast")) return;
  const bool prefix = !is("add_prefix_space", false);
  if (!prefix) {
    data.normalizer.erase(data.normalizer.begin(), data.normalizer.end() - 1);
    add_decoder(data, false);
  }
  if (!is("legacy", false)) return;
  data.normalizer.clear();
  PreStep metaspace;
  metaspace.kind = PreStep::Kind::kMarker;
  metaspace.prepend = prefix ? PreStep::Prepend::kFirst : PreStep::Prepend::kNever;
  metaspace.cut = false;
  data.pre_steps.push_back(metaspace);
}

}  // namespace llmtrain
