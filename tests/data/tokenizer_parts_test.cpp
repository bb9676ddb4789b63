// The parts that tokenizers are made of, against slow and simple versions of the same rule.
#include <gtest/gtest.h>

#include <ctime>
#include <random>

#include "data/bpe_model.h"
#include "data/tokenizer_added.h"
#include "data/tokenizer_split.h"
#include "data/unicode.h"

namespace llmtrain {
namespace {

// Lowest rank first, of equal ranks the leftmost: by the book.
std::vector<int32_t> merge_slowly(const MergeTable& table, std::vector<int32_t> s) {
  for (;;) {
    size_t best = 0;
    uint32_t rank = MergeTable::kNone;
    for (size_t i = 0; i + 1 < s.size(); ++i) {
      const uint32_t r = table.rank(s[i], s[i + 1]);
      if (r < rank) rank = r, best = i;
    }
    if (rank == MergeTable::kNone) return s;
    s[best] = table.merged(rank);
    s.erase(s.begin() + static_cast<long>(best) + 1);
  }
}

TEST(Merger, EqualsTheRuleByTheBookAtEveryLength) {
  std::mt19937 random(7);
  for (int round = 0; round < 12; ++round) {
    // Random merges over few symbols; ranks out of order, so that a later merge may have a lower rank.
    MergeTable table;
    const int32_t letters = 2 + round % 4;
    int32_t next = letters;
    std::vector<uint32_t> ranks(60);
    for (uint32_t i = 0; i < ranks.size(); ++i) ranks[i] = i;
    if (round % 2) std::shuffle(ranks.begin(), ranks.end(), random);
    for (const uint32_t rank : ranks) {
      const auto left = static_cast<int32_t>(random() % static_cast<uint32_t>(next));
      const auto right = static_cast<int32_t>(random() % static_cast<uint32_t>(next));
      if (table.rank(left, right) == MergeTable::kNone) table.add(left, right, next++, rank);
    }
    Merger merger(table);
    for (const size_t n : {0u, 1u, 2u, 3u, 7u, 39u, 40u, 41u, 300u, 2047u, 2048u, 2049u, 5000u}) {  // the borders of the three ways to merge
      std::vector<int32_t> symbols(n);
      for (int32_t& s : symbols) s = static_cast<int32_t>(random() % static_cast<uint32_t>(letters));
      const std::vector<int32_t> expected = merge_slowly(table, symbols);
      symbols.resize(merger.merge(symbols.data(), symbols.size()));
      EXPECT_EQ(symbols, expected) << "round " << round << ", " << n << " symbols";
    }
  }
}

TEST(MergeTable, OfTwoMergesOfOnePairTheLaterCounts) {
  MergeTable table;
  for (int32_t i = 0; i < 1000; ++i) table.add(i, i + 1, 5000 + i, static_cast<uint32_t>(i));
  table.add(3, 4, 9000, 1000);
  EXPECT_EQ(table.rank(3, 4), 1000u);
  EXPECT_EQ(table.merged(1000), 9000);
  EXPECT_EQ(table.rank(998, 999), 998u);
  EXPECT_EQ(table.rank(4, 3), MergeTable::kNone);
}

TEST(Vocabulary, FindsWhatWasAddedAndRefusesTwice) {
  Vocabulary vocabulary;
  for (int32_t i = 0; i < 3000; ++i) ASSERT_TRUE(vocabulary.add("token" + std::to_string(i), i * 2));
  EXPECT_FALSE(vocabulary.add("token7", 1));
  EXPECT_FALSE(vocabulary.add("other", 14));
  EXPECT_EQ(vocabulary.find("token2999"), 5998);
  EXPECT_EQ(vocabulary.find("token3000"), -1);
  EXPECT_EQ(vocabulary.token(14), "token7");
  EXPECT_FALSE(vocabulary.has(15));
  EXPECT_EQ(vocabulary.end(), 5999);
}

std::vector<std::string> words(const SplitPattern& pattern, std::string_view text) {
  const WordScanner scanner(UnicodeClasses::get(), pattern);
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = scanner.next(text, at);
    out.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return out;
}

// Expected values: Hugging Face tokenizers 0.23.3, which drops the empty pieces that such a match leaves.
TEST(AddedTokens, WhiteSpaceThatThePreviousTokenTookIsNoTokenAgain) {
  const auto cut = [](std::string_view text, bool lstrip) {
    AddedToken newline;
    newline.content = "\n";
    newline.rstrip = true;
    newline.lstrip = lstrip;
    StringMatcher matcher;
    matcher.add("\n", 0);
    std::string pieces;
    split_at_added_tokens(matcher, {newline}, UnicodeClasses::get(), text, [&](int32_t) { pieces += "[N]"; },
                          [&](size_t begin, size_t end) { pieces += text.substr(begin, end - begin); });
    return pieces;
  };
  EXPECT_EQ(cut("a\n \n\nb", true), "a[N]b");
  EXPECT_EQ(cut("a \n  b\n", true), "a[N]b[N]");
  EXPECT_EQ(cut("a\n\n\nb", false), "a[N][N][N]b");
}

TEST(WordScanner, SplitsAsTheRegularExpressionsSay) {
  using Kind = SplitPattern::Kind;
  using List = std::vector<std::string>;
  EXPECT_EQ(words({Kind::kGpt2, 0, true}, "It's  12345\n\n x"), (List{"It", "'s", " ", " 12345", "\n\n", " x"}));
  EXPECT_EQ(words({Kind::kCl100k, 3, true}, "IT'S  12345!\n\n x"), (List{"IT", "'S", " ", " ", "123", "45", "!\n\n", " x"}));
  EXPECT_EQ(words({Kind::kCl100k, 1, true}, "a12 \t\n b"), (List{"a", "1", "2", " \t\n", " b"}));
  EXPECT_EQ(words({Kind::kO200k, 3, true}, "HTMLParser's a/b"), (List{"HTMLParser's", " a", "/b"}));
  EXPECT_EQ(words({Kind::kO200k, 3, true}, "camelCase ABC"), (List{"camel", "Case", " ABC"}));
}

TEST(WordScanner, AnUnknownPatternIsNotRecognised) {
  EXPECT_TRUE(recognise_split_pattern(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"));
  EXPECT_FALSE(recognise_split_pattern(R"(\p{L}+)"));
  EXPECT_FALSE(recognise_split_pattern(""));
}

TEST(UnicodeClasses, KnowWhatTheReferenceKnows) {
  const UnicodeClasses& c = UnicodeClasses::get();
  EXPECT_EQ(c.of('A'), CharClass::kLu);
  EXPECT_EQ(c.of('7'), CharClass::kNd);
  EXPECT_EQ(c.of('_'), CharClass::kWordOther);
  EXPECT_EQ(c.of('\n'), CharClass::kNewline);
  EXPECT_EQ(c.of(0xA0), CharClass::kSpace);
  EXPECT_EQ(c.of(0x301), CharClass::kM);
  EXPECT_EQ(c.of(0x4E00), CharClass::kLo);
  EXPECT_EQ(c.of(0x105C0), CharClass::kLo) << "Unicode 16";
  EXPECT_EQ(c.of(0xE0100), CharClass::kM);
  EXPECT_EQ(c.of(0x10FFFF), CharClass::kOther);
}

std::string normal(std::string_view text, NormalForm form) {
  std::string out;
  Normalizer::get().append(text, form, out);
  return out;
}

TEST(Normalizer, FollowsTheExamplesOfAnnex15) {
  EXPECT_EQ(normal("A\u030a", NormalForm::kNFC), "\u00c5");
  EXPECT_EQ(normal("\u212b", NormalForm::kNFC), "\u00c5");
  EXPECT_EQ(normal("\u1e9b\u0323", NormalForm::kNFC), "\u1e9b\u0323");
  EXPECT_EQ(normal("\u1e9b\u0323", NormalForm::kNFD), "\u017f\u0323\u0307");
  EXPECT_EQ(normal("\u1e9b\u0323", NormalForm::kNFKC), "\u1e69");
  EXPECT_EQ(normal("\u1e9b\u0323", NormalForm::kNFKD), "s\u0323\u0307");
  EXPECT_EQ(normal("\u1100\u1161\u11a8x", NormalForm::kNFC), "\uac01x");
  EXPECT_EQ(normal("\uac01", NormalForm::kNFD), "\u1100\u1161\u11a8");
  EXPECT_EQ(normal("plain \u00e9\u0301 text", NormalForm::kNFC), "plain \u00e9\u0301 text");
  EXPECT_EQ(normal("\u0958", NormalForm::kNFC), "\u0915\u093c") << "excluded from composition";
}

TEST(Normalizer, TheQuickCheckNeverSaysNormalOfTextThatIsNot) {
  std::mt19937 random(11);
  const std::pair<uint32_t, uint32_t> blocks[] = {{0x20, 0x17F}, {0x300, 0x345}, {0x1100, 0x11FF}, {0xAC00, 0xAC40}, {0x900, 0x9FF},
                                                   {0x1E00, 0x1FFF}, {0xF900, 0xFAFF}, {0x2100, 0x212F}};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (int k = 0; k < 5; ++k) {
      const auto [first, last] = blocks[random() % std::size(blocks)];
      utf8_append(text, first + random() % (last - first + 1));
    }
    for (const NormalForm form : {NormalForm::kNFC, NormalForm::kNFD, NormalForm::kNFKC, NormalForm::kNFKD}) {
      const std::string once = normal(text, form);
      EXPECT_EQ(normal(once, form), once) << "not idempotent: " << text;
      if (Normalizer::get().is_surely_normal(text, form)) {
        EXPECT_EQ(once, text);
      }
    }
  }
}

// Sixteen times the marks: linear takes 16 times as long (a few times more where caches end), quadratic 256 times. The limit lies between.
TEST(Normalizer, ALongRunOfMarksStaysLinear) {
  const auto cpu_seconds = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };  // the machine may be busy
  const auto seconds = [&](size_t marks) {
    std::string text = "e";
    for (size_t i = 0; i < marks; ++i) text += i % 2 ? "\u0301" : "\u0316";
    double best = 1e9;
    for (int k = 0; k < 3; ++k) {
      const double start = cpu_seconds();
      EXPECT_EQ(normal(text, NormalForm::kNFC).size() > marks, true);
      best = std::min(best, cpu_seconds() - start);
    }
    return best + 0.0005;  // what is too short to be measured says nothing
  };
  EXPECT_LT(seconds(640000) / seconds(40000), 64.0);
}

TEST(Utf8, RepairReplacesMaximalSubparts) {
  EXPECT_EQ(utf8_repaired("a\x80z"), "a\uFFFDz");
  EXPECT_EQ(utf8_repaired("\xE6\xB5\xB7\xE6\xB5"), "\u6d77\uFFFD");
  EXPECT_EQ(utf8_repaired("\xF0\x9F\x98x\xC0\x80"), "\uFFFDx\uFFFD\uFFFD");
  EXPECT_EQ(utf8_repaired("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_TRUE(utf8_is_valid(utf8_repaired("\xFF\xFE\xE2\x82")));
}

}  // namespace
}  // namespace llmtrain
