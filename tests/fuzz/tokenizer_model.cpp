// tokenizer.model: SentencePiece's protobuf and tiktoken's lines; what loads must encode and decode.
#include "support/tokenizers.h"

namespace llmtrain::fuzz {
namespace {

// Protocol buffers: key, length, bytes.
std::string field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) + bytes;
}
std::string number(int field, int value) { return {static_cast<char>(field << 3 & 0x7F), static_cast<char>(value)}; }
std::string piece(const std::string& text, const std::string& score, int type) {
  return field(1, field(1, text) + std::string(1, '\x15') + score + number(3, type));
}

std::string sentencepiece() {
  const std::string low("\0\0\x80\xbf", 4), zero(4, '\0'), high("\0\0\0\xc0", 4);
  std::string model = piece("<unk>", zero, 2) + piece("<s>", zero, 3) + piece("<0x41>", zero, 6) + piece("user", zero, 4) + piece("\xE2\x96\x81", high, 1) +
                      piece("a", high, 1) + piece("\xE2\x96\x81"
                                                  "a", low, 1) + piece("b", high, 1);
  model += field(2, number(3, 2) + std::string("\x98\x02\x01", 3));                 // BPE, byte_fallback
  model += field(3, field(1, "identity") + number(3, 1) + number(4, 0) + number(5, 1));  // add_dummy_prefix, no remove_extra, escape
  return model;
}

}  // namespace

const Target& target() {
  static const Target t{{sentencepiece(), "YQ== 0\nYg== 1\nYWI= 2\nIA== 3\nIGE= 4\n", "IQ== 0\n"},
                        {"YQ== ", "YWI= 7\n", "\n", "\x0a", "\x12", "\x1a", "\x15", "\x18\x02", "\x18\x06", "\xE2\x96\x81", "<0x0A>", "\xFF\xFF\xFF\xFF\x0F"}};
  return t;
}

void take(std::string_view input) {
  static const std::string folder = [] {
    make_directories(scratch() + "/tokenizer");
    return scratch() + "/tokenizer";
  }();
  put("tokenizer/tokenizer.model", input);
  use_tokenizer(Tokenizer::load(folder));
}

}  // namespace llmtrain::fuzz
