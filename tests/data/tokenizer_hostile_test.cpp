// Damaged and hostile tokenizer files: an InputError that names the file, no crash, no memory beyond the file's size.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

Json small() {
  Json file = parse_json(R"({"version": "1.0", "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3}, "merges": ["a b"]}})",
                         "test");
  return file;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

// Without fsync: these tests write thousands of files.
void write(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  ASSERT_TRUE(file.flush()) << path;
}

std::string error_for(const std::string& content, const char* name = "tokenizer.json") {
  const ScratchFolder folder;
  write(folder / name, content);
  const std::string message = error_of([&] { Tokenizer::load(folder.path()); });
  if (!message.empty()) {
    EXPECT_NE(message.find(folder / name), std::string::npos) << "the file is not named: " << message;
  }
  return message;
}
std::string error_with(const std::function<void(Json&)>& change) {
  Json file = small();
  change(file);
  return error_for(dump_json(file));
}

TEST(HostileTokenizer, TheUndamagedFileLoads) {
  const ScratchFolder folder;
  write(folder / "tokenizer.json", dump_json(small()));
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode("ab<s>ba c", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 4, 1, 0, 3}));
  EXPECT_EQ(tokenizer.vocab_size(), 5);
  EXPECT_EQ(tokenizer.id_of("<s>"), 4);
  EXPECT_EQ(tokenizer.token_of(2), "ab");
  EXPECT_EQ(tokenizer.token_of(77), "");
  EXPECT_TRUE(tokenizer.is_special(4));
}

TEST(HostileTokenizer, EveryTruncationIsAnErrorThatNamesTheFile) {
  const std::string whole = dump_json(small());
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_NE(error_for(whole.substr(0, n)), "") << "cut at " << n;
}

TEST(HostileTokenizer, EveryChangedByteIsReadOrRefusedWithoutHarm) {
  const std::string whole = dump_json(small());
  for (size_t n = 0; n < whole.size(); ++n) {
    for (const char c : {'\0', '"', '{', '}', '9', '-', '\\', '\x80'}) {
      std::string damaged = whole;
      damaged[n] = c;
      error_for(damaged);  // must not crash; the names of files are checked inside
    }
  }
}

TEST(HostileTokenizer, IdsOutOfRangeTwiceOrBroken) {
  EXPECT_NE(error_with([](Json& f) { f["model"]["vocab"]["b"] = -1; }).find("out of range"), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["vocab"]["b"] = 2000000000; }).find("out of range"), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["vocab"]["b"] = 99999999999999; }).find("out of range"), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["vocab"]["b"] = 0; }).find("the id 0 stands twice"), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["vocab"]["b"] = 1.5; }), "");
  EXPECT_NE(error_with([](Json& f) { f["model"]["vocab"]["b"] = "1"; }), "");
  EXPECT_NE(error_with([](Json& f) { f["added_tokens"][0]["id"] = -3; }), "");
  EXPECT_NE(error_with([](Json& f) { f["added_tokens"][0]["id"] = 9; }).find("gets the id 4"), std::string::npos);
}

TEST(HostileTokenizer, KeysThatStandTwice) {
  EXPECT_NE(error_for(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})").find("\"a\" stands twice"), std::string::npos);
  EXPECT_NE(error_for(R"({"model": {"vocab": {"a": 0}, "vocab": {}, "merges": []}})").find("model.vocab"), std::string::npos);
  EXPECT_NE(error_for(R"({"model": {}, "model": {}})").find("\"model\" stands twice"), std::string::npos);
  EXPECT_NE(error_for(R"({"decoder": {"type": "Fuse", "type": "Fuse"}, "model": {"vocab": {}, "merges": []}})").find("stands twice"),
      std::string::npos);
}

TEST(HostileTokenizer, MergesThatDoNotFitTheVocabulary) {
  EXPECT_NE(error_with([](Json& f) { f["model"]["merges"][0] = "a x"; }).find("needs the token \"x\""), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["merges"][0] = "b a"; }).find("needs the token \"ba\""), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["merges"][0] = "ab"; }).find("is not two tokens"), std::string::npos);
  EXPECT_NE(error_with([](Json& f) { f["model"]["merges"][0] = Json::array({"a", "b", "c"}); }), "");
  EXPECT_NE(error_with([](Json& f) { f["model"]["merges"][0] = 3; }), "");
}

TEST(HostileTokenizer, WhatIsNotKnownIsRefusedByName) {
  const auto named = [](const std::string& word, const std::function<void(Json&)>& change) {
    EXPECT_NE(error_with(change).find(word), std::string::npos) << word;
  };
  named("Unigram", [](Json& f) { f["model"]["type"] = "Unigram"; });
  named("WordPiece", [](Json& f) { f["model"]["type"] = "WordPiece"; });
  named("Lowercase", [](Json& f) { f["normalizer"] = {{"type", "Lowercase"}}; });
  named("Precompiled", [](Json& f) { f["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({Json{{"type", "Precompiled"}}})}}; });
  named("Whitespace", [](Json& f) { f["pre_tokenizer"] = {{"type", "Whitespace"}}; });
  named("[a-z]+", [](Json& f) { f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}}; });
  named("Removed", [](Json& f) {
    f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex",
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"}}}, {"behavior", "Removed"}, {"invert", false}};
  });
  named("dropout", [](Json& f) { f["model"]["dropout"] = 0.1; });
  named("continuing_subword_prefix", [](Json& f) { f["model"]["continuing_subword_prefix"] = "##"; });
  named("WordPiece", [](Json& f) { f["decoder"] = {{"type", "WordPiece"}}; });
}

TEST(HostileTokenizer, AHugePartIsRefusedBeforeItBecomesADocument) {
  std::string many = "[]";
  while (many.size() < (size_t{2} << 20)) many += ",[]";
  EXPECT_NE(error_for("{\"padding\": [" + many + "], \"model\": {\"vocab\": {}, \"merges\": []}}").find("1 MiB"), std::string::npos);
  EXPECT_NE(error_for("{\"added_tokens\": [" + many + "], \"model\": {\"vocab\": {}, \"merges\": []}}").find("no object"), std::string::npos);
}

TEST(HostileTokenizer, DeepNestingIsRefused) {
  const std::string deep(100000, '[');
  EXPECT_NE(error_for("{\"padding\": " + deep).find("nested deeper"), std::string::npos);
  EXPECT_NE(error_for("{\"model\": {\"vocab\": {}, \"merges\": " + deep).find("nested deeper"), std::string::npos);
}

TEST(HostileTokenizer, AFolderWithoutTokenizerIsNamed) {
  const ScratchFolder folder;
  EXPECT_NE(error_of([&] { Tokenizer::load(folder.path()); }).find(folder.path()), std::string::npos);
}

// --- tokenizer.model

std::string varint(uint64_t v) {
  std::string out;
  for (; v >= 128; v >>= 7) out += static_cast<char>((v & 127) | 128);
  return out += static_cast<char>(v);
}
std::string bytes_field(int field, const std::string& content) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(content.size()) + content;
}
std::string number_field(int field, uint64_t value) { return varint(static_cast<uint64_t>(field) << 3) + varint(value); }
std::string piece(const std::string& text, float score, uint64_t type) {
  std::string raw(4, '\0');
  std::memcpy(raw.data(), &score, 4);
  return bytes_field(1, bytes_field(1, text) + varint(2 << 3 | 5) + raw + number_field(3, type));
}
std::string small_sentencepiece(uint64_t model_type = 2, uint64_t remove_extra = 0) {
  std::string out = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  for (int b = 0; b < 256; ++b) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", b);
    out += piece(text, 0, 6);
  }
  float score = 0;
  for (const char* text : {"ab", "\u2581a", "abc", "bc", "\u2581ab", "\u2581", "a", "b", "c"}) out += piece(text, score -= 1, 1);
  const std::string trainer = number_field(3, model_type) + number_field(35, 1);
  const std::string normalizer = bytes_field(1, "identity") + number_field(3, 1) + number_field(4, remove_extra) + number_field(5, 1);
  return out + bytes_field(2, trainer) + bytes_field(3, normalizer);
}

TEST(SentencePieceModel, MergesByScoreWithAPrefixAndByteFallback) {
  const ScratchFolder folder;
  write(folder / "tokenizer.model", small_sentencepiece());
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  std::vector<int32_t> ids;
  Encoder encoder(tokenizer);
  // "▁abc ab" -> ▁ab (not ▁a: "ab" has the highest score), then "abc"; é is <0xC3><0xA9>.
  encoder.encode("abc ab\u00e9<s>a", ids);
  const auto id = [&](const char* t) { return tokenizer.id_of(t); };
  EXPECT_EQ(ids, (std::vector<int32_t>{id("\u2581"), id("abc"), id("\u2581ab"), 3 + 0xC3, 3 + 0xA9, 1, id("\u2581a")}));
  EXPECT_EQ(tokenizer.decode(ids, true), "abc ab\u00e9 a");
}

TEST(SentencePieceModel, EveryTruncationIsReadOrRefusedWithTheFilesName) {
  const std::string whole = small_sentencepiece();
  for (size_t n = 0; n < whole.size(); n += n < 200 ? 1 : 13) error_for(whole.substr(0, n), "tokenizer.model");
  EXPECT_NE(error_for(whole.substr(0, whole.size() - 1), "tokenizer.model"), "");
  EXPECT_NE(error_for("", "tokenizer.model"), "");
  EXPECT_NE(error_for(std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10), "tokenizer.model"), "");
}

TEST(SentencePieceModel, OtherKindsAreRefusedByName) {
  EXPECT_NE(error_for(small_sentencepiece(1), "tokenizer.model").find("unigram"), std::string::npos);
  EXPECT_NE(error_for(small_sentencepiece(2, 1), "tokenizer.model").find("remove_extra_whitespaces"), std::string::npos);
}

TEST(TiktokenModel, BrokenLinesAreRefusedWithTheirNumber) {
  EXPECT_NE(error_for("YQ== 0\nYg== x\n", "tokenizer.model").find("tokenizer.model:2"), std::string::npos);
  EXPECT_NE(error_for("YQ== 0\nYg== 900000000\n", "tokenizer.model").find("out of range"), std::string::npos);
  EXPECT_NE(error_for("YQ== 0\nYQ== 1\n", "tokenizer.model").find("twice"), std::string::npos);
  EXPECT_NE(error_for("YQ== 0\n!!!! 1\n", "tokenizer.model").find(":2"), std::string::npos);
}

// --- tokenizer_config.json

// Llama 3 names no add_bos_token: its post_processor puts the BOS before a text.
TEST(TokenizerConfig, BosBeforeATextAsThePostProcessorHasIt) {
  const ScratchFolder folder;
  Json json = small();
  json["post_processor"] = Json::parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}]})");
  const auto adds_bos = [&](const std::string& config) {
    write(folder / "tokenizer.json", dump_json(json));
    write(folder / "tokenizer_config.json", config);
    return Tokenizer::load(folder.path()).add_bos_token();
  };
  EXPECT_TRUE(adds_bos(R"({"bos_token": "<s>"})"));
  EXPECT_TRUE(adds_bos(R"({"bos_token": "<s>", "add_bos_token": false, "tokenizer_class": "PreTrainedTokenizerFast"})"));
  EXPECT_FALSE(adds_bos(R"({"bos_token": "<s>", "add_bos_token": false, "tokenizer_class": "LlamaTokenizer"})"));
  EXPECT_FALSE(adds_bos(R"({"bos_token": "</s>"})"));
  for (const char* odd : {R"({"type": "TemplateProcessing", "single": [7]})", R"({"type": "Sequence", "processors": {}})", "[]"}) {
    json["post_processor"] = Json::parse(odd);
    EXPECT_FALSE(adds_bos(R"({"bos_token": "<s>"})")) << odd;
  }
}

TEST(TokenizerConfig, SpecialTokensTemplatesAndAddedTokens) {
  const ScratchFolder folder;
  write(folder / "tokenizer.json", dump_json(small()));
  write(folder / "tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "add_bos_token": true,
    "added_tokens_decoder": {"5": {"content": "</s>", "special": true, "normalized": false}},
    "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.bos_id(), 4);
  EXPECT_EQ(tokenizer.eos_id(), 5);
  EXPECT_EQ(tokenizer.pad_id(), -1);
  EXPECT_TRUE(tokenizer.add_bos_token());
  EXPECT_EQ(tokenizer.chat_template(), "D");
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode("a</s>", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 5}));
  write(folder / "chat_template.jinja", "J");
  write(folder / "special_tokens_map.json", R"({"pad_token": "<pad>"})");
  tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.chat_template(), "J");
  EXPECT_EQ(tokenizer.pad_id(), 6) << "a named token that is missing is added";
}

TEST(TokenizerConfig, WithSpecialTokensChangesFlagsAndLeavesTheOriginal) {
  const ScratchFolder folder;
  Json file = small();
  file["added_tokens"][0]["rstrip"] = true;
  write(folder / "tokenizer.json", dump_json(file));
  const Tokenizer before = Tokenizer::load(folder.path()), after = before.with_special_tokens({"<s>", "ab", "nowhere"});
  std::vector<int32_t> a, b;
  Encoder(before).encode("<s> ab", a);
  Encoder(after).encode("<s> ab", b);
  EXPECT_EQ(a, (std::vector<int32_t>{4, 2}));
  EXPECT_EQ(b, (std::vector<int32_t>{4, 3, 2}));
  EXPECT_EQ(after.decode(b, false), "<s> ab");
  EXPECT_EQ(after.decode(b, true), " ");
  EXPECT_TRUE(after.is_special(2));
  EXPECT_FALSE(before.is_special(2));
}

TEST(TokenizerConfig, BrokenOnesAreRefusedByName) {
  for (const char* text : {"[]", "{", R"({"bos_token": 7})", R"({"chat_template": 3})", R"({"added_tokens_decoder": {"x": "y"}})",
      R"({"added_tokens_decoder": {"77": "y"}})", R"({"add_bos_token": 1})"}) {
    const ScratchFolder folder;
    write(folder / "tokenizer.json", dump_json(small()));
    write(folder / "tokenizer_config.json", text);
    EXPECT_NE(error_of([&] { Tokenizer::load(folder.path()); }).find("tokenizer_config.json"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace llmtrain
