// The real tokenizers of the reference data: golden ids, tokenizer.model beside tokenizer.json, long runs.
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <random>

#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "data/tokenizer_data.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;
using testing_support::shared_dir;

const char* const kNames[] = {"qwen2.5", "qwen3", "llama3", "llama2", "phi3"};

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }  // the machine may be busy

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode(text, ids);
  return ids;
}

// Texts of all kinds without a file: words, scripts, spaces, markers of the tokenizers.
std::string random_text(std::mt19937& random) {
  static const char* const parts[] = {"the ",   "  ",      "\n",       "it's ",      "123",  "naïve", "海上的风", "привет ", "<s>",   "</s>",
                                      "\u2581", "e\u0301", "👍🏽", "x = y;\n\t", "aaaa", "—",     " . ",      "\u00a0",  "한국어"};
  std::string text;
  for (unsigned n = 1 + random() % 12; n > 0; --n) {
    if (random() % 4) text += parts[random() % std::size(parts)];
    else utf8_append(text, random() % 8 ? 0x20 + random() % 0x500 : 0x4E00 + random() % 0x5000);
  }
  return text;
}

TEST(SharedTokenizers, TextsComeBackFromTheirIds) {
  SKIP_WITHOUT_SHARED();
  for (const char* name : kNames) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = Tokenizer::load(shared_dir() + "/tokenizers/" + name);
    std::mt19937 random(3);
    for (int k = 0; k < 300; ++k) {
      std::string text = random_text(random), normalized;
      if (text.find("<s>") != std::string::npos || text.find("</s>") != std::string::npos || text.find("\u2581") != std::string::npos) continue;
      if (std::string(name).substr(0, 4) == "qwen") {
        Normalizer::get().append(text, NormalForm::kNFC, normalized);
        text = normalized;
      }
      EXPECT_EQ(tokenizer.decode(encode(tokenizer, text), false), text);
    }
  }
}

// A golden row is a conversation; its text, special tokens included, must give its ids again (Llama 3's slots begin and end at special tokens).
TEST(SharedTokenizers, TheTextOfAGoldenConversationGivesItsIdsAgain) {
  SKIP_WITHOUT_SHARED();
  const Tokenizer tokenizer = Tokenizer::load(shared_dir() + "/tokenizers/llama3");
  std::ifstream golden(shared_dir() + "/compat/golden/llama3-llama3-identity+alpaca_en_demo.jsonl");
  std::string line;
  int rows = 0;
  for (; std::getline(golden, line); ++rows) {
    const auto ids = parse_json(line, "golden")["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(encode(tokenizer, tokenizer.decode(ids, false)), ids);
  }
  EXPECT_GT(rows, 20);
}

TEST(SharedTokenizers, TokenizerModelMeansTheSameAsTokenizerJson) {
  SKIP_WITHOUT_SHARED();
  const std::string folder = shared_dir() + "/tokenizers/llama2";
  const ScratchFolder scratch;
  write_file_atomically(scratch / "tokenizer.model", read_file(folder + "/tokenizer.model"));
  write_file_atomically(scratch / "tokenizer_config.json", read_file(folder + "/tokenizer_config.json"));
  const Tokenizer a = Tokenizer::load(folder), b = Tokenizer::load(scratch.path());
  EXPECT_EQ(a.vocab_size(), b.vocab_size());
  EXPECT_EQ(a.eos_id(), b.eos_id());
  Encoder x(a), y(b);
  std::mt19937 random(5);
  for (int k = 0; k < 3000; ++k) {
    const std::string text = random_text(random);
    std::vector<int32_t> i, j;
    x.encode(text, i);
    y.encode(text, j);
    ASSERT_EQ(i, j) << text;
    ASSERT_EQ(a.decode(i, false), b.decode(j, false));
  }
}

std::string base64(std::string_view bytes) {
  const char* const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? digits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

TEST(SharedTokenizers, ATiktokenFileMeansTheSameAsTokenizerJson) {
  SKIP_WITHOUT_SHARED();
  const std::string folder = shared_dir() + "/tokenizers/llama3";
  const Tokenizer a = Tokenizer::load(folder);
  const ScratchFolder scratch;
  std::string ranks;
  for (int32_t id = 0; id < a.data().vocabulary.end(); ++id) {
    std::string bytes;
    ASSERT_TRUE(ByteAlphabet::get().append_bytes(a.token_of(id), bytes)) << id;
    ranks += base64(bytes) + " " + std::to_string(id) + "\n";
  }
  write_file_atomically(scratch / "tokenizer.model", ranks);
  write_file_atomically(scratch / "tokenizer_config.json", read_file(folder + "/tokenizer_config.json"));
  const Tokenizer b = Tokenizer::load(scratch.path());
  EXPECT_EQ(a.vocab_size(), b.vocab_size());
  EXPECT_EQ(b.id_of("<|eot_id|>"), 128009);
  Encoder x(a), y(b);
  std::mt19937 random(6);
  for (int k = 0; k < 3000; ++k) {
    const std::string text = random_text(random) + (k % 5 ? "" : "<|eot_id|> ");
    std::vector<int32_t> i, j;
    x.encode(text, i);
    y.encode(text, j);
    ASSERT_EQ(i, j) << text;
  }
}

// Sixteen times the text: linear takes 16 times as long (a few times more where caches end), quadratic 256 times. The limit lies between.
TEST(SharedTokenizers, ALongRunOfOneCharacterClassStaysLinear) {
  SKIP_WITHOUT_SHARED();
  for (const char* name : {"qwen2.5", "llama3", "llama2"}) {
    const Tokenizer tokenizer = Tokenizer::load(shared_dir() + "/tokenizers/" + name);
    for (const char* unit : {"a", " ", "\n", "7", "!", "的", "e\u0301\u0316", "abcdefghij"}) {
      const auto seconds = [&](size_t bytes) {
        std::string text;
        while (text.size() < bytes) text += unit;
        double best = 1e9;
        for (int k = 0; k < 2; ++k) {
          const double start = cpu_seconds();
          encode(tokenizer, text);
          best = std::min(best, cpu_seconds() - start);
        }
        return best + 0.001;  // what is too short to be measured says nothing
      };
      EXPECT_LT(seconds(size_t{1} << 20) / seconds(size_t{1} << 16), 64.0) << name << " " << unit;
    }
  }
}

}  // namespace
}  // namespace llmtrain
