// Reading dataset_info.json (dataset_info.h).
#include "data/dataset_info.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "data/row_source.h"

namespace llmtrain {
namespace {

constexpr size_t kInfoLimit = size_t{16} << 20;
constexpr uint64_t kMostRows = uint64_t{1} << 32;  // that num_samples may ask for: rows are repeated to reach it

// A member of an entry, with its place for messages.
class EntryReader {
 public:
  EntryReader(const Json& object, std::string place) : object_(object), place_(std::move(place)) {
    if (!object_.is_object()) throw InputError(place_, "is not a JSON object");
  }
  bool has(const char* key) const { return object_.contains(key); }
  const std::string& place() const { return place_; }
  std::optional<std::string> text(const char* key) const {
    if (!has(key) || object_[key].is_null()) return std::nullopt;
    if (!object_[key].is_string()) throw InputError(place_, std::string("\"") + key + "\" is not a string");
    std::string value = object_[key].get<std::string>();
    if (value.find('\0') != std::string::npos) throw InputError(place_, std::string("\"") + key + "\" holds a NUL character");
    return value;
  }
  bool flag(const char* key) const {
    if (!has(key) || object_[key].is_null()) return false;
    if (!object_[key].is_boolean()) throw InputError(place_, std::string("\"") + key + "\" is neither true nor false");
    return object_[key].get<bool>();
  }
  std::optional<uint64_t> count(const char* key) const {
    if (!has(key) || object_[key].is_null()) return std::nullopt;
    if (!object_[key].is_number_unsigned() || object_[key].get<uint64_t>() == 0)
      throw InputError(place_, std::string("\"") + key + "\" is not a positive number");
    if (object_[key].get<uint64_t>() > kMostRows)
      throw InputError(place_, std::string("\"") + key + "\" is more than " + std::to_string(kMostRows) + " rows");
    return object_[key].get<uint64_t>();
  }
  EntryReader inner(const char* key) const { return EntryReader(object_[key], place_ + ", \"" + key + "\""); }
  void warn_of_unknown(const std::vector<std::string>& known, Log& log) const {
    for (auto it = object_.begin(); it != object_.end(); ++it) {
      if (std::find(known.begin(), known.end(), it.key()) == known.end())
        log.warn_once(place_ + ": \"" + it.key() + "\" means nothing here and is ignored");
    }
  }

 private:
  const Json& object_;
  std::string place_;
};

void read_columns(const EntryReader& entry, DatasetEntry& d, Log& log) {
  if (!entry.has("columns")) return;
  const EntryReader c = entry.inner("columns");
  c.warn_of_unknown(
      {"prompt", "query", "response", "history", "messages", "system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"}, log);
  d.lists_columns = true;
  d.prompt = c.text("prompt");
  d.query = c.text("query");
  d.response = c.text("response");
  d.history = c.text("history");
  d.messages = c.text("messages");
  d.system = c.text("system");
  d.tools = c.text("tools");
  d.images = c.text("images");
  d.videos = c.text("videos");
  d.audios = c.text("audios");
  d.chosen = c.text("chosen");
  d.rejected = c.text("rejected");
  d.kto_tag = c.text("kto_tag");
}

void read_tags(const EntryReader& entry, DatasetEntry& d, Log& log) {
  if (!entry.has("tags")) return;
  const EntryReader t = entry.inner("tags");
  t.warn_of_unknown({"role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"}, log);
  d.role_tag = t.text("role_tag");
  d.content_tag = t.text("content_tag");
  d.user_tag = t.text("user_tag");
  d.assistant_tag = t.text("assistant_tag");
  d.observation_tag = t.text("observation_tag");
  d.function_tag = t.text("function_tag");
  d.system_tag = t.text("system_tag");
}

Formatting parse_formatting(const EntryReader& entry) {
  const std::string f = entry.text("formatting").value_or("alpaca");
  if (f == "alpaca") return Formatting::alpaca;
  if (f == "sharegpt") return Formatting::sharegpt;
  if (f == "openai") return Formatting::openai;
  throw InputError(entry.place(), "unknown formatting \"" + f + "\"", "Known: alpaca, sharegpt, openai.");
}

// What a dataset must name for its stage, and what it must not be.
void check_use(const DatasetEntry& d, const EntryReader& entry, Stage stage) {
  const auto need = [&](const DatasetEntry::Name& name, const char* kind, const char* key) {
    if (!name)
      throw InputError(entry.place(), std::string("has \"") + kind + "\" without \"" + key + "\"",
                       std::string("Where ") + kind + " are listed, what is not listed is absent.");
  };
  if ((stage == Stage::dpo) != d.ranking) {
    throw InputError(
        entry.place(),
        std::string("the dataset ") + (d.ranking ? "has rankings" : "has no rankings") + ", which stage " + name_of(stage) + " cannot use",
        d.ranking ? "Use stage: dpo or rm." : "Use a dataset with \"ranking\": true.");
  }
  if (d.formatting == Formatting::alpaca) {
    need(d.prompt, "columns", "prompt");
  } else {
    need(d.messages, "columns", "messages");
    need(d.role_tag, "tags", "role_tag");
    need(d.content_tag, "tags", "content_tag");
    need(d.user_tag, "tags", "user_tag");
    need(d.assistant_tag, "tags", "assistant_tag");
  }
  if (d.ranking) {
    need(d.chosen, "columns", "chosen");
    need(d.rejected, "columns", "rejected");
  }
}

std::string joined(const std::string& folder, const std::string& path) {
  return (std::filesystem::path(folder) / path).lexically_normal().string();
}

void find_files(const std::string& path, const EntryReader& entry, DatasetEntry& d) {
  if (!is_directory(path)) {
    if (!is_regular_file(path)) {
      std::error_code error;  // a link to itself, a name that is too long
      const bool there = std::filesystem::exists(path, error);
      throw InputError(path, there ? "is not a regular file" : error ? "cannot be read: " + error.message() : "no such file",
                       "It is named by " + entry.place() + ".");
    }
    d.files = {path};
  } else {
    std::error_code error;
    for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
      if (it->path().filename().string().front() != '.') d.files.push_back(it->path().string());
    }
    if (error) throw InputError(path, "cannot be read: " + error.message());
    std::sort(d.files.begin(), d.files.end());
    if (d.files.empty()) throw InputError(path, "the folder holds no files", "It is named by " + entry.place() + ".");
  }
  for (const std::string& f : d.files) {
    if (!is_regular_file(f)) throw InputError(f, "is not a regular file");
    const FileKind kind = file_kind(f);
    if (kind != file_kind(d.files[0])) throw InputError(path, "holds files of several kinds: " + d.files[0] + ", " + f, "Keep one kind in a folder.");
    if (kind != FileKind::json && (d.formatting != Formatting::alpaca || d.ranking)) {
      if (d.formatting != Formatting::alpaca)
        throw InputError(f, "conversations need .json or .jsonl", "Or set \"formatting\": \"alpaca\" in " + entry.place() + ".");
    }
  }
}

const Json& find_entry(const Json& info, const std::string& name, const std::string& path) {
  if (info.contains(name)) return info[name];
  std::string close, all;
  size_t best = 3;
  for (auto it = info.begin(); it != info.end(); ++it) {
    const std::string& known = it.key();
    if (all.size() < 400) all += (all.empty() ? "" : ", ") + known;
    size_t same = 0;  // a cheap likeness: common beginning and end
    while (same < std::min(known.size(), name.size()) && known[same] == name[same]) ++same;
    size_t tail = 0;
    while (tail < std::min(known.size(), name.size()) - same && known[known.size() - 1 - tail] == name[name.size() - 1 - tail]) ++tail;
    const size_t differs = std::max(known.size(), name.size()) - same - tail;
    if (differs < best) {
      best = differs;
      close = known;
    }
  }
  throw InputError(path, "there is no dataset \"" + name + "\"" + (close.empty() ? "" : "; did you mean " + close + "?"), "It defines: " + all + ".");
}

std::vector<DatasetEntry> read(const std::string& dir, const std::vector<std::string>& names, Stage stage, bool look_for_files, Log& log) {
  if (dir == "ONLINE" || dir.rfind("REMOTE:", 0) == 0)
    throw InputError("dataset_dir", dir + ": datasets are not downloaded here", "Download them and name the folder.");
  const std::string path = joined(dir, "dataset_info.json");
  const Json info = parse_json_file(path, kInfoLimit);
  if (!info.is_object()) throw InputError(path, "is not a JSON object of datasets");
  std::vector<DatasetEntry> entries;
  for (const std::string& name : names) {
    const EntryReader entry(find_entry(info, name, path), path + ", \"" + name + "\"");
    for (const char* hub : {"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}) {
      if (!entry.has(hub)) continue;
      const std::string where = entry.text(hub).value_or("");
      throw InputError(entry.place(), std::string("\"") + hub + "\": datasets are not downloaded here",
                       "Download it once, for example  hf download --repo-type dataset " + where + " --local-dir " + name +
                           "  and name the file: {\"file_name\": \"" + name + "/…\"}.");
    }
    entry.warn_of_unknown({"file_name", "formatting", "ranking", "split", "subset", "folder", "num_samples", "columns", "tags"}, log);
    DatasetEntry d;
    d.name = name;
    d.formatting = parse_formatting(entry);
    d.ranking = entry.flag("ranking");
    d.num_samples = entry.count("num_samples");
    if (const std::string split = entry.text("split").value_or("train"); split != "train") {
      throw InputError(entry.place(), "\"split\": \"" + split + "\": a file has the split \"train\" only",
                       "Put the rows that you want into a file of their own.");
    }
    read_columns(entry, d, log);
    read_tags(entry, d, log);
    check_use(d, entry, stage);
    const auto file_name = entry.text("file_name");
    if (!file_name || file_name->empty()) throw InputError(entry.place(), "has no \"file_name\"");
    if (look_for_files) find_files(joined(dir, *file_name), entry, d);
    entries.push_back(std::move(d));
  }
  return entries;
}

}  // namespace

std::vector<DatasetEntry> read_dataset_info(const std::string& dir, const std::vector<std::string>& names, Stage stage, Log& log) {
  return read(dir, names, stage, true, log);
}

void check_dataset_names(const std::string& dir, const std::vector<std::string>& names, Stage stage, Log& log) {
  read(dir, names, stage, false, log);
}

}  // namespace llmtrain
