// Rows of dataset files, streamed: JSON arrays, JSON lines, plain text (a row a line) and CSV. A file of any size is read through a buffer
// that holds little more than one row; a first pass counts the rows, notes where every 1024th begins and hashes them, so that any part of a
// file can be read without the rest.
//
// Hostile input (docs/reliability): depth over 64, duplicate keys, broken JSON or UTF-8, rows over 256 MiB are InputErrors that name file and row.
// Rows are numbered from 1 in messages. Private to the data room: it includes simdjson.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/file.h"

namespace llmtrain {

enum class FileKind : uint8_t { json, text, csv };

// A file and its index. Made by scan_file; afterwards read-only.
struct SourceFile {
  std::string path;
  FileKind kind = FileKind::json;
  bool array = false;                    // JSON: rows are the elements of one array; else they follow each other
  uint64_t rows = 0;                     // counted by the scan (at most its row_limit)
  uint64_t stride = 1024;                // rows between noted offsets
  std::vector<uint64_t> offsets;         // byte at which row 0, stride, 2 * stride … begins
  uint64_t hash = 0;                     // of the rows counted
  std::vector<std::string> header;       // CSV: the names of the columns
};

// By the extension: .json .jsonl .txt .csv; InputError for others, with the command that converts parquet and Arrow files.
FileKind file_kind(const std::string& path);

// One field of a row. Views stay valid until the next row is read.
struct Field {
  enum Kind : uint8_t { missing, null, boolean, string, other } kind = missing;
  bool flag = false;                     // of a boolean
  std::string_view text;                 // of a string
  simdjson::dom::element element;        // JSON only
  bool present() const { return kind != missing; }
  bool is_string() const { return kind == string; }
};
Field field_of(const simdjson::dom::element& element);

// A parsed row: a JSON object, or named cells.
class Row {
 public:
  Field field(std::string_view name) const;
  std::vector<std::string> names() const;

 private:
  friend class RowReader;
  bool json_ = true;
  simdjson::dom::object object_;
  const std::vector<std::string>* header_ = nullptr;
  std::vector<std::pair<bool, std::string_view>> cells_;  // (null, text)
};

// Splits a file into the raw text of its rows. Not thread-safe; one per thread.
class RowSplitter {
 public:
  explicit RowSplitter(const SourceFile& file);
  ~RowSplitter();
  RowSplitter(RowSplitter&&) noexcept;
  // The next row, or false at the end. The view has at least simdjson::SIMDJSON_PADDING readable bytes after it and is valid until the next call.
  bool next(std::string_view& row);
  void seek(uint64_t row);               // by the index; reads at most stride rows to get there
  uint64_t next_row() const { return next_row_; }
  uint64_t row_begin() const { return row_begin_; }  // byte offset of the row that next() gave last

 private:
  friend void scan_file(SourceFile&, uint64_t);
  bool next_json(std::string_view& row);
  bool next_line(std::string_view& row);
  bool next_csv(std::string_view& row);
  void open_start();
  bool fill();                           // reads more behind what the buffer holds; false at the end of the file
  bool available() { return position_ < end_ || fill(); }
  int skip_space();                      // the next byte that is not white space, without taking it; -1 at the end
  size_t json_value_end();               // the end of the object that begins at position_
  [[noreturn]] void fail(const std::string& what) const;

  const SourceFile& source_;
  File file_;
  char* buffer_ = nullptr;               // malloc'ed, grown by realloc (large blocks move without copying)
  size_t capacity_ = 0, position_ = 0, end_ = 0, keep_ = 0;
  uint64_t offset_ = 0;                  // file offset of buffer_[0]
  uint64_t next_row_ = 0, row_begin_ = 0;
  bool array_ = false, started_ = false, finished_ = false, first_ = true;
};

// Reads rows parsed. Not thread-safe; one per thread.
class RowReader {
 public:
  explicit RowReader(const SourceFile& file);
  // Row `index` (from 0); cheap when it follows the last one read. The Row is valid until the next call.
  const Row& read(uint64_t index);
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  void parse_json(std::string_view text, uint64_t index);
  void parse_csv(std::string_view text, uint64_t index);
  const SourceFile& source_;
  RowSplitter splitter_;
  simdjson::dom::parser parser_;
  Row row_;
  std::string unquoted_;                 // cells that had quotes in them
  uint64_t bytes_read_ = 0;
};

// Counts, indexes and hashes the rows of file.path, at most `row_limit` of them. Fills kind, array, rows, offsets, hash, header.
void scan_file(SourceFile& file, uint64_t row_limit);

// "file: row 31"
std::string row_place(const std::string& path, uint64_t index);

}  // namespace llmtrain
