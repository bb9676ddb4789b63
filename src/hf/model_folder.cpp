#include "hf/model_folder.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/json.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
constexpr size_t kIndexLimitBytes = size_t{64} << 20;
constexpr size_t kMaxShards = 10'000;

std::string environment(const char* name) {
  const char* value = ::getenv(name);
  return value ? value : "";
}

std::string expand_home(const std::string& path) {
  return path == "~" || path.rfind("~/", 0) == 0 ? environment("HOME") + path.substr(1) : path;
}

std::string hub_cache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (!environment(name).empty()) return expand_home(environment(name));
  }
  if (!environment("HF_HOME").empty()) return expand_home(environment("HF_HOME")) + "/hub";
  if (!environment("XDG_CACHE_HOME").empty()) return expand_home(environment("XDG_CACHE_HOME")) + "/huggingface/hub";
  return environment("HOME") + "/.cache/huggingface/hub";
}

// A name without a path in it: no separator, not "." or "..", nothing that a terminal or the system would misread.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." && name.find('/') == std::string::npos &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// "NAME" or "ORG/NAME" with the characters that the hub allows.
bool is_hub_name(const std::string& name) {
  const auto slashes = std::count(name.begin(), name.end(), '/');
  if (name.empty() || name.size() > 200 || slashes > 1 || name.front() == '/' || name.back() == '/' || name.front() == '.') return false;
  if (name.find("/.") != std::string::npos || name.find("--") != std::string::npos || name.find("..") != std::string::npos) return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '/'; });
}

std::string first_word(const std::string& text) {
  const size_t end = text.find_first_of(" \t\r\n");
  return text.substr(0, end);
}

bool has_ending(const std::string& name, const std::string& ending) {
  return name.size() >= ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

bool is_link(const std::string& path) {
  std::error_code error;
  return fs::is_symlink(path, error);
}

// Why a folder without model.safetensors cannot be used.
[[noreturn]] void refuse_folder(const std::string& folder) {
  bool pickle = false, gguf = false, other = false;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    const std::string name = item.path().filename().string();
    pickle |= has_ending(name, ".bin") || has_ending(name, ".pt") || has_ending(name, ".pth") || has_ending(name, ".ckpt");
    gguf |= has_ending(name, ".gguf");
    other |= has_ending(name, ".safetensors");
  }
  if (is_regular_file(folder + "/adapter_config.json")) {
    throw InputError(folder, "this is an adapter, not a model", "name the model that it was trained on, and the adapter with adapter_name_or_path");
  }
  if (pickle) {
    throw InputError(folder, "the weights are PyTorch pickles (.bin, .pt); they are not read, because reading them could run code",
                     "convert them once: python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('" + folder +
                         "').save_pretrained('NEW_FOLDER')\"");
  }
  if (gguf) throw InputError(folder, "GGUF files are not read", "use the Hugging Face folder that they were made from");
  if (other) throw InputError(folder, "there is neither model.safetensors nor model.safetensors.index.json, only other safetensors files");
  throw InputError(folder, "there is neither model.safetensors nor model.safetensors.index.json", "name a Hugging Face model folder");
}

std::string listed(const std::vector<std::string>& items) {
  constexpr size_t kShown = 5;
  std::string text;
  for (size_t i = 0; i < std::min(items.size(), kShown); ++i) text += "\n    " + items[i];
  if (items.size() > kShown) text += "\n    and " + std::to_string(items.size() - kShown) + " more";
  return text;
}

}  // namespace

std::string resolve_model(const std::string& name_or_path, const std::string& key) {
  const std::string path = expand_home(name_or_path);
  if (is_directory(path)) return path;
  if (is_regular_file(path)) throw InputError(key, "'" + name_or_path + "' is a file; a model folder is expected");
  if (!is_hub_name(name_or_path)) throw InputError(key, "there is no folder '" + name_or_path + "'");
  const std::string cache = hub_cache();
  std::string folder = name_or_path;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  folder = cache + "/models--" + folder;
  const std::string advice = "download it: hf download " + name_or_path;
  const std::string ref = folder + "/refs/main";
  if (!is_regular_file(ref))
    throw InputError(key, "'" + name_or_path + "' is neither a folder nor a model in Hugging Face's cache (" + cache + ")", advice);
  const std::string revision = first_word(read_file(ref, 4096));
  if (!is_plain_file_name(revision)) throw InputError(ref, "does not name a snapshot", advice);
  const std::string snapshot = folder + "/snapshots/" + revision;
  if (!is_directory(snapshot))
    throw InputError(key, "the cached model '" + name_or_path + "' lacks its snapshot " + revision + " (" + folder + ")", advice);
  return snapshot;
}

ModelFolder ModelFolder::open(const std::string& folder) {
  if (!is_directory(folder)) throw InputError(folder, "there is no such model folder");
  ModelFolder m;
  m.path_ = folder;
  const std::string single = folder + "/model.safetensors", index = single + ".index.json";
  if (is_regular_file(single)) {
    m.open_single(single);
  } else if (is_regular_file(index)) {
    m.open_index(index);
  } else if (is_link(single) || is_link(index)) {
    throw InputError(is_link(single) ? single : index, "the link leads nowhere: the download is not complete", "download the model again");
  } else {
    refuse_folder(folder);
  }
  return m;
}

void ModelFolder::open_single(const std::string& file) {
  files_.push_back(SafetensorsFile::open(file));
  const auto& entries = files_[0].entries();
  places_.reserve(entries.size());
  for (uint32_t i = 0; i < entries.size(); ++i) places_[entries[i].name] = {0, i};
}

void ModelFolder::open_index(const std::string& file) {
  const Json index = parse_json_file(file, kIndexLimitBytes);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) throw InputError(file, "weight_map is missing");
  std::map<std::string, uint32_t> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      throw InputError(file, "weight_map: " + dump_json(shard).substr(0, 200) + " is not a plain file name in the folder");
    }
    shards.emplace(shard.get<std::string>(), 0);
  }
  if (shards.size() > kMaxShards) throw InputError(file, "weight_map names " + std::to_string(shards.size()) + " files");
  std::vector<std::string> missing;
  for (const auto& [shard, unused] : shards) {
    if (!is_regular_file(path_ + "/" + shard)) missing.push_back(shard);
  }
  if (!missing.empty()) {
    const std::string count = std::to_string(missing.size()) + " of " + std::to_string(shards.size());
    throw InputError(path_, count + " weight files are missing:" + listed(missing), "download or copy them again");
  }
  for (auto& [shard, number] : shards) {
    number = static_cast<uint32_t>(files_.size());
    files_.push_back(SafetensorsFile::open(path_ + "/" + shard));
  }
  places_.reserve(map->size());
  for (const auto& [tensor, shard] : map->items()) {
    const uint32_t number = shards.at(shard.get_ref<const std::string&>());
    const SafetensorsEntry* entry = files_[number].find(tensor);
    if (!entry) throw InputError(file, "weight_map: tensor " + dump_json(Json(tensor)).substr(0, 200) + " is not in " + shard.get<std::string>());
    places_[tensor] = {number, static_cast<uint32_t>(entry - files_[number].entries().data())};
  }
}

const ModelFolder::Place& ModelFolder::place(const std::string& name) const {
  const auto it = places_.find(name);
  if (it == places_.end()) throw InputError(path_, "tensor " + name + " is missing");
  return it->second;
}

const SafetensorsEntry& ModelFolder::entry(const std::string& name) const {
  const Place& p = place(name);
  return files_[p.file].entries()[p.entry];
}

std::vector<std::string> ModelFolder::names() const {
  std::vector<std::string> all;
  for (const SafetensorsFile& file : files_) {
    for (const SafetensorsEntry& e : file.entries()) {
      const auto it = places_.find(e.name);
      if (it != places_.end() && &files_[it->second.file] == &file) all.push_back(e.name);
    }
  }
  return all;
}

std::vector<std::string> ModelFolder::check(const std::vector<NamedShape>& expected) const {
  std::vector<std::string> missing, different;
  std::unordered_map<std::string, bool> wanted;
  for (const NamedShape& t : expected) {
    wanted[t.name] = true;
    if (!has(t.name)) {
      missing.push_back(t.name);
      continue;
    }
    const SafetensorsEntry& e = entry(t.name);
    if (!(e.shape == t.shape)) {
      different.push_back(t.name + " is " + e.shape.text() + ", config.json needs " + t.shape.text());
    } else if (!is_floating(e.dtype)) {
      different.push_back(t.name + " holds " + name_of(e.dtype) + ", not floating-point numbers");
    }
  }
  std::string fault;
  if (!missing.empty()) fault = std::to_string(missing.size()) + " of " + std::to_string(expected.size()) + " tensors are missing:" + listed(missing);
  if (!different.empty()) fault += (fault.empty() ? "" : "\n  and ") + std::to_string(different.size()) + " are not as expected:" + listed(different);
  if (!fault.empty()) throw InputError(path_, fault, "the weights and config.json do not belong together");
  std::vector<std::string> extra;
  for (const std::string& name : names()) {
    if (!wanted.count(name)) extra.push_back(name);
  }
  return extra;
}

void ModelFolder::read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const {
  const Place& p = place(name);
  files_[p.file].read_range(files_[p.file].entries()[p.entry], element_begin, count, out, out_type);
}

}  // namespace llmtrain
