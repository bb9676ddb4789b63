// How scalars, YAML and key names are read.
#include <gtest/gtest.h>

#include <chrono>

#include "config/value.h"
#include "config/yaml.h"
#include "core/error.h"

namespace llmtrain {
namespace {

std::string error_of(const std::string& yaml) {
  try {
    parse_yaml(yaml, "c.yaml");
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(Scalars, NumbersParseAsPythonWritesThem) {
  EXPECT_EQ(parse_number("1e-5"), 1e-5);
  EXPECT_EQ(parse_number("1.0e-5"), 1e-5);
  EXPECT_EQ(parse_number("5.E+2"), 500.0);
  EXPECT_EQ(parse_number("-.5"), -0.5);
  EXPECT_EQ(parse_number("+3"), 3.0);
  EXPECT_EQ(parse_number("1_000"), 1000.0);
  for (const char* bad : {"", "e5", "1e", "nan", "inf", ".inf", "0x10", "1-2", "1 ", "--1", "1.2.3", "1e400"}) EXPECT_FALSE(parse_number(bad)) << bad;
}

TEST(Scalars, IntegersMustBeWholeAndUnambiguous) {
  EXPECT_EQ(parse_integer("2048"), 2048);
  EXPECT_EQ(parse_integer("-1"), -1);
  EXPECT_EQ(parse_integer("8.0"), 8);
  EXPECT_EQ(parse_integer("1e3"), 1000);
  EXPECT_EQ(parse_integer("1_000"), 1000);
  for (const char* bad : {"8.5", "010", "9223372036854775808", "1e30", "", "abc", "0x8"}) EXPECT_FALSE(parse_integer(bad)) << bad;
}

TEST(Scalars, NumbersAreWrittenSoThatTheyReadBackExactly) {
  for (double v : {1e-5, 0.1, 1.0 / 3.0, 5e-324, 1e300, 3.0, 0.0, -2.5}) EXPECT_EQ(parse_number(format_number(v)), v);
  EXPECT_EQ(format_number(3), "3.0");
}

TEST(Scalars, QuotedTextSurvivesYaml) {
  for (const std::string text : {"plain", "a: b", "", "null", "no", "1e5", "line\nbreak", "tab\t\"quote\" \\ back", "#x", "- a", "\x01", "ä[b], {c}",
                                 " blank ", "*a", "&b", "!c", "@d", "%e", "Qwen/Qwen3-4B"}) {
    const YamlNode root = parse_yaml("k: " + quote_yaml(text), "t");
    EXPECT_EQ(root.entries.at(0).second.text, text);
    EXPECT_EQ(root.entries.at(0).second.kind, YamlNode::Kind::scalar) << text;
  }
}

TEST(Names, NearestIsBySmallestEditDistance) {
  EXPECT_EQ(nearest("cutof_len", {"cutoff_len", "cache_dir"}), "cutoff_len");
  EXPECT_EQ(nearest("laerning_rate", {"learning_rate", "warmup_ratio"}), "learning_rate");  // a swap counts once
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Yaml, LinesAreKept) {
  const YamlNode root = parse_yaml("a: 1\n# comment\n\nb:\n  c: [x, y]\n", "t");
  EXPECT_EQ(root.entries[0].second.line, 1);
  EXPECT_EQ(root.entries[1].first, "b");
  EXPECT_EQ(root.entries[1].second.entries[0].second.items[1].text, "y");
  EXPECT_EQ(root.entries[1].second.entries[0].second.line, 5);
}

TEST(Yaml, NullsAndQuotesAreTold) {
  const YamlNode root = parse_yaml("a: null\nb: ~\nc:\nd: 'null'\ne: \"\"\n", "t");
  for (int i : {0, 1, 2}) EXPECT_EQ(root.entries[i].second.kind, YamlNode::Kind::null) << i;
  for (int i : {3, 4}) {
    EXPECT_EQ(root.entries[i].second.kind, YamlNode::Kind::scalar) << i;
    EXPECT_TRUE(root.entries[i].second.quoted);
  }
}

TEST(Yaml, BrokenTextNamesFileLineAndColumn) {
  EXPECT_NE(error_of("a: 1\nb: [1, 2\nc: 3\n").find("c.yaml:3:2"), std::string::npos) << error_of("a: 1\nb: [1, 2\nc: 3\n");
  EXPECT_NE(error_of("a: 'x").find("c.yaml:1:"), std::string::npos);
  EXPECT_NE(error_of("a: b: c").find("c.yaml:1:"), std::string::npos);
  EXPECT_NE(error_of("a: 1\n\tb: 2\n").find("c.yaml:2"), std::string::npos);
}

TEST(Yaml, WhatNoConfigurationNeedsIsRefused) {
  EXPECT_NE(error_of("a: &x 1\nb: 2").find("anchor"), std::string::npos);
  EXPECT_NE(error_of("a: &x [1]\nb: *x").find("anchor"), std::string::npos);
  EXPECT_NE(error_of("a: 1\na: 2\n").find("c.yaml:2:1: the key 'a' stands twice"), std::string::npos) << error_of("a: 1\na: 2\n");
  EXPECT_NE(error_of("- a\n- b\n").find("not a map"), std::string::npos);
  EXPECT_NE(error_of("just text").find("not a map"), std::string::npos);
  EXPECT_NE(error_of("").find("empty"), std::string::npos);
  EXPECT_NE(error_of("a: 1\n---\nb: 2\n").find("more than one"), std::string::npos);
  EXPECT_NE(error_of("a: !!python/object:os.system x").find("tag"), std::string::npos);
  EXPECT_NE(error_of("? [a]\n: b\n").find("cannot be a key"), std::string::npos);
  EXPECT_NE(error_of("a: \xff\xfe").find("UTF-8"), std::string::npos);
  EXPECT_NE(error_of(std::string("a: b\0c", 6)).find("UTF-8"), std::string::npos);
  EXPECT_NE(error_of("a: " + std::string(kYamlMaxBytes, 'x')).find("1 MiB"), std::string::npos);
  EXPECT_NE(error_of("a: " + std::string(40, '[') + std::string(40, ']')).find("deeper"), std::string::npos);
}

// Hostile input: at most a second each, and never a crash.
TEST(Yaml, HostileTextsEndInASecond) {
  const size_t n = 200000;
  std::string bombs[6];
  bombs[0] = "a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n";
  for (size_t i = 0; i < n; ++i) bombs[1] += '[', bombs[2] += '{', bombs[3] += "- ", bombs[4] += "? ", bombs[5] += "a: ";
  for (const std::string& bomb : bombs) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_NE(error_of(bomb), "");
    EXPECT_NE(error_of("a: " + bomb), "");
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 4.0)
        << bomb.substr(0, 8);  // two texts, on a loaded machine
  }
}

}  // namespace
}  // namespace llmtrain
