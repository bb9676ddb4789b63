// Hostile and damaged safetensors files are refused by name; good ones are read by ranges, converted.
#include "hf/safetensors.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <random>

#include "hf/support.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using namespace testing_support;
namespace fs = std::filesystem;

const char kTwo[] = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
const std::string kTwoData = bytes_of<float>({1, 2, 3, 4, 5, 6}) + bytes_of<uint16_t>({0x3f80, 0x4000, 0x4040, 0xc080});

class Safetensors : public ::testing::Test {
 protected:
  std::string refuse(const std::string& content) {
    write_text(path_, content);
    const std::string message = refusal([&] { SafetensorsFile::open(path_); });
    if (!message.empty()) {
      EXPECT_EQ(message.rfind(path_ + ": ", 0), 0u) << message;
    }
    return message;
  }
  void expect_refused(const std::string& header, const std::string& data, const std::string& because) {
    EXPECT_NE(refuse(safetensors(header, data)).find(because), std::string::npos) << header << "\n  " << refuse(safetensors(header, data));
  }
  ScratchFolder folder_;
  std::string path_ = folder_ / "x.safetensors";
};

TEST_F(Safetensors, RangesAreReadAndConverted) {
  write_text(path_, safetensors(kTwo, kTwoData));
  const SafetensorsFile f = SafetensorsFile::open(path_);
  ASSERT_EQ(f.entries().size(), 2u);
  EXPECT_EQ(f.entries()[0].shape, (Shape{2, 3}));
  EXPECT_EQ(f.find("c"), nullptr);
  std::vector<float> a(3);
  f.read_range("a", 2, 3, a.data(), DType::float32);
  EXPECT_EQ(a, (std::vector<float>{3, 4, 5}));
  std::vector<float> b(4);
  f.read_range("b", 0, 4, b.data(), DType::float32);
  EXPECT_EQ(b, (std::vector<float>{1, 2, 3, -4}));
  std::vector<uint16_t> half(2);
  f.read_range("b", 2, 2, half.data(), DType::float16);
  EXPECT_EQ(half, (std::vector<uint16_t>{0x4200, 0xc400}));
  EXPECT_NE(refusal([&] { f.read_range("c", 0, 1, b.data(), DType::float32); }).find("\"c\""), std::string::npos);
}

TEST_F(Safetensors, EmptyTensorsScalarsMetadataAndPaddingAreRead) {
  write_text(
      path_,
      safetensors(
          R"({"__metadata__":{"format":"pt"},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}      )",
          bytes_of<int64_t>({42})));
  const SafetensorsFile f = SafetensorsFile::open(path_);
  EXPECT_EQ(f.metadata().at(0).second, "pt");
  int64_t s = 0;
  f.read_range("s", 0, 1, &s, DType::int64);
  EXPECT_EQ(s, 42);
  EXPECT_NE(refusal([&] { f.read_range("s", 0, 1, &s, DType::float64); }).find("int64"), std::string::npos);
  write_text(path_, safetensors("{}", ""));
  EXPECT_TRUE(SafetensorsFile::open(path_).entries().empty());
}

TEST_F(Safetensors, AFileCutAnywhereIsRefused) {
  const std::string whole = safetensors(kTwo, kTwoData);
  for (size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refuse(whole.substr(0, length)), "") << "cut at byte " << length;
  EXPECT_EQ(refuse(whole), "");
  EXPECT_NE(refuse(whole + "x").find("behind the last tensor"), std::string::npos);
}

TEST_F(Safetensors, ByteRangesMustCoverTheDataExactly) {
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", "1234567",
                 "overlaps");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[5,7]}})", "1234567", "hole");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", "12345", "hole");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "12345", "behind the last tensor");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "123", "truncated");
  expect_refused(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}})", "1234", "needs 16 bytes");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", "1234", "end before they begin");
}

TEST_F(Safetensors, ProductsThatWrapAroundAreRefused) {
  // 2^32 * 2^32 wraps to 0 in 64 bits; 2^62 elements of 4 bytes too; and with a zero that comes later.
  expect_refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "", "larger than any file");
  expect_refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", "", "larger than any file");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", "", "larger than any file");
  expect_refused(R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0]}})", "", "too large");
  expect_refused(R"({"a":{"dtype":"U8","shape":[36893488147419103232],"data_offsets":[0,0]}})", "", "too large");
}

TEST_F(Safetensors, HeadersThatSayNonsenseAreRefused) {
  expect_refused(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})", "", "negative");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "1", "not whole");
  expect_refused(R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", "1", "not expected");
  expect_refused(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", "1", "F8_E4M3");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1],"data_offsets":[0,1]}})", "1", "more than 4 dimensions");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", "1", "data_offsets");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "1", "data_offsets");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1]}})", "1", "data_offsets is missing");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", "1", "unknown field");
  expect_refused(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1", "twice");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "12", "twice");
  expect_refused(R"({"__metadata__":{"a":"1","a":"2"}})", "", "twice");
  expect_refused(R"({"__metadata__":{},"__metadata__":{}})", "", "twice");
  expect_refused(R"({"__metadata__":{"a":1}})", "", "not expected");
  expect_refused(R"({"a":[1]})", "", "not expected");
  expect_refused(R"({"a":{"dtype":{"x":1}}})", "", "not expected");
  expect_refused(R"([])", "", "does not begin with '{'");
  expect_refused(R"( {})", "", "does not begin with '{'");
  expect_refused(R"({}{})", "", "broken JSON");
  expect_refused("{\"\xff\":{}}", "", "broken JSON");
  expect_refused("", "", "does not begin");
  expect_refused("{\"a\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", "", "control characters");
  expect_refused(std::string("{\"a\":") + std::string(100000, '['), "", "not expected");
}

TEST_F(Safetensors, OtherFormatsAreRefusedWithAdvice) {
  EXPECT_NE(refuse(std::string("PK\x03\x04\x14\x00\x08\x08\x00\x00", 10) + " archive/data.pkl").find("save_pretrained"), std::string::npos);
  EXPECT_NE(refuse(std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", 10)).find("pickle"), std::string::npos);
  EXPECT_NE(refuse(std::string("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00", 10)).find("pickle"), std::string::npos);
  EXPECT_NE(refuse("GGUF\x03....................").find("GGUF"), std::string::npos);
  // A header whose length begins like a pickle is a good file: 0x0280 = 640 bytes.
  EXPECT_EQ(refuse(safetensors("{}" + std::string(638, ' '), "")), "");
  EXPECT_NE(refuse(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)).find("header of 18446744073709551615 bytes"), std::string::npos);
  EXPECT_NE(refuse(std::string("\x00\xe1\xf5\x06\x00\x00\x00\x00{", 9)).find("header of 116777216 bytes"), std::string::npos);  // over 100 MB
}

TEST_F(Safetensors, AFolderAPipeOrNothingIsRefused) {
  EXPECT_NE(refusal([&] { SafetensorsFile::open(folder_.path()); }), "");
  EXPECT_NE(refusal([&] { SafetensorsFile::open(folder_ / "absent"); }).find("no such file"), std::string::npos);
}

// Kilobytes that /proc/self/status gives for `key`.
int64_t status_kb(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1));
  }
  return -1;
}

std::string header_of(int tensors) {
  std::string header = "{";
  for (int i = 0; i < tensors; ++i) header += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  return header + "}";
}

// Hostile input: at most 2 x file + 64 MB of memory, and a second (here 10 of this process's own
// time: on a shared machine the clock on the wall measures the neighbours).
TEST_F(Safetensors, AHeaderOfAMillionTensorsIsReadWithinBounds) {
  write_text(path_, safetensors(header_of(1'000'000), ""));
  const int64_t file_kb = static_cast<int64_t>(fs::file_size(path_)) / 1024;
  const bool resets = std::ofstream("/proc/self/clear_refs").write("5", 1).flush().good();
  const int64_t before_kb = status_kb("VmRSS");
  const std::clock_t begin = std::clock();
  EXPECT_EQ(SafetensorsFile::open(path_).entries().size(), 1'000'000u);
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 10.0);
  if (resets) {
    EXPECT_LE(status_kb("VmHWM") - before_kb, 2 * file_kb + 64 * 1024);
  }
  EXPECT_NE(refuse(safetensors(header_of(1'000'001), "")).find("more than 1000000 tensors"), std::string::npos);
}

TEST_F(Safetensors, RandomDamageNeverPassesForAnotherFile) {
  const std::string whole = safetensors(kTwo, kTwoData);
  std::mt19937 random(7);
  for (int i = 0; i < 500; ++i) {
    std::string damaged = whole;
    const size_t at = random() % (8 + sizeof kTwo - 1);
    damaged[at] = static_cast<char>(random());
    write_text(path_, damaged);
    try {
      const SafetensorsFile f = SafetensorsFile::open(path_);
      uint64_t covered = 0;
      for (const SafetensorsEntry& e : f.entries()) covered += e.end - e.begin;  // what still opens covers the data (a changed name, say)
      EXPECT_EQ(covered, kTwoData.size());
    } catch (const InputError&) {
    }
  }
}

TEST_F(Safetensors, TheHeaderThatIsWrittenIsRead) {
  std::vector<SafetensorsEntry> entries = {{"x", DType::bfloat16, {3, 2}, 0, 0}, {"quote\"d", DType::float32, {}, 0, 0}};
  const std::string header = make_safetensors_header(entries);
  EXPECT_EQ(header.size() % 8, 0u);
  EXPECT_EQ(entries[1].end, header.size() + 16);
  write_text(path_, header + std::string(16, '\0'));
  const SafetensorsFile f = SafetensorsFile::open(path_);
  EXPECT_EQ(f.entries()[1].name, "quote\"d");
  EXPECT_EQ(f.entries()[1].begin, entries[1].begin);
}

TEST(SafetensorsShared, EveryFileOfTheReferenceOpens) {
  SKIP_WITHOUT_SHARED();
  int seen = 0;
  for (const auto& item : std::filesystem::recursive_directory_iterator(shared_dir() + "/reference")) {
    if (item.path().extension() != ".safetensors") continue;
    EXPECT_FALSE(SafetensorsFile::open(item.path().string()).entries().empty());
    ++seen;
  }
  EXPECT_GE(seen, 41);
}

}  // namespace
}  // namespace llmtrain
