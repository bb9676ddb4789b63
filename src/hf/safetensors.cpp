#include "hf/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/json.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxTensors = 1'000'000;  // bounds the memory that a hostile header can ask for; the largest models have some 100,000
constexpr size_t kMaxMetadata = 10'000;
constexpr DType kTypes[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64, DType::int64,
                            DType::int32,   DType::int16,    DType::int8,    DType::uint8,   DType::boolean};

// For messages: quoted, control characters escaped, shortened.
std::string in_quotes(const std::string& name) {
  return dump_json(Json(name.size() > 120 ? name.substr(0, 117) + "..." : name));
}

// Reads the header without building a document: what stands where it should not is refused at once.
//   { NAME: {"dtype": TEXT, "shape": [N…], "data_offsets": [N, N]}, …, "__metadata__": {TEXT: TEXT} }
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(const std::string& path, std::vector<SafetensorsEntry>& entries, std::vector<std::pair<std::string, std::string>>& metadata)
      : path_(path), entries_(entries), metadata_(metadata) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override {
    if (place_ == Place::list) bad(field_ + " holds a negative number");
    return unexpected("a number");
  }
  bool number_unsigned(number_unsigned_t v) override {
    if (place_ != Place::list) return unexpected("a number");
    if (v > static_cast<uint64_t>(INT64_MAX)) bad(field_ + " holds a number that is too large");
    if (list_size_ == (field_ == "shape" ? static_cast<size_t>(kMaxDims) : 2)) {
      bad(field_ == "shape" ? "has more than " + std::to_string(kMaxDims) + " dimensions" : "data_offsets has more than two numbers");
    }
    list_[list_size_++] = v;
    return true;
  }
  bool number_float(number_float_t, const string_t&) override {
    if (place_ == Place::list) bad(field_ + " holds a number that is not whole or too large");
    return unexpected("a number");
  }
  bool string(string_t& v) override {
    if (place_ == Place::metadata) {
      if (metadata_.size() == kMaxMetadata) throw InputError(path_, "__metadata__ has more than " + std::to_string(kMaxMetadata) + " entries");
      metadata_.emplace_back(std::move(field_), std::move(v));
      return true;
    }
    if (place_ != Place::tensor || field_ != "dtype") return unexpected("a text");
    for (const DType t : kTypes) {
      if (v == safetensors_name(t)) dtype_ = t;
    }
    if (!dtype_) bad("element type " + in_quotes(v) + " is not supported (supported: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL)");
    return true;
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = name_ == "__metadata__" ? Place::metadata : Place::tensor;
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool end_object() override {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::top ? Place::done : Place::top;
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ != Place::tensor || (field_ != "shape" && field_ != "data_offsets")) return unexpected("a list");
    place_ = Place::list;
    list_size_ = 0;
    return true;
  }
  bool end_array() override {
    place_ = Place::tensor;
    if (field_ == "shape") {
      Shape s;
      for (size_t i = 0; i < list_size_; ++i) s.dims[static_cast<size_t>(s.rank++)] = static_cast<int64_t>(list_[i]);
      shape_ = s;
    } else {
      if (list_size_ != 2) bad("data_offsets does not have two numbers");
      offsets_ = {list_[0], list_[1]};
    }
    return true;
  }
  bool key(string_t& v) override {
    if (place_ == Place::top) {
      name_ = std::move(v);
      if (name_ == "__metadata__") {
        if (seen_metadata_) throw InputError(path_, "the header holds __metadata__ twice");
        seen_metadata_ = true;
      }
    } else {
      field_ = std::move(v);
      if (place_ == Place::tensor) check_field();
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw InputError(path_, "the header is broken JSON at byte " + std::to_string(position));
  }

 private:
  enum class Place { outside, top, tensor, list, metadata, done };

  void check_field() {
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") bad("unknown field " + in_quotes(field_));
    if ((field_ == "dtype" && dtype_) || (field_ == "shape" && shape_) || (field_ == "data_offsets" && offsets_)) bad(field_ + " stands twice");
  }
  void finish_tensor() {
    if (!dtype_ || !shape_ || !offsets_) bad(std::string(!dtype_ ? "dtype" : !shape_ ? "shape" : "data_offsets") + " is missing");
    if (std::any_of(name_.begin(), name_.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; })) bad("the name holds control characters");
    if (entries_.size() == kMaxTensors) throw InputError(path_, "the header names more than " + std::to_string(kMaxTensors) + " tensors");
    uint64_t bytes = size_of(*dtype_);
    for (int i = 0; i < shape_->rank; ++i) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>((*shape_)[i]), &bytes)) bad("shape " + shape_->text() + " is larger than any file");
    }
    if (offsets_->second < offsets_->first) bad("data_offsets end before they begin");
    if (offsets_->second - offsets_->first != bytes) {
      bad("shape " + shape_->text() + " of " + safetensors_name(*dtype_) + " needs " + std::to_string(bytes) + " bytes, data_offsets give " +
          std::to_string(offsets_->second - offsets_->first));
    }
    entries_.push_back({std::move(name_), *dtype_, *shape_, offsets_->first, offsets_->second});
  }
  [[noreturn]] void bad(const std::string& what) const { throw InputError(path_, "tensor " + in_quotes(name_) + ": " + what); }
  bool unexpected(const std::string& what) const {
    const std::string in = place_ == Place::outside ? "" : place_ == Place::top ? in_quotes(name_) : in_quotes(name_) + " " + field_;
    throw InputError(path_, "the header is not one of safetensors: " + what + " is not expected at " + (in.empty() ? "its start" : in));
  }

  const std::string& path_;
  std::vector<SafetensorsEntry>& entries_;
  std::vector<std::pair<std::string, std::string>>& metadata_;
  Place place_ = Place::outside;
  bool seen_metadata_ = false;
  std::string name_, field_;
  std::optional<DType> dtype_;
  std::optional<Shape> shape_;
  std::optional<std::pair<uint64_t, uint64_t>> offsets_;
  uint64_t list_[8] = {};
  size_t list_size_ = 0;
};

// `first` are the first n (at most 9) bytes. A header length may look like another format's magic number; then a '{' follows it.
void refuse_other_formats(const std::string& path, const unsigned char* first, size_t n) {
  const auto starts = [&](const char* magic, size_t length) { return n >= length && std::memcmp(first, magic, length) == 0; };
  if (n == 9 && first[8] == '{') return;
  const bool zip = starts("PK\x03\x04", 4), pickle = n >= 2 && first[0] == 0x80 && first[1] >= 2 && first[1] <= 5;
  if (zip || pickle) {
    throw InputError(
        path, "this is a PyTorch pickle, not a safetensors file: reading it could run code",
        "convert it once: python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('IN').save_pretrained('OUT')\"");
  }
  if (starts("GGUF", 4)) throw InputError(path, "this is a GGUF file, not a safetensors file", "use the Hugging Face folder that it was made from");
}

void check_metadata(const std::string& path, const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : metadata) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) throw InputError(path, "__metadata__ holds " + in_quotes(std::string(*twice)) + " twice");
}

void check_coverage(const std::string& path, const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  uint64_t covered = 0;
  for (const SafetensorsEntry& e : entries) {
    if (e.begin != covered) {
      throw InputError(path, "tensor " + in_quotes(e.name) + (e.begin < covered ? " overlaps the one before it" : " leaves a hole before it") +
                                 " (data byte " + std::to_string(e.begin) + ", expected " + std::to_string(covered) + ")");
    }
    covered = e.end;
  }
  if (covered > data_bytes) {
    throw InputError(
        path, "the file is truncated: its tensors need " + std::to_string(covered) + " bytes of data, " + std::to_string(data_bytes) + " are there",
        "download or copy it again");
  }
  if (covered < data_bytes) throw InputError(path, std::to_string(data_bytes - covered) + " bytes lie behind the last tensor");
}

}  // namespace

bool is_floating(DType dtype) {
  return dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16 || dtype == DType::float64;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile f;
  f.file_ = File::open_for_reading(path);
  const uint64_t size = f.file_.size();
  unsigned char first[9] = {};
  const size_t have = static_cast<size_t>(std::min<uint64_t>(size, 9));
  f.file_.read_at(first, have, 0);
  refuse_other_formats(path, first, have);
  if (size < 8) throw InputError(path, "the file is truncated: " + std::to_string(size) + " bytes are no safetensors file");
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | first[i];
  if (header > kSafetensorsHeaderLimitBytes) {
    throw InputError(path, "a header of " + std::to_string(header) + " bytes: not a safetensors file, or damaged (at most " +
                               std::to_string(kSafetensorsHeaderLimitBytes) + " are read)");
  }
  if (header > size - 8)
    throw InputError(path, "the file is truncated: a header of " + std::to_string(header) + " bytes in a file of " + std::to_string(size));
  std::string text(header, '\0');
  f.file_.read_at(text.data(), text.size(), 8);
  if (text.empty() || text[0] != '{') throw InputError(path, "the header does not begin with '{': not a safetensors file, or damaged");
  // An entry takes at least 48 bytes of header: room for all, so that the list never has to be held twice while it grows.
  f.entries_.reserve(std::min<size_t>(text.size() / 48 + 1, kMaxTensors));
  HeaderReader reader(f.file_.path(), f.entries_, f.metadata_);
  if (!Json::sax_parse(text.begin(), text.end(), &reader)) throw InputError(path, "the header is broken JSON");
  std::string().swap(text);
  check_metadata(path, f.metadata_);

  std::sort(f.entries_.begin(), f.entries_.end(),
            [](const auto& a, const auto& b) { return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.name < b.name; });
  check_coverage(path, f.entries_, size - 8 - header);
  f.by_name_.resize(f.entries_.size());
  std::iota(f.by_name_.begin(), f.by_name_.end(), 0u);
  std::sort(f.by_name_.begin(), f.by_name_.end(), [&](uint32_t a, uint32_t b) { return f.entries_[a].name < f.entries_[b].name; });
  for (size_t i = 1; i < f.by_name_.size(); ++i) {
    const std::string& name = f.entries_[f.by_name_[i]].name;
    if (name == f.entries_[f.by_name_[i - 1]].name) throw InputError(path, "tensor " + in_quotes(name) + " stands twice in the header");
  }
  for (SafetensorsEntry& e : f.entries_) {
    e.begin += 8 + header;
    e.end += 8 + header;
  }
  return f;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name, [&](uint32_t i, const std::string& n) { return entries_[i].name < n; });
  return it != by_name_.end() && entries_[*it].name == name ? &entries_[*it] : nullptr;
}

void SafetensorsFile::read_range(const SafetensorsEntry& e, int64_t element_begin, int64_t count, void* out, DType out_type) const {
  LLMTRAIN_ASSERT(element_begin >= 0 && count >= 0 && element_begin <= e.shape.elements() && count <= e.shape.elements() - element_begin,
                  "range outside " + e.name);
  const size_t from_size = size_of(e.dtype), to_size = size_of(out_type);
  const uint64_t offset = e.begin + static_cast<uint64_t>(element_begin) * from_size;
  if (e.dtype == out_type) {
    file_.read_at(out, static_cast<size_t>(count) * from_size, offset);
    return;
  }
  if (!is_floating(e.dtype) || !is_floating(out_type)) {
    throw InputError(path(), "tensor " + in_quotes(e.name) + " holds " + name_of(e.dtype) + ", " + name_of(out_type) + " is needed");
  }
  constexpr int64_t kChunk = 1 << 18;
  std::vector<char> buffer(static_cast<size_t>(std::min(count, kChunk)) * from_size);
  for (int64_t done = 0; done < count; done += kChunk) {
    const size_t n = static_cast<size_t>(std::min(kChunk, count - done));
    file_.read_at(buffer.data(), n * from_size, offset + static_cast<uint64_t>(done) * from_size);
    convert_elements(buffer.data(), e.dtype, static_cast<char*>(out) + static_cast<size_t>(done) * to_size, out_type, n);
  }
}

void SafetensorsFile::read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const {
  const SafetensorsEntry* e = find(name);
  if (!e) throw InputError(path(), "tensor " + in_quotes(name) + " is not in the file");
  read_range(*e, element_begin, count, out, out_type);
}

std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries) {
  std::string json = "{\"__metadata__\":{\"format\":\"pt\"}";
  uint64_t offset = 0;
  for (SafetensorsEntry& e : entries) {
    e.begin = offset;
    offset += static_cast<uint64_t>(e.shape.elements()) * size_of(e.dtype);
    e.end = offset;
    json += "," + dump_json(Json(e.name)) + ":{\"dtype\":\"" + safetensors_name(e.dtype) + "\",\"shape\":[";
    for (int i = 0; i < e.shape.rank; ++i) json += (i ? "," : "") + std::to_string(e.shape[i]);
    json += "],\"data_offsets\":[" + std::to_string(e.begin) + "," + std::to_string(e.end) + "]}";
  }
  json += "}";
  while (json.size() % 8 != 0) json += ' ';
  std::string header(8, '\0');
  for (int i = 0; i < 8; ++i) header[static_cast<size_t>(i)] = static_cast<char>(json.size() >> (8 * i) & 0xff);
  header += json;
  for (SafetensorsEntry& e : entries) {
    e.begin += header.size();
    e.end += header.size();
  }
  return header;
}

}  // namespace llmtrain
