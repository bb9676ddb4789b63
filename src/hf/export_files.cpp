// The small files of an exported folder: config.json, generation_config.json and the tokenizer's.
#include "core/error.h"
#include "core/flattened_link.h"
#include "core/json.h"
#include "hf/export.h"

namespace llmtrain {
namespace {

constexpr size_t kTokenizerLimitBytes = size_t{256} << 20;
constexpr size_t kJsonLimitBytes = size_t{16} << 20;

// As transformers and sentencepiece name them. The first group is copied as it is.
constexpr const char* kCopied[] = {"tokenizer.json", "tokenizer.model", "added_tokens.json", "merges.txt", "vocab.json"};
constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr const char* kSpecialTokens = "special_tokens_map.json";
constexpr const char* kChatTemplate = "chat_template.jinja";
constexpr const char* kGenerationConfig = "generation_config.json";

class SourceFolder {
 public:
  explicit SourceFolder(std::string path) : path_(std::move(path)) {}
  bool has(const std::string& name) const { return !path_.empty() && is_regular_file(path_ + "/" + name); }
  std::string text(const std::string& name) const { return read_file(follow_flattened_link(path_ + "/" + name), kTokenizerLimitBytes); }
  Json object(const std::string& name) const {
    Json json = parse_json_file(path_ + "/" + name, kJsonLimitBytes);
    if (!json.is_object()) throw InputError(path_ + "/" + name, "a JSON object is expected");
    return json;
  }

 private:
  std::string path_;
};

std::string pretty(const Json& json) { return dump_json(json, 2) + "\n"; }

void set_ids(Json& json, const ExportChoices& c) {
  if (c.bos_token_id) json["bos_token_id"] = *c.bos_token_id;
  if (c.eos_token_ids.size() == 1) json["eos_token_id"] = c.eos_token_ids[0];
  if (c.eos_token_ids.size() > 1) json["eos_token_id"] = c.eos_token_ids;
  if (c.pad_token_id) json["pad_token_id"] = *c.pad_token_id;
}

std::string config_text(const ExportChoices& c) {
  LLMTRAIN_ASSERT(c.config && c.config->is_object(), "config.json");
  Json json = *c.config;
  const bool newer = json.contains("dtype") || (!json.contains("torch_dtype") && json.contains("rope_parameters"));
  json[newer ? "dtype" : "torch_dtype"] = name_of(c.dtype);
  if (newer) json.erase("torch_dtype");
  set_ids(json, c);
  return pretty(json);
}

std::string generation_config_text(const ExportChoices& c, const SourceFolder& source) {
  Json json = Json::object();
  if (source.has(kGenerationConfig)) {
    json = source.object(kGenerationConfig);
  } else {
    json["_from_model_config"] = true;
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
      if (const auto it = c.config->find(key); it != c.config->end() && !it->is_null()) json[key] = *it;
    }
  }
  set_ids(json, c);
  return pretty(json);
}

// A special token stands as its text or as an object that holds it ("content"); the form is kept.
void set_token(Json& json, const char* key, const std::optional<std::string>& text) {
  if (!text) return;
  if (const auto it = json.find(key); it != json.end() && it->is_object()) {
    (*it)["content"] = *text;
  } else {
    json[key] = *text;
  }
}

void set_tokens(Json& json, const ExportChoices& c) {
  set_token(json, "eos_token", c.eos_token);
  set_token(json, "pad_token", c.pad_token);
}

void add_tokenizer_files(const ExportChoices& c, const SourceFolder& source, std::vector<SmallFile>& files) {
  for (const char* name : kCopied) {
    if (source.has(name)) files.push_back({name, source.text(name)});
  }
  if (source.has(kTokenizerConfig)) {
    Json json = source.object(kTokenizerConfig);
    set_tokens(json, c);
    if (c.chat_template) json["chat_template"] = *c.chat_template;
    files.push_back({kTokenizerConfig, pretty(json)});
  } else if (source.has("tokenizer.json")) {
    Json json = Json::object();
    json["tokenizer_class"] = "PreTrainedTokenizerFast";
    set_tokens(json, c);
    if (c.chat_template) json["chat_template"] = *c.chat_template;
    files.push_back({kTokenizerConfig, pretty(json)});
  }
  if (source.has(kSpecialTokens)) {
    Json json = source.object(kSpecialTokens);
    set_tokens(json, c);
    files.push_back({kSpecialTokens, pretty(json)});
  }
  if (c.chat_template) {
    files.push_back({kChatTemplate, *c.chat_template});
  } else if (source.has(kChatTemplate)) {
    files.push_back({kChatTemplate, source.text(kChatTemplate)});
  }
}

}  // namespace

std::vector<SmallFile> make_small_files(const ExportChoices& choices) {
  const SourceFolder source(choices.source_folder);
  std::vector<SmallFile> files;
  files.push_back({"config.json", config_text(choices)});
  files.push_back({kGenerationConfig, generation_config_text(choices, source)});
  add_tokenizer_files(choices, source, files);
  return files;
}

}  // namespace llmtrain
