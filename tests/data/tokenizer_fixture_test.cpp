// Ids and texts of small tokenizers of every supported kind, against those of Hugging Face tokenizers (make_tokenizer_fixtures.py).
#include <gtest/gtest.h>

#include <fstream>

#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

const Json& fixture() {
  static const Json all = parse_json_file("tests/data/fixtures/tokenizers.json");
  return all;
}

void write(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  ASSERT_TRUE(file.flush()) << path;
}

Tokenizer make(const Json& entry, const ScratchFolder& folder) {
  Json file = entry["parts"];
  Json model = entry["model"];
  const Json& base = fixture()["bases"][entry["base"].get<std::string>()];
  model["vocab"] = base["vocab"];
  model["merges"] = base["merges"];
  file["model"] = std::move(model);
  write(folder / "tokenizer.json", dump_json(file, 1));
  return Tokenizer::load(folder.path());
}

TEST(TokenizerFixture, IdsEqualThoseOfHuggingFaceForEveryKind) {
  const Json& texts = fixture()["texts"];
  for (const Json& entry : fixture()["cases"]) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const ScratchFolder folder;
    const Tokenizer tokenizer = make(entry, folder);
    Encoder encoder(tokenizer);
    for (int round = 0; round < 2; ++round) {  // the second time from the cache of words
      for (size_t i = 0; i < texts.size(); ++i) {
        std::vector<int32_t> ids = {-7};  // encode() appends
        encoder.encode(texts[i].get<std::string>(), ids);
        std::vector<int32_t> expected = entry["ids"][i].get<std::vector<int32_t>>();
        expected.insert(expected.begin(), -7);
        EXPECT_EQ(ids, expected) << "text " << i << ": " << texts[i].dump();
      }
    }
  }
}

TEST(TokenizerFixture, TextsOfIdsEqualThoseOfHuggingFace) {
  for (const Json& entry : fixture()["cases"]) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const ScratchFolder folder;
    const Tokenizer tokenizer = make(entry, folder);
    for (const Json& row : entry["decoded"]) {
      EXPECT_EQ(tokenizer.decode(row[0].get<std::vector<int32_t>>(), row[2].get<bool>()), row[1].get<std::string>()) << row.dump();
    }
  }
}

TEST(TokenizerFixture, BothStylesOfMergesGiveTheSameIds) {
  for (const Json& entry : fixture()["cases"]) {
    if (entry["name"] != "llama3") continue;
    const ScratchFolder folder;
    const Tokenizer strings = make(entry, folder);
    Json file = parse_json_file(folder / "tokenizer.json");
    Json pairs = Json::array();
    for (const Json& merge : file["model"]["merges"]) {
      const std::string text = merge.get<std::string>();
      const size_t space = text.find(' ');
      pairs.push_back(Json::array({text.substr(0, space), text.substr(space + 1)}));
    }
    file["model"]["merges"] = pairs;
    write(folder / "tokenizer.json", dump_json(file));
    const Tokenizer lists = Tokenizer::load(folder.path());
    Encoder a(strings), b(lists);
    for (const Json& text : fixture()["texts"]) {
      std::vector<int32_t> x, y;
      a.encode(text.get<std::string>(), x);
      b.encode(text.get<std::string>(), y);
      EXPECT_EQ(x, y);
    }
    return;
  }
  FAIL() << "the fixture has no llama3";
}

TEST(TokenizerFixture, BrokenUtf8CountsAsReplacementCharacters) {
  for (const Json& entry : fixture()["cases"]) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const ScratchFolder folder;
    const Tokenizer tokenizer = make(entry, folder);
    Encoder encoder(tokenizer);
    std::vector<int32_t> broken, repaired;
    encoder.encode("a\xFF b\xE6\xB5 c\xED\xA0\x80 d\xF0\x9F\x98", broken);
    encoder.encode("a\uFFFD b\uFFFD c\uFFFD\uFFFD\uFFFD d\uFFFD", repaired);
    EXPECT_EQ(broken, repaired);
  }
}

}  // namespace
}  // namespace llmtrain
