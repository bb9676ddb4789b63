#include "checkpoint/manifest.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "checkpoint/digest.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

constexpr const char* kFormat = "llmtrain checkpoint";
constexpr int kVersion = 1;

Json without_digest(const Manifest& m) {
  Json files = Json::array();
  for (const ManifestFile& f : m.files) files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh3_128", f.digest}});
  return {{"format", kFormat}, {"format_version", kVersion}, {"run_id", m.run_id}, {"step", m.step},
          {"state", m.state},  {"files", files},             {"content", to_json(m.content)}, {"build", m.build}};
}

std::string member_text(const Json& json, const char* key, const std::string& where) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_string()) throw InputError(where, std::string("\"") + key + "\" is missing or not a text");
  return it->get<std::string>();
}

ManifestFile file_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) throw InputError(where, "an entry of \"files\" is not an object");
  ManifestFile f;
  f.name = member_text(json, "name", where);
  f.digest = member_text(json, "xxh3_128", where);
  if (f.name.empty() || f.name.find('/') != std::string::npos || f.name == "." || f.name == "..") {
    throw InputError(where, "\"" + f.name + "\" is not a plain file name");
  }
  if (std::any_of(f.name.begin(), f.name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; })) throw InputError(where, "a file's name holds control characters");
  const auto bytes = json.find("bytes");
  if (bytes == json.end() || !bytes->is_number_unsigned()) throw InputError(where, "\"bytes\" of " + f.name);
  f.bytes = bytes->get<uint64_t>();
  return f;
}

// A shard that the manifest does not name would be opened without anybody having looked at its bytes.
void check_shards_are_listed(const Manifest& m, const std::string& where) {
  std::set<std::string> names;
  for (const ManifestFile& f : m.files) {
    if (!names.insert(f.name).second) throw InputError(where, f.name + " is listed twice");
  }
  for (int rank = 0; rank < m.content.world; ++rank) {
    const std::string name = shard_file_name(rank, m.content.world);
    if (!names.count(name)) throw InputError(where, name + " is not listed, so nothing says what it should hold");
  }
}

}  // namespace

std::string dump_manifest(const Manifest& manifest, size_t most_bytes) {
  Json json = without_digest(manifest);
  json["digest"] = digest_of(dump_json(json, 1));
  std::string text = dump_json(json, 1) + "\n";
  if (text.size() > most_bytes) {
    throw OperationError("manifest.json of step " + std::to_string(manifest.step) + " would have " + std::to_string(text.size()) + " bytes, more than the " + std::to_string(most_bytes) +
                         " that are read: the log history in it is too long; go on from the checkpoint before with a larger logging_steps");
  }
  return text;
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  const std::string text = read_file(path, kMostManifestBytes);
  Json json = parse_json(text, path);
  if (!json.is_object() || json.value("format", Json()) != kFormat) throw InputError(path, "this is not the manifest of a checkpoint");
  if (const Json version = json.value("format_version", Json()); version != kVersion) {
    const std::string what = "checkpoint format version " + dump_json(version) + "; this program reads version " + std::to_string(kVersion);
    if (version.is_number_integer() && version > kVersion) throw NewerFormat(path, what, "a newer version of this program wrote it: use that one");
    throw InputError(path, what);
  }
  const std::string digest = member_text(json, "digest", path);
  // Written text and parsed content determine each other, so comparing the text finds a change of any byte.
  if (dump_json(json, 1) + "\n" != text) throw InputError(path, "the file was changed or damaged after it was written");
  json.erase("digest");
  if (digest_of(dump_json(json, 1)) != digest) throw InputError(path, "its digest does not fit its content: changed or damaged after it was written");
  Manifest m;
  m.digest = digest;
  m.run_id = member_text(json, "run_id", path);
  m.build = member_text(json, "build", path);
  m.step = whole_number(json, "step", 0, kMaxStep, path);
  m.state = json.value("state", Json());
  m.content = content_from_json(json.value("content", Json()), path);
  const auto files = json.find("files");
  if (files == json.end() || !files->is_array()) throw InputError(path, "\"files\" is missing");
  for (const Json& f : *files) m.files.push_back(file_from_json(f, path));
  check_shards_are_listed(m, path);
  return m;
}

namespace {
std::string fault_of(const std::string& folder, const ManifestFile& f) {
  const std::string path = folder + "/" + f.name;
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) return f.name + " is missing";
  if (!S_ISREG(s.st_mode)) return f.name + " is not a regular file";
  if (static_cast<uint64_t>(s.st_size) != f.bytes) {
    return f.name + " has " + std::to_string(s.st_size) + " bytes instead of " + std::to_string(f.bytes);
  }
  try {
    const std::string digest = digest_of_file(path);
    if (digest != f.digest) return f.name + " is damaged: its digest is " + digest + " instead of " + f.digest;
  } catch (const std::exception& e) {
    return std::string(e.what());
  }
  return "";
}
}  // namespace

std::string verify_files(const std::string& folder, const Manifest& manifest, RankGroup& group) {
  std::string mine;
  // Sizes first: a truncated or swapped file is found without reading gigabytes.
  for (size_t i = 0; i < manifest.files.size() && mine.empty(); ++i) {
    struct stat s {};
    const std::string path = folder + "/" + manifest.files[i].name;
    if (::stat(path.c_str(), &s) != 0 || static_cast<uint64_t>(s.st_size) != manifest.files[i].bytes) mine = fault_of(folder, manifest.files[i]);
  }
  for (size_t i = static_cast<size_t>(group.rank()); i < manifest.files.size() && mine.empty(); i += static_cast<size_t>(group.size())) {
    mine = fault_of(folder, manifest.files[i]);
  }
  const char bad = mine.empty() ? 0 : 1;
  std::vector<char> all(static_cast<size_t>(group.size()));
  group.all_gather(&bad, all.data(), 1);
  for (int r = 0; r < group.size(); ++r) {
    if (all[static_cast<size_t>(r)]) return broadcast_string(group, mine, r);
  }
  return "";
}

std::vector<std::pair<int64_t, std::string>> list_checkpoints(const std::string& output_dir) {
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(output_dir, error)) {
    const std::string name = entry.path().filename().string();
    constexpr std::string_view kPrefix = "checkpoint-";
    if (!name.starts_with(kPrefix) || !entry.is_directory(error)) continue;
    int64_t step = 0;
    const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size();
    const auto r = std::from_chars(begin, end, step);
    if (r.ec != std::errc() || r.ptr != end || begin == end || step < 0) continue;
    found.emplace_back(step, entry.path().string());
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  return found;
}

}  // namespace llmtrain
