// Memory while data is prepared: bounded by a few runs of rows, whatever the size of the file and of the store. And what wrong input leaves behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "data_support.h"

namespace llmtrain {
namespace {

using namespace testing_support;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // memory is kept aside by the sanitizer
#else
constexpr bool kSanitized = false;
#endif

// VmHWM of this process in bytes; reset_peak() makes it what is resident now (proc(5), clear_refs). False where the kernel does not offer that.
uint64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) << 10;
  }
  return 0;
}
bool reset_peak() {
  std::ofstream out("/proc/self/clear_refs");
  out << "5";
  return static_cast<bool>(out.flush());
}

class DataMemory : public DataFolderTest {
 protected:
  void SetUp() override {
    DataFolderTest::SetUp();
    write_text(scratch / "data/dataset_info.json", R"({"d": {"file_name": "d.jsonl"}, "bad": {"file_name": "bad.jsonl"}})");
  }
  Dataset prepare() {
    SoloGroup solo;
    return prepare_data(options, tokenizer, solo, quiet);
  }
};

TEST_F(DataMemory, StaysFarBelowTheFileAndTheStore) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer keeps freed memory";
  // 32 MiB of short rows, which become a store of about 100 MiB: a store that stays mapped would be seen.
  constexpr size_t kFile = size_t{32} << 20;
  constexpr uint64_t kMost = uint64_t{64} << 20;
  std::string rows;
  rows.reserve(kFile + 256);
  for (int i = 0; rows.size() < kFile; ++i)
    rows += "{\"instruction\":\"question " + std::to_string(i) + "\",\"output\":\"" + std::string(120, static_cast<char>('a' + i % 26)) + "\"}\n";
  write_text(scratch / "data/d.jsonl", rows);
  rows = std::string();
  if (!reset_peak()) GTEST_SKIP() << "the kernel does not reset VmHWM";
  const uint64_t before = peak_bytes();
  for (const char* way : {"built", "found", "written out"}) {
    const Dataset data = prepare();
    if (std::string(way) == "written out") write_golden_lines(data.train, scratch / "rows.jsonl");
    uint64_t store_bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(options.store_dir)) store_bytes += entry.is_regular_file() ? entry.file_size() : 0;
    EXPECT_GT(store_bytes, uint64_t{90} << 20);
    EXPECT_LT(peak_bytes() - before, kMost) << way;
  }
}

TEST_F(DataMemory, WrongInputFoundLateLeavesNothingBehind) {
  write_text(scratch / "data/d.jsonl", "{\"instruction\":\"q\",\"output\":\"a\"}\n");
  write_text(scratch / "data/bad.jsonl", "{\"instruction\":\"q\",\"output\":\"a\"}\n{\"instruction\":\n");
  options.eval_dataset = {"bad"};
  EXPECT_SAYS(input_error([&] { prepare(); }), "bad.jsonl: row 2");
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
  options.eval_dataset.clear();
  options.val_size = 5;
  EXPECT_SAYS(input_error([&] { prepare(); }), "val_size");
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
  options.val_size = 1e300;  // would not fit any integer
  EXPECT_SAYS(input_error([&] { prepare(); }), "val_size");
  // What an earlier run has made stays.
  options.val_size = 0;
  prepare();
  options.val_size = 5;
  EXPECT_SAYS(input_error([&] { prepare(); }), "val_size");
  EXPECT_FALSE(std::filesystem::is_empty(options.store_dir));
}

TEST_F(DataMemory, NumbersOfAManifestThatFitNoIntegerAreRefused) {
  write_text(scratch / "data/d.jsonl", "{\"instruction\":\"q\",\"output\":\"a\"}\n");
  options.store_dir.clear();
  options.tokenized_path = scratch / "given";
  prepare();
  const std::string manifest = options.tokenized_path + "/train/manifest.json", sound = read_text(manifest);
  for (const char* key : {"rows", "cutoff_len", "eos_id", "pad_id", "version", "bytes", "tokens"}) {
    for (const char* value : {"1e300", "-5", "18446744073709551615", "\"1\"", "null"}) {
      Json json = parse_json(sound, "manifest");
      (json.contains(key) ? json : std::string(key) == "bytes" ? json["parts"][0] : json["report"])[key] = parse_json(value, "value");
      write_text(manifest, dump_json(json));
      EXPECT_SAYS(input_error([&] { prepare(); }), key) << value;
    }
  }
}

TEST_F(DataMemory, AHistoryThatIsNoListIsNamedWithFileAndRow) {
  write_text(scratch / "data/dataset_info.json",
             R"({"d": {"file_name": "d.jsonl", "columns": {"prompt": "instruction", "response": "output", "history": "history"}}})");
  write_text(scratch / "data/d.jsonl", R"({"instruction":"q","output":"a","history":null}
{"instruction":"q","output":"a","history":[]}
{"instruction":"q","output":"a","history":"earlier"}
{"instruction":"q","output":"a","history":{"q":"a"}}
)");
  const Dataset data = prepare();
  EXPECT_EQ(data.train.size(), 2u);
  const auto& dropped = data.reports[0].datasets[0].dropped;
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_SAYS(dropped.begin()->first, "history is not a list");
  EXPECT_EQ(dropped.begin()->second.count, 2u);
  EXPECT_EQ(dropped.begin()->second.row, 3u);
  EXPECT_SAYS(dropped.begin()->second.file, "d.jsonl");
  const std::string lines = [&] {
    std::string all;
    for (const std::string& line : report_lines(data.reports[0])) all += line + "\n";
    return all;
  }();
  EXPECT_SAYS(lines, "d.jsonl: row 3");
}

std::vector<std::string> sorted_lines(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

TEST_F(DataMemory, GoldenLinesHoldEveryRowOnce) {
  std::string rows;
  for (int i = 0; i < 10; ++i) rows += "{\"instruction\":\"r\",\"output\":\"" + std::string(static_cast<size_t>(i + 1), 'x') + "\"}\n";
  write_text(scratch / "data/d.jsonl", rows);
  const Dataset all = prepare();
  write_golden_lines(all.train, scratch / "all.jsonl");
  options.val_size = 4;
  const Dataset split = prepare();
  ASSERT_EQ(split.train.size(), 6u);
  write_golden_lines({split.eval[0].store, split.train}, scratch / "both.jsonl");
  EXPECT_EQ(sorted_lines(read_text(scratch / "both.jsonl")), sorted_lines(read_text(scratch / "all.jsonl")));
}

}  // namespace
}  // namespace llmtrain
