// Streaming rows out of dataset files (row_source.h).
#include "data/row_source.h"

#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr size_t kFirstBuffer = size_t{1} << 20;
constexpr size_t kRowLimit = size_t{256} << 20;
constexpr size_t kMaxValues = size_t{1} << 22;  // of one row: bounds what the parser may allocate for "[0,0,0,…"
constexpr int kMaxDepth = 64;

bool ends_with(const std::string& s, const char* end) {
  const size_t n = std::strlen(end);
  return s.size() >= n && s.compare(s.size() - n, n, end) == 0;
}

// What pandas, which Hugging Face reads CSV with, takes for a missing value.
bool is_csv_null(std::string_view s) {
  static constexpr std::string_view kNulls[] = {"",     "#N/A",  "#N/A N/A", "#NA",  "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND",
                                                "1.#QNAN", "<NA>", "N/A",   "NA",   "NULL",    "NaN",      "None", "n/a",  "nan", "null"};
  return std::find(std::begin(kNulls), std::end(kNulls), s) != std::end(kNulls);
}

// Where a reader stands in a CSV record, by the rules of pandas: a quote opens a quoted part only as the first character of a cell; elsewhere in an
// unquoted cell it is text ('5" pipe'), and what follows a closing quote belongs to the cell as it stands.
class CsvScanner {
 public:
  enum class Meaning { text, quote, delimiter, end };
  bool quoted() const { return state_ == State::quoted; }
  Meaning step(char c) {
    if (quoted()) {
      if (c != '"') return Meaning::text;
      state_ = State::closed;
      return Meaning::quote;
    }
    const State before = std::exchange(state_, State::unquoted);
    if (c == '"' && before != State::unquoted) {  // at the start of a cell it opens; right behind a closing quote it is the second of a pair
      state_ = State::quoted;
      return before == State::start ? Meaning::quote : Meaning::text;
    }
    if (c == '\n' || c == '\r') return Meaning::end;
    if (c != ',') return Meaning::text;
    state_ = State::start;
    return Meaning::delimiter;
  }

 private:
  enum class State { start, unquoted, quoted, closed } state_ = State::start;
};

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

void refuse_duplicates(const simdjson::dom::element& value, const std::string& place) {
  if (value.is_array()) {
    for (const simdjson::dom::element item : simdjson::dom::array(value)) {
      if (item.is_array() || item.is_object()) refuse_duplicates(item, place);
    }
  } else if (value.is_object()) {
    const simdjson::dom::object object(value);
    std::vector<std::string_view> few;
    std::unordered_set<std::string_view> many;
    for (const simdjson::dom::key_value_pair member : object) {
      const bool repeated = many.empty() ? std::find(few.begin(), few.end(), member.key) != few.end() : !many.insert(member.key).second;
      if (repeated) throw InputError(place, "the key \"" + std::string(member.key) + "\" stands twice in one object");
      if (many.empty()) {
        few.push_back(member.key);
        if (few.size() > 32) many.insert(few.begin(), few.end());
      }
      if (member.value.is_array() || member.value.is_object()) refuse_duplicates(member.value, place);
    }
  }
}

}  // namespace

std::string row_place(const std::string& path, uint64_t index) { return path + ": row " + std::to_string(index + 1); }

FileKind file_kind(const std::string& path) {
  if (ends_with(path, ".json") || ends_with(path, ".jsonl")) return FileKind::json;
  if (ends_with(path, ".txt")) return FileKind::text;
  if (ends_with(path, ".csv")) return FileKind::csv;
  if (ends_with(path, ".parquet") || ends_with(path, ".arrow")) {
    const std::string to = path.substr(0, path.rfind('.')) + ".jsonl";
    const std::string kind = ends_with(path, ".parquet") ? "parquet" : "arrow";
    throw InputError(path, kind + " files are not read here",
                     "Convert it once:  python3 -c \"import datasets; datasets.load_dataset('" + kind + "', data_files='" + path +
                         "', split='train').to_json('" + to + "', force_ascii=False)\"  and name the .jsonl file.");
  }
  throw InputError(path, "unknown kind of dataset file", "Known: .json, .jsonl, .txt, .csv.");
}

Field field_of(const simdjson::dom::element& element) {
  Field f;
  f.element = element;
  f.kind = Field::other;
  switch (element.type()) {
    case simdjson::dom::element_type::STRING:
      f.kind = Field::string;
      f.text = std::string_view(element);
      break;
    case simdjson::dom::element_type::NULL_VALUE: f.kind = Field::null; break;
    case simdjson::dom::element_type::BOOL:
      f.kind = Field::boolean;
      f.flag = bool(element);
      break;
    default: break;
  }
  return f;
}

Field Row::field(std::string_view name) const {
  if (json_) {
    for (const simdjson::dom::key_value_pair member : object_) {
      if (member.key == name) return field_of(member.value);
    }
    return {};
  }
  Field f;
  for (size_t i = 0; i < header_->size(); ++i) {
    if ((*header_)[i] != name) continue;
    f.kind = cells_[i].first ? Field::null : Field::string;
    f.text = cells_[i].second;
  }
  return f;
}

std::vector<std::string> Row::names() const {
  std::vector<std::string> all;
  if (!json_) return *header_;
  for (const simdjson::dom::key_value_pair member : object_) all.emplace_back(member.key);
  return all;
}

RowSplitter::RowSplitter(const SourceFile& file) : source_(file), file_(File::open_for_reading(file.path)) {
  capacity_ = kFirstBuffer;
  buffer_ = static_cast<char*>(std::malloc(capacity_ + simdjson::SIMDJSON_PADDING));
  if (!buffer_) throw std::bad_alloc();
}

RowSplitter::~RowSplitter() { std::free(buffer_); }

RowSplitter::RowSplitter(RowSplitter&& o) noexcept
    : source_(o.source_), file_(std::move(o.file_)), buffer_(std::exchange(o.buffer_, nullptr)), capacity_(o.capacity_), position_(o.position_),
      end_(o.end_), keep_(o.keep_), offset_(o.offset_), next_row_(o.next_row_), row_begin_(o.row_begin_), array_(o.array_), started_(o.started_),
      finished_(o.finished_), first_(o.first_) {}

void RowSplitter::fail(const std::string& what) const { throw InputError(row_place(source_.path, next_row_), what); }

// Everything before keep_ may go; keep_ and position_ are moved along.
bool RowSplitter::fill() {
  if (keep_ > 0) {
    std::memmove(buffer_, buffer_ + keep_, end_ - keep_);
    offset_ += keep_;
    position_ -= keep_;
    end_ -= keep_;
    keep_ = 0;
  }
  if (end_ == capacity_) {
    if (capacity_ >= kRowLimit) fail("longer than " + std::to_string(kRowLimit >> 20) + " MiB (an unclosed quote?)");
    auto* larger = static_cast<char*>(std::realloc(buffer_, capacity_ * 2 + simdjson::SIMDJSON_PADDING));
    if (!larger) throw std::bad_alloc();
    buffer_ = larger;
    capacity_ *= 2;
  }
  while (true) {
    const ssize_t n = ::pread(file_.fd(), buffer_ + end_, capacity_ - end_, static_cast<off_t>(offset_ + end_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("read", source_.path, errno);
    end_ += static_cast<size_t>(n);
    return n > 0;
  }
}

int RowSplitter::skip_space() {
  while (available()) {
    if (!is_space(buffer_[position_])) return static_cast<unsigned char>(buffer_[position_]);
    ++position_;
    keep_ = position_;
  }
  return -1;
}

// A byte order mark is skipped; JSON says here whether it is one array or rows one after the other.
void RowSplitter::open_start() {
  started_ = true;
  while (end_ < 3 && fill()) {
  }
  if (end_ >= 3 && std::memcmp(buffer_, "\xEF\xBB\xBF", 3) == 0) position_ = keep_ = 3;
  if (source_.kind != FileKind::json) return;
  array_ = skip_space() == '[';
  if (array_) keep_ = ++position_;
}

void RowSplitter::seek(uint64_t row) {
  const uint64_t block = row / source_.stride;
  LLMTRAIN_ASSERT(block < source_.offsets.size(), "row outside the index of " + source_.path);
  if (!(started_ && next_row_ <= row && next_row_ >= block * source_.stride)) {
    offset_ = source_.offsets[block];
    position_ = end_ = keep_ = 0;
    started_ = true;
    finished_ = false;
    array_ = source_.array;
    first_ = true;  // an index points at the row itself, behind the comma
    next_row_ = block * source_.stride;
  }
  std::string_view skipped;
  while (next_row_ < row) {
    if (!next(skipped)) throw InputError(source_.path, "the file has become shorter while it was read");
  }
}

bool RowSplitter::next(std::string_view& row) {
  if (finished_) return false;
  if (!started_) open_start();
  const bool found = source_.kind == FileKind::json ? next_json(row) : source_.kind == FileKind::text ? next_line(row) : next_csv(row);
  finished_ = !found;
  next_row_ += found;
  return found;
}

// Walks over strings with memchr and over the rest byte by byte; positions are relative to keep_, which fill() moves to 0.
size_t RowSplitter::json_value_end() {
  size_t at = position_ - keep_;
  const auto more = [&] {
    const size_t known = end_ - keep_;
    position_ = end_;
    if (!fill()) fail("broken JSON: the file ends inside this row");
    LLMTRAIN_ASSERT(keep_ == 0 && end_ > known, "fill");
  };
  int depth = 0;
  size_t values = 0;
  while (true) {
    if (keep_ + at >= end_) more();
    const char c = buffer_[keep_ + at++];
    if (c == '"') {
      while (true) {
        const char* begin = buffer_ + keep_ + at;
        const char* limit = buffer_ + end_;
        const auto* quote = static_cast<const char*>(std::memchr(begin, '"', static_cast<size_t>(limit - begin)));
        const char* stop = quote ? quote : limit;
        const auto* escape = static_cast<const char*>(std::memchr(begin, '\\', static_cast<size_t>(stop - begin)));
        if (escape) {
          at += static_cast<size_t>(escape - begin) + 2;
          while (keep_ + at > end_) more();
        } else if (quote) {
          at += static_cast<size_t>(quote - begin) + 1;
          break;
        } else {
          at = end_ - keep_;
          more();
        }
      }
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) fail("JSON nested deeper than " + std::to_string(kMaxDepth) + " levels");
    } else if (c == '}' || c == ']') {
      if (--depth == 0) return keep_ + at;
    } else if (c == ',') {
      if (++values > kMaxValues) fail("has more than " + std::to_string(kMaxValues) + " values");
    }
  }
}

bool RowSplitter::next_json(std::string_view& row) {
  int c = skip_space();
  if (array_) {
    if (c == ']' && (first_ || next_row_ == 0)) {
      if (next_row_ > 0) fail("broken JSON: a comma before the closing bracket");
    } else if (c != ']' && !first_) {
      if (c < 0) fail("broken JSON: the file ends before the list is closed");
      if (c != ',') fail("broken JSON: a comma or a closing bracket is expected before it");
      keep_ = ++position_;
      c = skip_space();
      if (c == ']') fail("broken JSON: a comma before the closing bracket");
    }
    if (c == ']') {
      keep_ = ++position_;
      if (skip_space() >= 0) fail("broken JSON: there is text after the closing bracket");
      return false;
    }
    if (c < 0) fail("broken JSON: the file ends before the list is closed");
  }
  if (c < 0) return false;
  if (c != '{') fail(array_ ? "is not a JSON object" : "is not a JSON object (a .json file holds a list of objects, or one object a line)");
  first_ = false;
  keep_ = position_;
  row_begin_ = offset_ + position_;
  const size_t end = json_value_end();  // keep_ is where the row begins, wherever fill() has moved it
  row = std::string_view(buffer_ + keep_, end - keep_);
  position_ = keep_ = end;              // the bytes stay in place until the next fill
  return true;
}

// Lines end in \n, \r\n or \r, as Python's universal newlines; an empty line is a row; a newline at the very end opens none.
bool RowSplitter::next_line(std::string_view& row) {
  if (!available()) return false;
  keep_ = position_;
  row_begin_ = offset_ + position_;
  size_t at = 0;
  while (true) {
    const char* begin = buffer_ + keep_ + at;
    const size_t n = end_ - keep_ - at;
    const auto* feed = static_cast<const char*>(std::memchr(begin, '\n', n));
    const size_t before = feed ? static_cast<size_t>(feed - begin) : n;
    const auto* carriage = static_cast<const char*>(std::memchr(begin, '\r', before));
    if (carriage) {
      at += static_cast<size_t>(carriage - begin);
      position_ = keep_ + at + 1;
      if (!available()) break;  // \r is the last byte
      row = std::string_view(buffer_ + keep_, at);
      if (buffer_[position_] == '\n') ++position_;
      keep_ = position_;
      return true;
    }
    at += before;
    if (feed) break;
    position_ = end_;
    if (!fill()) {
      row = std::string_view(buffer_ + keep_, at);
      position_ = keep_ = end_;
      return true;
    }
  }
  row = std::string_view(buffer_ + keep_, at);
  position_ = keep_ = keep_ + at + 1;
  return true;
}

// A record ends at a newline outside quotes; blank lines, of nothing but spaces and tabs too, are skipped, as pandas skips them.
bool RowSplitter::next_csv(std::string_view& row) {
  while (available()) {
    keep_ = position_;
    row_begin_ = offset_ + position_;
    CsvScanner scanner;
    bool blank = true;
    size_t at = 0;
    while (true) {
      if (keep_ + at >= end_) {
        position_ = end_;
        if (!fill()) {
          if (scanner.quoted()) fail("a quote is never closed");
          break;
        }
      }
      const char c = buffer_[keep_ + at];
      if (scanner.step(c) == CsvScanner::Meaning::end) break;
      blank = blank && (c == ' ' || c == '\t');
      ++at;
    }
    row = std::string_view(buffer_ + keep_, at);
    const bool ended = keep_ + at < end_;  // at a newline, which goes with a blank line
    position_ = keep_ = keep_ + at + (blank && ended);
    if (!blank) return true;
  }
  return false;
}

namespace {

// Cells of a CSV record. `storage` must not be reallocated while cells are used: it is reserved first.
std::vector<std::pair<bool, std::string_view>> csv_cells(std::string_view record, std::string& storage) {
  std::vector<std::pair<bool, std::string_view>> cells;
  storage.clear();
  storage.reserve(record.size());
  CsvScanner scanner;
  size_t begin = 0;
  const auto close = [&] {
    const std::string_view cell(storage.data() + begin, storage.size() - begin);
    cells.emplace_back(is_csv_null(cell), cell);
    begin = storage.size();
  };
  for (const char c : record) {
    const CsvScanner::Meaning meaning = scanner.step(c);
    if (meaning == CsvScanner::Meaning::text) storage += c;
    if (meaning == CsvScanner::Meaning::delimiter) close();
  }
  close();
  return cells;
}

}  // namespace

RowReader::RowReader(const SourceFile& file) : source_(file), splitter_(file) {}

const Row& RowReader::read(uint64_t index) {
  if (splitter_.next_row() != index || index == 0) splitter_.seek(index);
  std::string_view text;
  if (!splitter_.next(text)) throw InputError(source_.path, "the file has become shorter while it was read");
  bytes_read_ += text.size();
  if (source_.kind == FileKind::json) {
    parse_json(text, index);
    return row_;
  }
  if (!simdjson::validate_utf8(text.data(), text.size())) throw InputError(row_place(source_.path, index), "is not valid UTF-8");
  if (source_.kind == FileKind::csv) {
    parse_csv(text, index);
    return row_;
  }
  static const std::vector<std::string> kTextHeader = {"text"};
  row_.json_ = false;
  row_.header_ = &kTextHeader;
  row_.cells_.assign(1, {false, text});
  return row_;
}

void RowReader::parse_json(std::string_view text, uint64_t index) {
  const std::string place = row_place(source_.path, index);
  if (text.size() > parser_.capacity()) {
    const auto error = parser_.allocate(std::max<size_t>({text.size(), 2 * parser_.capacity(), 4096}), kMaxDepth + 1);
    if (error) throw OperationError(place + ": " + simdjson::error_message(error));
  }
  const auto parsed = parser_.parse(text.data(), text.size(), false);
  if (parsed.error()) throw InputError(place, std::string("broken JSON: ") + simdjson::error_message(parsed.error()));
  const simdjson::dom::element element = parsed.value_unsafe();
  refuse_duplicates(element, place);
  row_.json_ = true;
  row_.object_ = element.get_object().value_unsafe();
}

void RowReader::parse_csv(std::string_view text, uint64_t index) {
  row_.json_ = false;
  row_.header_ = &source_.header;
  row_.cells_ = csv_cells(text, unquoted_);
  if (row_.cells_.size() > source_.header.size()) {
    throw InputError(row_place(source_.path, index), "has " + std::to_string(row_.cells_.size()) + " cells, the header names " +
                                                         std::to_string(source_.header.size()) + " columns");
  }
  row_.cells_.resize(source_.header.size(), {true, std::string_view()});
}

void scan_file(SourceFile& file, uint64_t row_limit) {
  file.kind = file_kind(file.path);
  file.rows = 0;
  file.offsets.clear();
  RowSplitter splitter(file);
  std::string_view row;
  if (file.kind == FileKind::csv) {
    if (!splitter.next(row)) throw InputError(file.path, "is empty");
    std::string storage;
    std::unordered_set<std::string_view> seen;  // a hostile header has millions of columns
    for (const auto& [null, name] : csv_cells(row, storage)) {
      if (!seen.insert(name).second) {
        throw InputError(file.path, "the header names the column \"" + std::string(name) + "\" twice");
      }
      file.header.emplace_back(name);
    }
    splitter.next_row_ = 0;
  }
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_64bits_reset(state.get());
  while (file.rows < row_limit && splitter.next(row)) {
    if (file.rows % file.stride == 0) file.offsets.push_back(splitter.row_begin());
    ++file.rows;
    const uint64_t length = row.size();
    XXH3_64bits_update(state.get(), &length, sizeof length);
    XXH3_64bits_update(state.get(), row.data(), row.size());
  }
  for (const std::string& name : file.header) XXH3_64bits_update(state.get(), name.c_str(), name.size() + 1);
  file.array = splitter.array_;
  file.hash = XXH3_64bits_digest(state.get());
}

}  // namespace llmtrain
