// A model in Hugging Face's form: found by name in its cache, and read tensor by tensor over one or many safetensors files.
//
// Thread rules: a ModelFolder is read-only after open(); read_range() may run in many threads. Each rank opens the folder (headers only)
// and reads its own ranges.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "hf/named_shape.h"
#include "hf/safetensors.h"

namespace llmtrain {

// The folder of a model: `name_or_path` itself where it is a folder, else ORG/NAME in Hugging Face's cache, the snapshot that refs/main
// names. The cache is $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else
// ~/.cache/huggingface/hub (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).
// InputError where it is neither, with the command that downloads it. `key` is named in the message ("model_name_or_path").
std::string resolve_model(const std::string& name_or_path, const std::string& key = "model");

class ModelFolder {
 public:
  // model.safetensors, else model.safetensors.index.json with its shards (plain file names in the folder; symlinks are followed).
  // InputError for a folder without either (with advice where it holds pickles, GGUF or an adapter), a shard that is missing or
  // damaged, an index that names another folder or a tensor that its shard does not hold.
  static ModelFolder open(const std::string& folder);

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  bool has(const std::string& name) const { return places_.count(name) != 0; }
  const SafetensorsEntry& entry(const std::string& name) const;  // InputError where absent
  std::vector<std::string> names() const;                        // by file, then as their data lie

  // All of `expected` must be here with its shape, in a floating-point type: one InputError lists the first that are missing or different.
  // Returns what the folder holds beyond them (rotary tables, a tied head …), which transformers ignores too.
  std::vector<std::string> check(const std::vector<NamedShape>& expected) const;

  // As SafetensorsFile::read_range.
  void read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const;

 private:
  struct Place {
    uint32_t file, entry;
  };
  const Place& place(const std::string& name) const;
  void open_single(const std::string& file);
  void open_index(const std::string& file);
  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string, Place> places_;
};

}  // namespace llmtrain
