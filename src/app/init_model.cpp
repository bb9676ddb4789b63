// See init_model.h.
#include "app/init_model.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "data/templates.h"
#include "data/tokenizer.h"
#include "hf/export.h"
#include "hf/model_folder.h"
#include "model/model_config.h"
#include "train/random_weights.h"

namespace llmtrain {
namespace {

constexpr int64_t kChunkElements = 1 << 20;
constexpr size_t kTextLimitBytes = size_t{1} << 30;

// A learned tokenizer carries the markers of this template, so that conversations can be trained at once.
constexpr const char* kLearnedTemplate = "llama3";
constexpr const char* kBos = "<|begin_of_text|>";
constexpr const char* kEos = "<|end_of_text|>";
const std::vector<std::string> kMarkers = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};

void append_strings(const Json& value, std::string& text) {
  if (value.is_string()) {
    text += value.get_ref<const std::string&>();
    text += '\n';
  } else if (value.is_structured()) {
    for (const Json& item : value) append_strings(item, text);
  }
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Where the tokenizer's files of `source` lie: the folder itself, or the folder of a file that is named config.json; "" for any other file.
std::string tokenizer_folder(const std::string& source) {
  if (is_directory(source)) return source;
  const std::filesystem::path path(source);
  if (path.filename() != "config.json") return "";
  return path.has_parent_path() ? path.parent_path().string() : ".";
}

bool has_tokenizer(const std::string& folder) {
  return !folder.empty() && (is_regular_file(folder + "/tokenizer.json") || is_regular_file(folder + "/tokenizer.model"));
}

void check_out(const InitOptions& options) {
  std::error_code error;
  const std::filesystem::path out(options.out);
  if (!std::filesystem::exists(out, error)) return;
  if (!std::filesystem::is_directory(out, error))
    throw InputError(options.out, "there is something of this name that is no folder", "Name another folder.");
  if (!options.force && !std::filesystem::is_empty(out, error)) {
    throw InputError(options.out, "the folder is not empty", "Name another folder, or give --force to write over a model that lies there.");
  }
}

// A folder beside OUT for the learned tokenizer until the export copies it; removed at the end, whatever happens. Made and used by rank 0.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& out) : path_(std::filesystem::path(out + "/").parent_path().string() + ".tokenizer.tmp") {}
  ~TemporaryFolder() {
    std::error_code ignored;
    if (made_) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  void make() {
    make_writable_directories(path_);
    made_ = true;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_ = false;
};

struct LearnedTokenizer {
  int64_t vocab_size = 0, bos_id = 0, eos_id = 0;
};

// On rank 0; every rank gets the numbers.
LearnedTokenizer learn_tokenizer(const InitOptions& options, int64_t vocab_size, const std::string& folder) {
  BpeTrainingOptions training;
  training.vocab_size = static_cast<int32_t>(vocab_size);
  training.bos_token = kBos;
  training.eos_token = kEos;
  training.more_special_tokens = kMarkers;
  train_byte_level_bpe(text_of_dataset(options.tokenizer_from), training, folder);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  return {tokenizer.vocab_size(), tokenizer.bos_id(), tokenizer.eos_id()};
}

// The chat template of the learned tokenizer, so that `template` may be left out and transformers' apply_chat_template works.
std::string learned_chat_template(const std::string& folder) {
  const Tokenizer tokenizer = Tokenizer::load(folder);
  const Template& tmpl = find_template(kLearnedTemplate);
  return exported_chat_template(tmpl, special_tokens(tmpl, tokenizer), tokenizer);
}

void set_vocabulary(Json& config, const LearnedTokenizer& learned) {
  config["vocab_size"] = learned.vocab_size;
  config["bos_token_id"] = learned.bos_id;
  config["eos_token_id"] = learned.eos_id;
  if (config.contains("pad_token_id")) config["pad_token_id"] = nullptr;  // the id meant another token in SRC's vocabulary
}

// Chunks are dealt to the ranks in turn, over all tensors, so that every rank writes about as much.
void write_weights(const ModelConfig& config, uint64_t seed, RankGroup& group, FolderExport& out) {
  const RandomWeights random(config, seed);
  std::vector<float> chunk;
  int64_t turn = 0;
  for (const TensorSpec& tensor : all_tensors(config)) {
    const int64_t elements = tensor.shape.elements();
    for (int64_t begin = 0; begin < elements; begin += kChunkElements) {
      if (turn++ % group.size() != group.rank()) continue;
      if (out.failed()) return;
      const int64_t count = std::min(kChunkElements, elements - begin);
      chunk.resize(static_cast<size_t>(count));
      random.fill(tensor.name, begin, count, chunk.data());
      out.write_range(tensor.name, begin, count, chunk.data(), DType::float32);
    }
  }
}

// What --vocab-size asks for, or config.json's own.
int64_t wanted_vocabulary(const InitOptions& options, const ModelConfig& config) {
  const int64_t wanted = options.vocab_size > 0 ? options.vocab_size : config.vocab_size;
  const int64_t least = 256 + 2 + static_cast<int64_t>(kMarkers.size());
  if (wanted < least || wanted > (int64_t{1} << 24)) {
    throw InputError("--vocab-size",
                     std::to_string(wanted) + " is not between " + std::to_string(least) + " (256 bytes and the special tokens) and 16777216");
  }
  return wanted;
}

}  // namespace

std::string text_of_dataset(const std::string& path) {
  std::string content = read_file(path, kTextLimitBytes);
  std::string text;
  if (ends_with(path, ".json")) {
    append_strings(parse_json(content, path), text);
  } else if (ends_with(path, ".jsonl")) {
    size_t begin = 0;
    for (int line = 1; begin < content.size(); ++line) {
      const size_t end = std::min(content.find('\n', begin), content.size());
      const std::string_view row(content.data() + begin, end - begin);
      if (row.find_first_not_of(" \t\r") != std::string_view::npos) append_strings(parse_json(row, path + ":" + std::to_string(line)), text);
      begin = end + 1;
    }
  } else {
    text = std::move(content);
  }
  if (text.empty()) throw InputError(path, "there is no text to learn a tokenizer from");
  return text;
}

InitResult init_model(const InitOptions& options, RankGroup& group, Log& log) {
  TemporaryFolder temporary(options.out);
  const bool learn = !options.tokenizer_from.empty();
  ModelConfig config;
  std::string tokenizer;
  LearnedTokenizer learned;
  run_on_all_or_fail(group, [&] {
    check_out(options);
    if (options.vocab_size != 0 && !learn)
      throw InputError("--vocab-size", "is only for a tokenizer that is learned", "Give --tokenizer-from TEXT as well.");
    const std::string source = is_regular_file(options.source) ? options.source : resolve_model(options.source, "SRC");
    config = load_model_config(source);
    tokenizer = tokenizer_folder(source);
    if (learn && group.rank() == 0) {
      temporary.make();
      learned = learn_tokenizer(options, wanted_vocabulary(options, config), temporary.path());
    }
  });
  if (learn) {
    group.broadcast(&learned, sizeof learned, 0);
    tokenizer = temporary.path();
    Json json = *config.raw;
    set_vocabulary(json, learned);
    config = parse_model_config(json, config.path);
  }

  ExportChoices choices;
  choices.config = config.raw;
  choices.dtype = options.dtype;
  std::vector<SmallFile> small_files;
  bool tokenizer_found = false;
  run_on_all_or_fail(group, [&] {
    if (group.rank() != 0) return;
    tokenizer_found = has_tokenizer(tokenizer);
    choices.source_folder = tokenizer;
    if (learn) choices.chat_template = learned_chat_template(tokenizer);
    small_files = make_small_files(choices);
  });
  if (group.rank() == 0 && !tokenizer_found) {
    log.warn(options.source + " has no tokenizer, so " + options.out + " has none either; --tokenizer-from TEXT learns one");
  }

  std::vector<NamedShape> tensors;
  for (const TensorSpec& tensor : all_tensors(config)) tensors.push_back({tensor.name, tensor.shape});
  FolderExport out(group, ExportPlan(tensors, options.dtype, options.max_shard_bytes), options.out);
  write_weights(config, options.seed, group, out);
  out.finish(small_files);
  return {parameter_count(config), config.vocab_size, out.plan().total_bytes(), tokenizer_found};
}

}  // namespace llmtrain
