// The token store (store.h).
#include "data/store.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr char kMagic[8] = {'L', 'L', 'M', 'T', 'O', 'K', 'E', 'N'};
constexpr uint32_t kVersion = 1, kEndian = 0x01020304;
constexpr uint64_t kFrameMagic = 0x454d4152464b4f54;  // "TOKFRAME"

struct PartHeader {
  char magic[8];
  uint32_t version, endian;
};

struct FrameHeader {
  uint64_t magic, ids, spans, restarts, sequences, hash;  // hash: XXH3 of all that follows and of the counts
  uint64_t payload() const { return 4 * (ids + 2 * spans + restarts + 3 * sequences); }
  uint64_t bytes() const { return sizeof(FrameHeader) + (payload() + 7) / 8 * 8; }
};

// The arrays of a frame in the file, in this order.
struct FrameArrays {
  const int32_t* ids;
  const Span* spans;
  const uint32_t *restarts, *ids_end, *spans_end, *restarts_end;
};

FrameArrays arrays_of(const FrameHeader& h, const char* base) {
  FrameArrays a;
  const char* p = base + sizeof(FrameHeader);
  const auto take = [&p](uint64_t words) {
    const char* at = p;
    p += 4 * words;
    return at;
  };
  a.ids = reinterpret_cast<const int32_t*>(take(h.ids));
  a.spans = reinterpret_cast<const Span*>(take(2 * h.spans));
  a.restarts = reinterpret_cast<const uint32_t*>(take(h.restarts));
  a.ids_end = reinterpret_cast<const uint32_t*>(take(h.sequences));
  a.spans_end = reinterpret_cast<const uint32_t*>(take(h.sequences));
  a.restarts_end = reinterpret_cast<const uint32_t*>(take(h.sequences));
  return a;
}

uint64_t frame_hash(const FrameHeader& h, const void* payload) {
  const uint64_t counts[4] = {h.ids, h.spans, h.restarts, h.sequences};
  return XXH3_64bits_withSeed(payload, h.payload(), XXH3_64bits(counts, sizeof counts));
}

}  // namespace

const char* name_of(PackKind kind) {
  switch (kind) {
    case PackKind::none: return "none";
    case PackKind::plain: return "plain";
    case PackKind::neat: return "neat";
    case PackKind::blocks: return "blocks";
  }
  return "?";
}

void Frame::add(const Sequence& s) {
  ids.insert(ids.end(), s.ids.begin(), s.ids.end());
  spans.insert(spans.end(), s.trained.begin(), s.trained.end());
  restarts.insert(restarts.end(), s.restarts.begin(), s.restarts.end());
  if (ids.size() > UINT32_MAX) throw OperationError("token store: more than 2^32 tokens in one run of rows; lower preprocessing_batch_size");
  ids_end.push_back(static_cast<uint32_t>(ids.size()));
  spans_end.push_back(static_cast<uint32_t>(spans.size()));
  restarts_end.push_back(static_cast<uint32_t>(restarts.size()));
}

void Frame::clear() {
  ids.clear();
  spans.clear();
  restarts.clear();
  ids_end.clear();
  spans_end.clear();
  restarts_end.clear();
}

PartWriter::PartWriter(const std::string& path) : file_(File::create(path)) {
  PartHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.endian = kEndian;
  file_.write_at(&header, sizeof header, 0);
  offset_ = sizeof header;
}

void PartWriter::append(const Frame& f) {
  if (f.sequences() == 0) return;
  FrameHeader h{kFrameMagic, f.ids.size(), f.spans.size(), f.restarts.size(), f.sequences(), 0};
  std::string bytes(h.bytes(), '\0');
  char* p = bytes.data() + sizeof h;
  const auto put = [&p](const void* from, size_t n) {
    if (n > 0) std::memcpy(p, from, n);
    p += n;
  };
  put(f.ids.data(), 4 * f.ids.size());
  put(f.spans.data(), 8 * f.spans.size());
  put(f.restarts.data(), 4 * f.restarts.size());
  put(f.ids_end.data(), 4 * f.ids_end.size());
  put(f.spans_end.data(), 4 * f.spans_end.size());
  put(f.restarts_end.data(), 4 * f.restarts_end.size());
  h.hash = frame_hash(h, bytes.data() + sizeof h);
  std::memcpy(bytes.data(), &h, sizeof h);
  file_.write_at(bytes.data(), bytes.size(), offset_);
  offset_ += bytes.size();
}

void PartWriter::finish() {
  file_.sync();
  file_.close();
}

// Lets the system take back what was read of a map so far: without it a walk over the store would end with all of it resident.
class PageFreeingWalk {
 public:
  explicit PageFreeingWalk(const MappedFile& file) : file_(file) {}
  // The walk has come to byte `at` and does not go back.
  void reached(uint64_t at) {
    if (at - freed_ < kStep && at < file_.size()) return;
    const uint64_t end = at == file_.size() ? at : at / kPage * kPage;
    ::madvise(const_cast<char*>(file_.data()) + freed_, end - freed_, MADV_DONTNEED);  // read-only file pages: they come back when touched
    freed_ = end;
  }

 private:
  static constexpr uint64_t kStep = uint64_t{16} << 20, kPage = uint64_t{64} << 10;
  const MappedFile& file_;
  uint64_t freed_ = 0;
};

struct TokenStore::Data {
  struct FrameView {
    FrameArrays arrays;
    uint64_t first, sequences;  // first: number of sequences before it
  };
  StoreInfo info;
  std::vector<MappedFile> parts;
  std::vector<FrameView> frames;
  uint64_t sequences = 0;

  void add_part(const std::string& path, uint64_t bytes, bool verify);
};

void TokenStore::Data::add_part(const std::string& path, uint64_t bytes, bool verify) {
  MappedFile file(path);
  const auto damaged = [&](const std::string& how) {
    return InputError(path, "the token store is damaged: " + how, "Run with overwrite_cache: true to make it anew.");
  };
  if (file.size() != bytes) throw damaged("the file has " + std::to_string(file.size()) + " bytes, the manifest says " + std::to_string(bytes));
  PartHeader header;
  if (file.size() < sizeof header) throw damaged("too short");
  std::memcpy(&header, file.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.endian != kEndian) throw damaged("it is no token store of this machine's kind");
  if (header.version != kVersion) throw damaged("version " + std::to_string(header.version) + ", this program reads " + std::to_string(kVersion));
  PageFreeingWalk walk(file);
  for (uint64_t at = sizeof header; at < file.size();) {
    FrameHeader h;
    if (file.size() - at < sizeof h) throw damaged("it ends inside a frame");
    std::memcpy(&h, file.data() + at, sizeof h);
    const uint64_t limit = file.size() / 4;
    if (h.magic != kFrameMagic || h.ids > limit || h.spans > limit || h.restarts > limit || h.sequences > limit || h.bytes() > file.size() - at) {
      throw damaged("frame at byte " + std::to_string(at));
    }
    const char* base = file.data() + at;
    if (verify && frame_hash(h, base + sizeof h) != h.hash)
      throw damaged("the checksum of the frame at byte " + std::to_string(at) + " does not match");
    const FrameArrays a = arrays_of(h, base);
    uint32_t ids = 0, spans = 0, restarts = 0;
    for (uint64_t s = 0; s < h.sequences; ++s) {
      if (a.ids_end[s] < ids || a.spans_end[s] < spans || a.restarts_end[s] < restarts) throw damaged("frame at byte " + std::to_string(at));
      const uint32_t length = a.ids_end[s] - ids;
      for (uint32_t k = spans; verify && k < a.spans_end[s] && k < h.spans; ++k) {
        if (a.spans[k].begin >= a.spans[k].end || a.spans[k].end > length) throw damaged("a trained span at byte " + std::to_string(at));
      }
      ids = a.ids_end[s];
      spans = a.spans_end[s];
      restarts = a.restarts_end[s];
    }
    if (ids != h.ids || spans != h.spans || restarts != h.restarts) throw damaged("frame at byte " + std::to_string(at));
    frames.push_back({a, sequences, h.sequences});
    sequences += h.sequences;
    at += h.bytes();
    walk.reached(at);
  }
  parts.push_back(std::move(file));
}

TokenStore TokenStore::open(const std::string& folder, bool verify) {
  const std::string path = folder + "/manifest.json";
  const Json j = parse_json_file(path, size_t{64} << 20);
  auto data = std::make_shared<Data>();
  StoreInfo& info = data->info;
  std::vector<std::pair<std::string, uint64_t>> parts;
  try {
    if (j.at("format").get<std::string>() != "llmtrain token store" || whole_number(j, "version", 0, UINT32_MAX, path) != kVersion)
      throw InputError(path, "is no manifest of a token store");
    info.key = j.at("key").get<std::string>();
    info.ranking = j.at("ranking").get<bool>();
    const std::string pack = j.at("pack").get<std::string>();
    bool known = false;
    for (const PackKind kind : {PackKind::none, PackKind::plain, PackKind::neat, PackKind::blocks}) {
      if (pack == name_of(kind)) {
        info.pack = kind;
        known = true;
      }
    }
    if (!known) throw InputError(path, "unknown kind of packing \"" + pack + "\"");
    info.cutoff_len = whole_number(j, "cutoff_len", 0, INT32_MAX, path);
    info.eos_id = static_cast<int32_t>(whole_number(j, "eos_id", -1, INT32_MAX, path));
    info.pad_id = static_cast<int32_t>(whole_number(j, "pad_id", -1, INT32_MAX, path));
    info.rows = static_cast<uint64_t>(whole_number(j, "rows", 0, INT64_MAX / 2, path));
    info.report = j.at("report");
    for (const Json& part : j.at("parts"))
      parts.emplace_back(part.at("file").get<std::string>(), static_cast<uint64_t>(whole_number(part, "bytes", 0, INT64_MAX, path)));
  } catch (const nlohmann::json::exception& e) {
    throw InputError(path, std::string("the token store is damaged: ") + e.what(), "Run with overwrite_cache: true to make it anew.");
  }
  for (const auto& [name, bytes] : parts) {
    if (name.find('/') != std::string::npos || name.empty() || name[0] == '.')
      throw InputError(path, "names the part \"" + name + "\", which is no plain file name");
    data->add_part(folder + "/" + name, bytes, verify);
  }
  if (data->sequences != info.rows * (info.ranking ? 2 : 1))
    throw InputError(path, "the token store is damaged: it holds another number of rows than it says");
  TokenStore store;
  store.data_ = std::move(data);
  return store;
}

const StoreInfo& TokenStore::info() const {
  LLMTRAIN_ASSERT(data_, "an empty store");
  return data_->info;
}

size_t TokenStore::size() const { return data_ ? data_->info.rows : 0; }

RowView TokenStore::sequence(uint64_t index) const {
  const auto& frames = data_->frames;
  auto it = std::upper_bound(frames.begin(), frames.end(), index, [](uint64_t v, const Data::FrameView& f) { return v < f.first; });
  --it;
  const uint64_t s = index - it->first;
  const FrameArrays& a = it->arrays;
  const auto begin = [s](const uint32_t* ends) { return s == 0 ? 0 : ends[s - 1]; };
  RowView v;
  v.ids = {a.ids + begin(a.ids_end), a.ids + a.ids_end[s]};
  v.trained = {a.spans + begin(a.spans_end), a.spans + a.spans_end[s]};
  v.restarts = {a.restarts + begin(a.restarts_end), a.restarts + a.restarts_end[s]};
  return v;
}

RowView TokenStore::row(size_t i) const {
  LLMTRAIN_ASSERT(i < size(), "row " + std::to_string(i) + " of " + std::to_string(size()));
  return sequence(info().ranking ? 2 * i : i);
}

RowView TokenStore::rejected(size_t i) const {
  LLMTRAIN_ASSERT(info().ranking && i < size(), "row " + std::to_string(i) + " of " + std::to_string(size()) + " rankings");
  return sequence(2 * i + 1);
}

uint64_t TokenStore::tokens(size_t i) const { return row(i).ids.size() + (info().ranking ? rejected(i).ids.size() : 0); }

uint64_t TokenStore::trained_tokens(size_t i) const {
  uint64_t n = 0;
  for (const Span s : row(i).trained) n += s.end - s.begin;
  if (info().ranking) {
    for (const Span s : rejected(i).trained) n += s.end - s.begin;
  }
  return n;
}

uint64_t TokenStore::padded_tokens(size_t i) const {
  if (info().pack == PackKind::plain || info().pack == PackKind::neat) return static_cast<uint64_t>(info().cutoff_len);
  return info().ranking ? std::max(row(i).ids.size(), rejected(i).ids.size()) : row(i).ids.size();
}

void TokenStore::forget_pages() const {
  if (!data_) return;
  for (const MappedFile& part : data_->parts) {
    if (part.size() > 0) ::madvise(const_cast<char*>(part.data()), part.size(), MADV_DONTNEED);  // read-only file pages: they come back when touched
  }
}

Json manifest_json(const StoreInfo& info, const std::vector<std::string>& parts, const std::vector<uint64_t>& part_bytes) {
  Json list = Json::array();
  for (size_t i = 0; i < parts.size(); ++i) list.push_back(Json{{"file", parts[i]}, {"bytes", part_bytes[i]}});
  return Json{{"format", "llmtrain token store"}, {"version", kVersion},     {"key", info.key},       {"ranking", info.ranking},
              {"pack", name_of(info.pack)},       {"cutoff_len", info.cutoff_len}, {"eos_id", info.eos_id}, {"pad_id", info.pad_id},
              {"rows", info.rows},                {"report", info.report},   {"parts", list}};
}

namespace {

void append_number(std::string& out, uint64_t n) {
  char buffer[24];
  const auto end = std::end(buffer);
  char* p = end;
  do {
    *--p = static_cast<char>('0' + n % 10);
    n /= 10;
  } while (n > 0);
  out.append(p, end);
}

void append_sequence(std::string& out, const RowView& v, const char* ids_key, const char* trained_key, uint64_t padded, int32_t pad_id) {
  out += std::string("\"") + ids_key + "\":[";
  for (size_t i = 0; i < std::max<uint64_t>(v.ids.size(), padded); ++i) {
    if (i > 0) out += ',';
    append_number(out, static_cast<uint64_t>(i < v.ids.size() ? v.ids[i] : pad_id));
  }
  out += std::string("],\"") + trained_key + "\":[";
  for (size_t i = 0; i < v.trained.size(); ++i) {
    out += i > 0 ? ",[" : "[";
    append_number(out, v.trained[i].begin);
    out += ',';
    append_number(out, v.trained[i].end);
    out += ']';
  }
  out += ']';
}

void append_restarts(std::string& out, const RowView& v, uint64_t padded) {
  out += ",\"positions_restart\":[";
  bool first = true;
  const auto put = [&](uint64_t n) {
    if (!first) out += ',';
    first = false;
    append_number(out, n);
  };
  for (const uint32_t r : v.restarts) put(r);
  for (uint64_t i = v.ids.size(); i < padded; ++i) put(i);
  out += ']';
}

void append_row(std::string& out, const TokenStore& store, size_t i) {
  const bool packed = store.info().pack == PackKind::plain || store.info().pack == PackKind::neat;
  const RowView v = store.row(i);
  const uint64_t padded = packed ? store.padded_tokens(i) : 0;
  const bool ranking = store.info().ranking;
  out += '{';
  append_sequence(out, v, ranking ? "chosen" : "ids", ranking ? "chosen_trained" : "trained", padded, store.info().pad_id);
  if (ranking) {
    out += ',';
    append_sequence(out, store.rejected(i), "rejected", "rejected_trained", 0, 0);
  }
  if (packed) append_restarts(out, v, padded);
  out += "}\n";
}

}  // namespace

void write_golden_lines(const std::vector<TokenStore>& stores, const std::string& path) {
  const std::string temporary = path + ".tmp." + std::to_string(::getpid());
  try {
    File file = File::create(temporary);
    std::string out;
    uint64_t offset = 0;
    for (const TokenStore& store : stores) {
      for (size_t i = 0; i < store.size(); ++i) {
        append_row(out, store, i);
        if (out.size() < (size_t{4} << 20) && i + 1 < store.size()) continue;
        file.write_at(out.data(), out.size(), offset);
        offset += out.size();
        out.clear();
        store.forget_pages();
      }
    }
    file.close();
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw_errno("rename", temporary + " -> " + path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

}  // namespace llmtrain
