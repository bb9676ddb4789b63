// Splitting dataset files into rows: every format, every way to be broken, bounded memory.
#include "data/row_source.h"

#include <unistd.h>

#include "data_support.h"

namespace llmtrain {
namespace {

using namespace testing_support;

class Rows : public ::testing::Test {
 protected:
  ScratchFolder scratch;
  // The field "text" of every row; reads all of them in order, then each alone.
  std::vector<std::string> texts(const std::string& name, const std::string& content, uint64_t stride = 1024) {
    const std::string path = scratch / name;
    write_text(path, content);
    SourceFile file;
    file.path = path;
    file.stride = stride;
    scan_file(file, UINT64_MAX);
    std::vector<std::string> all;
    RowReader reader(file);
    for (uint64_t i = 0; i < file.rows; ++i) all.emplace_back(reader.read(i).field("text").text);
    for (uint64_t i = file.rows; i-- > 0;) {
      RowReader fresh(file);
      EXPECT_EQ(std::string(fresh.read(i).field("text").text), all[i]);
      EXPECT_EQ(std::string(reader.read(i).field("text").text), all[i]);
    }
    return all;
  }
  std::string refused(const std::string& name, const std::string& content) {
    return input_error([&] { texts(name, content); });
  }
  using List = std::vector<std::string>;
};

TEST_F(Rows, JsonArraysAndLinesAndBom) {
  const List want = {"a", "b}]\"", "c\n"};
  const std::string rows[] = {R"({"text": "a", "n": [1, {"x": 2}]})", R"({"text":"b}]\""})", R"({"text":"c\n"})"};
  EXPECT_EQ(texts("array.json", "\xEF\xBB\xBF [\n" + rows[0] + " ,\n" + rows[1] + "," + rows[2] + "]\n", 2), want);
  EXPECT_EQ(texts("lines.jsonl", "\xEF\xBB\xBF" + rows[0] + "\n" + rows[1] + "\r\n\n" + rows[2], 2), want);
  EXPECT_EQ(texts("lines.json", rows[0] + rows[1] + "\n" + rows[2] + "\n"), want);
  EXPECT_EQ(texts("pretty.json", "{\n \"text\":\n \"a\"\n}\n"), List{"a"});
  EXPECT_EQ(texts("empty.json", " [ ] "), List{});
  EXPECT_EQ(texts("empty.jsonl", ""), List{});
}

TEST_F(Rows, TextLinesAsPythonReadsThem) {
  EXPECT_EQ(texts("a.txt", "\xEF\xBB\xBFone\r\ntwo\n\nfour\rfive"), (List{"one", "two", "", "four", "five"}));
  EXPECT_EQ(texts("b.txt", "one\n"), List{"one"});
  EXPECT_EQ(texts("c.txt", "\r"), List{""});
}

TEST_F(Rows, CsvQuotesAndMissingCells) {
  EXPECT_EQ(texts("a.csv", "text,n\r\n\"a, \"\"b\"\"\nc\",1\r\n\r\nplain,2\nNA,3\nlast"), (List{"a, \"b\"\nc", "plain", "NA", "last"}));
  SourceFile file;
  file.path = scratch / "a.csv";
  scan_file(file, UINT64_MAX);
  RowReader reader(file);
  EXPECT_EQ(reader.read(2).field("text").kind, Field::null);
  EXPECT_EQ(reader.read(3).field("n").kind, Field::null);
  EXPECT_SAYS(refused("b.csv", "text\na,b\n"), "b.csv: row 1: has 2 cells");
  EXPECT_SAYS(refused("c.csv", "text\n\"a\n"), "a quote is never closed");
  EXPECT_SAYS(refused("d.csv", "text,text\n"), "twice");
  std::string wide;  // comparing each name with each other one takes minutes
  for (int i = 0; i < 200000; ++i) wide += "c" + std::to_string(i) + ",";
  EXPECT_SAYS(refused("e.csv", wide + "c7\n"), "names the column \"c7\" twice");
}

// Expected values: pandas.read_csv, which Hugging Face datasets reads CSV with.
TEST_F(Rows, CsvQuotesInsideACellAreText) {
  EXPECT_EQ(texts("a.csv", "text,n\n5\" pipe,1\nsay \"hi\" now,2\n x \"q\",3\n\"abc\"def,4\n\"x\"\"y\"z\"w,5\n\"\"\"\",6\n"),
            (List{"5\" pipe", "say \"hi\" now", " x \"q\"", "abcdef", "x\"yz\"w", "\""}));
  EXPECT_EQ(texts("b.csv", "text\n  \t\n\na\n \r\n\" \"\nb\n  "), (List{"a", " ", "b"}));  // lines of blanks are no rows, a quoted blank is
}

TEST_F(Rows, BrokenRowsNameFileAndRow) {
  const std::string good = R"({"text":"a"})";
  EXPECT_SAYS(refused("a.json", "[" + good + "," + good + ",{\"text\":tru}]"), "a.json: row 3: broken JSON");
  EXPECT_SAYS(refused("b.json", "[" + good + " " + good + "]"), "b.json: row 2");
  EXPECT_SAYS(refused("c.json", "[" + good + ","), "c.json: row 2: broken JSON: the file ends");
  EXPECT_SAYS(refused("d.json", "[" + good + ",]"), "d.json: row 2: broken JSON: a comma before");
  EXPECT_SAYS(refused("e.json", "[" + good + "] x"), "text after the closing bracket");
  EXPECT_SAYS(refused("f.jsonl", good + "\n" + "{\"text\": \"never closed\n"), "f.jsonl: row 2: broken JSON: the file ends inside");
  EXPECT_SAYS(refused("g.jsonl", good + "\n7\n"), "g.jsonl: row 2: is not a JSON object");
  EXPECT_SAYS(refused("h.json", "\"x\""), "h.json: row 1: is not a JSON object");
  EXPECT_SAYS(refused("i.jsonl", "{\"text\":\"a\",\"text\":\"b\"}"), "i.jsonl: row 1: the key \"text\" stands twice");
  EXPECT_SAYS(refused("j.jsonl", "{\"text\":{\"a\":[{\"b\":1,\"b\":2}]}}"), "\"b\" stands twice");
  EXPECT_SAYS(refused("k.jsonl", "{\"text\":\"\xFF\"}"), "k.jsonl: row 1: broken JSON");
  EXPECT_SAYS(refused("l.txt", "fine\n\xC3\x28\n"), "l.txt: row 2: is not valid UTF-8");
  EXPECT_SAYS(refused("m.jsonl", "{\"text\":\"\\ud83d\"}"), "m.jsonl: row 1");
}

TEST_F(Rows, DepthAndCountOfValuesAreLimited) {
  std::string deep = "{\"text\":" + std::string(100000, '[');
  EXPECT_SAYS(refused("deep.jsonl", deep), "nested deeper than 64");
  deep = "[{\"text\":" + std::string(70, '[') + std::string(70, ']') + "}]";
  EXPECT_SAYS(refused("deep.json", deep), "nested deeper than 64");
  std::string many = "{\"text\":[0";
  for (int i = 0; i < 5000000; ++i) many += ",0";
  EXPECT_SAYS(refused("many.jsonl", many + "]}"), "values");
}

TEST_F(Rows, OtherKindsAreRefusedWithAdvice) {
  EXPECT_SAYS(refused("a.parquet", "PAR1"), "to_json(");
  EXPECT_SAYS(refused("a.xml", "<a/>"), "unknown kind");
}

TEST_F(Rows, ALimitStopsTheScanBeforeWhatFollows) {
  write_text(scratch / "a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\nbroken");
  SourceFile file;
  file.path = scratch / "a.jsonl";
  scan_file(file, 2);
  EXPECT_EQ(file.rows, 2u);
  SourceFile same = file;
  write_text(scratch / "a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"c\"}\n");
  scan_file(file, 2);
  EXPECT_NE(file.hash, same.hash);
}

size_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  size_t total = 0, resident = 0;
  in >> total >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

TEST_F(Rows, MemoryIsBoundedByARowNotByTheFile) {
  const std::string path = scratch / "large.json";
  {
    std::ofstream out(path, std::ios::binary);
    const std::string row = "{\"text\":\"" + std::string(1000, 'x') + "\"}";
    out << "[" << row;
    for (int i = 1; i < 64 * 1024; ++i) out << ",\n" << row;  // 64 MiB
    out << "]";
  }
  const size_t before = resident_bytes();
  SourceFile file;
  file.path = path;
  scan_file(file, UINT64_MAX);
  EXPECT_EQ(file.rows, 64u * 1024);
  RowReader reader(file);
  size_t most = 0;
  for (uint64_t i = 0; i < file.rows; ++i) {
    reader.read(i);
    if (i % 4096 == 0) most = std::max(most, resident_bytes());
  }
  EXPECT_LT(most, before + (size_t{24} << 20));  // two buffers of 1 MiB, the parser, the index; allocators of sanitizers keep freed blocks
}

}  // namespace
}  // namespace llmtrain
