// Writes a model as a Hugging Face folder, by all ranks in parallel and without gathering it in one of them.
//
//   ExportPlan plan(tensors, DType::bfloat16, 5'000'000'000);          // which tensor lies where: the same on every rank
//   FolderExport out(group, plan, folder);                             // collective: rank 0 creates the files under temporary names
//   out.write_range(name, begin, count, data, DType::float32);         // any rank, any part, each element once
//   out.finish(make_small_files(choices));                             // collective: everything on disk, then renamed
//
// Until finish() has succeeded the folder holds only names ending in ".tmp" beside what was there before; these are removed when the export
// is dropped. finish() puts the file that makes the folder a model (model.safetensors or its index) in place last, so that a crash
// leaves the old model, the new one or none, and never a mixture.
//
// The folder must be on a file system that all ranks see (OperationError naming the rank that does not).
// Thread rules: write_range() may run in several threads of a rank; the rest is called by one.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"
#include "core/rank_group.h"
#include "hf/named_shape.h"
#include "hf/safetensors.h"

namespace llmtrain {

inline constexpr uint64_t kDefaultMaxShardBytes = 5'000'000'000;  // transformers' "5GB"

// "5GB", "500MB", "2GiB", "1000000": bytes. InputError naming `where`.
uint64_t parse_shard_size(const std::string& text, const std::string& where);

// Which tensor lies in which file at which byte. Files are filled in the given order, a new one begun where the next tensor would exceed
// the limit (a tensor larger than the limit has a file of its own), as huggingface_hub's split does.
class ExportPlan {
 public:
  ExportPlan(const std::vector<NamedShape>& tensors, DType dtype, uint64_t max_shard_bytes = kDefaultMaxShardBytes);

  struct FilePlan {
    std::string name;    // "model.safetensors" or "model-00001-of-00003.safetensors"
    std::string header;  // the first bytes
    uint64_t bytes = 0;  // of the whole file
    std::vector<SafetensorsEntry> tensors;
  };
  struct Place {
    size_t file = 0, tensor = 0;
  };
  DType dtype() const { return dtype_; }
  const std::vector<FilePlan>& files() const { return files_; }
  bool sharded() const { return files_.size() > 1; }
  std::string index_json() const;                      // of model.safetensors.index.json
  const Place& place(const std::string& name) const;   // asserts that it is there
  uint64_t total_bytes() const { return total_bytes_; }  // of all tensors

 private:
  DType dtype_;
  std::vector<FilePlan> files_;
  std::unordered_map<std::string, Place> places_;
  uint64_t total_bytes_ = 0;
  int64_t total_parameters_ = 0;
};

// A file that is small enough to be held: config.json, the tokenizer's files …
struct SmallFile {
  std::string name, content;
};

class FolderExport {
 public:
  // Collective. Throws the same error on every rank.
  FolderExport(RankGroup& group, ExportPlan plan, std::string folder);
  ~FolderExport();
  FolderExport(const FolderExport&) = delete;
  FolderExport& operator=(const FolderExport&) = delete;

  // Elements [element_begin, element_begin + count) of a tensor, converted to the plan's type. A failure is kept and thrown by finish(), on all
  // ranks, so that a full disk on one rank leaves nobody waiting.
  void write_range(const std::string& name, int64_t element_begin, int64_t count, const void* data, DType data_type);
  bool failed();  // a write_range() of this rank has failed: more of them are of no use
  // Collective. `small_files` counts on rank 0. A FolderExport is finished once.
  void finish(const std::vector<SmallFile>& small_files);

  const ExportPlan& plan() const { return plan_; }

 private:
  std::string final_path(size_t file) const { return folder_ + "/" + plan_.files()[file].name; }
  std::string temporary_path(size_t file) const { return final_path(file) + ".tmp"; }
  File& open_file(size_t file);
  void write_checked(const std::string& name, int64_t element_begin, int64_t count, const void* data, DType data_type);
  void create_files();
  void remove_temporaries();
  void put_in_place(const std::vector<SmallFile>& small_files);
  RankGroup& group_;
  ExportPlan plan_;
  std::string folder_;
  std::mutex mutex_;                           // guards the next two
  std::vector<std::unique_ptr<File>> open_;    // by file; opened when this rank first writes into it
  std::exception_ptr failure_;
  bool finished_ = false;
  bool created_ = false;  // this rank made temporary files, and removes them
};

// What the small files of an exported folder say.
struct ExportChoices {
  std::string source_folder;                              // the tokenizer's files and generation_config.json come from here ("" = none)
  std::shared_ptr<const nlohmann::ordered_json> config;   // config.json; its dtype is replaced, all else kept in its style
  DType dtype = DType::float32;
  // Where given, they replace what the source says; several eos ids are written as a list, one as a number.
  std::vector<int64_t> eos_token_ids;
  std::optional<int64_t> bos_token_id, pad_token_id;
  std::optional<std::string> eos_token, pad_token;        // texts, for tokenizer_config.json and special_tokens_map.json
  std::optional<std::string> chat_template;               // Jinja text: chat_template.jinja and tokenizer_config.json
};

// config.json, generation_config.json and the tokenizer's files. Reads all that it needs, so that a caller who runs it before a long
// training meets a broken source folder there (InputError).
std::vector<SmallFile> make_small_files(const ExportChoices& choices);

}  // namespace llmtrain
