// Learning a byte-level BPE tokenizer.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

const char* const kText = "low low low low low lower lower newest newest newest newest newest newest widest widest widest\n";

TEST(TrainBytePairs, MergesTheMostFrequentPairFirst) {
  const ScratchFolder folder;
  BpeTrainingOptions options;
  options.vocab_size = 256 + 2 + 4;
  train_byte_level_bpe(kText, options, folder.path());
  const Json merges = parse_json_file(folder / "tokenizer.json")["model"]["merges"];
  // Words with their blank: " low" 4 + "low" 1, " lower" 2, " newest" 6, " widest" 3. Pairs: es 9, st 9, lo 7, ow 7, we 8, " l" 6 …: the first of
  // equals has the smaller ids ('e' before 's').
  EXPECT_EQ(merges[0], Json::array({"e", "s"}));
  EXPECT_EQ(merges[1], Json::array({"es", "t"}));
  EXPECT_EQ(merges.size(), 4u);
}

TEST(TrainBytePairs, TheResultLoadsAndItsSpecialTokensAreFound) {
  const ScratchFolder folder;
  BpeTrainingOptions options;
  options.vocab_size = 300;
  options.more_special_tokens = {"<|im_start|>", "<|im_end|>"};
  options.chat_template = "{{ messages }}";
  train_byte_level_bpe(kText, options, folder.path());
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_LE(tokenizer.vocab_size(), 300);
  EXPECT_EQ(tokenizer.eos_id(), tokenizer.id_of("<|end_of_text|>"));
  EXPECT_EQ(tokenizer.chat_template(), "{{ messages }}");
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode("lowest<|im_end|> \u00e9\x01", ids);
  EXPECT_EQ(tokenizer.decode(ids, false), "lowest<|im_end|> \u00e9\x01");
  EXPECT_EQ(tokenizer.decode(ids, true), "lowest \u00e9\x01");
}

TEST(TrainBytePairs, TheSameTextGivesTheSameFiles) {
  const ScratchFolder a, b;
  BpeTrainingOptions options;
  options.vocab_size = 400;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "word" + std::to_string(i * 7919 % 977) + (i % 3 ? " " : ", ");
  train_byte_level_bpe(text, options, a.path());
  train_byte_level_bpe(text, options, b.path());
  EXPECT_EQ(read_file(a / "tokenizer.json"), read_file(b / "tokenizer.json"));
  EXPECT_EQ(Tokenizer::load(a.path()).vocab_size(), 400);
}

TEST(TrainBytePairs, StopsWhenNoPairIsLeftAndRefusesTooFewTokens) {
  const ScratchFolder folder;
  BpeTrainingOptions options;
  options.vocab_size = 5000;
  train_byte_level_bpe("ab", options, folder.path());
  EXPECT_EQ(Tokenizer::load(folder.path()).vocab_size(), 256 + 1 + 2);
  options.vocab_size = 257;
  EXPECT_THROW(train_byte_level_bpe("ab", options, folder.path()), InputError);
  options.vocab_size = 300;
  options.more_special_tokens = {"ab"};
  EXPECT_THROW(train_byte_level_bpe("ab", options, folder.path()), InputError);
}

}  // namespace
}  // namespace llmtrain
