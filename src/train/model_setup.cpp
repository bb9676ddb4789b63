// Opens, checks and exports models; see model_setup.h.
#include "train/model_setup.h"

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "train/trainable.h"

namespace llmtrain {
namespace {

std::vector<NamedShape> shapes_of(const ModelConfig& config) {
  std::vector<NamedShape> shapes;
  for (const TensorSpec& tensor : all_tensors(config)) shapes.push_back({tensor.name, tensor.shape});
  return shapes;
}

void check_tokenizer(const ModelSetup& model) {
  const int64_t tokens = model.tokenizer->vocab_size(), rows = model.config.vocab_size;
  if (tokens > rows)
    throw InputError(model.folder, "the tokenizer has " + std::to_string(tokens) + " tokens and the embedding only " + std::to_string(rows) + " rows",
                     "use the tokenizer that belongs to the model; resizing the embedding (resize_vocab) is not supported");
}

bool same_folder(const std::string& a, const std::string& b) {
  std::error_code error;
  return std::filesystem::equivalent(a, b, error) && !error;
}

}  // namespace

ModelSetup open_model(const std::string& name_or_path, const std::string& key) {
  ModelSetup model;
  model.folder = resolve_model(name_or_path, key);
  model.config = load_model_config(model.folder);
  model.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(model.folder));
  check_tokenizer(model);
  model.weights = std::make_unique<ModelFolder>(ModelFolder::open(model.folder));
  const std::vector<std::string> ignored = model.weights->check(shapes_of(model.config));
  model.notes = model.config.notes;
  if (!ignored.empty())
    model.notes.push_back(model.folder + ": " + std::to_string(ignored.size()) + " tensor(s) that the model does not use are ignored, the first is " + ignored.front());
  return model;
}

ModelSetup open_model_for_training(const Config& config) {
  ModelSetup model = open_model(config.model_name_or_path, config.origin("model_name_or_path") + ": model_name_or_path");
  refuse_dropout(model.config);
  if (config.do_train && same_folder(model.folder, config.output_dir))
    throw InputError(config.origin("output_dir") + ": output_dir", "is the folder of the model that the run starts from", "name another folder");
  const int64_t trained_context = model.config.max_position_embeddings;
  if (config.rope_scaling && apply_rope_scaling(model.config, *config.rope_scaling, config.cutoff_len)) {
    model.notes.push_back("rope_scaling: " + *config.rope_scaling + " stretches the context from " + std::to_string(trained_context) + " to " + std::to_string(config.cutoff_len) +
                          " tokens");
  } else if (config.cutoff_len > trained_context) {
    model.notes.push_back("cutoff_len " + std::to_string(config.cutoff_len) + " exceeds the model's max_position_embeddings " + std::to_string(trained_context) +
                          "; rope_scaling would stretch it");
  }
  if (config.neat_packing && model.config.any_sliding_window())
    model.notes.push_back("neat_packing: the model's sliding window holds within each sample, as in LLaMA-Factory with flash attention; without it, it drops the window");
  if (model.config.rope.kind == RopeKind::longrope || model.config.rope.kind == RopeKind::dynamic)
    model.notes.push_back(std::string(name_of(model.config.rope.kind)) + ": the rotary factors of a micro-batch follow from its longest row, padded to a multiple of 8, as in transformers");
  return model;
}

std::function<bool(const std::string&)> trained_tensors(const Config& config, const ModelConfig& model) {
  if (config.finetuning_type != "freeze") return nullptr;
  return frozen_training(model, {config.freeze_trainable_layers, config.freeze_trainable_modules, config.freeze_extra_modules});
}

DType export_dtype(const Config& config) {
  if (config.export_dtype) return parse_dtype(*config.export_dtype, config.origin("export_dtype") + ": export_dtype");
  return config.bf16 ? DType::bfloat16 : DType::float32;
}

std::vector<SmallFile> export_files(const Config& config, const ModelSetup& model, const Template& tmpl, const SpecialTokens& tokens) {
  ExportChoices choices;
  choices.source_folder = model.folder;
  choices.config = model.config.raw;
  choices.dtype = export_dtype(config);
  choices.eos_token_ids.assign(tokens.stop_ids.begin(), tokens.stop_ids.end());
  if (tokens.bos_id >= 0) choices.bos_token_id = tokens.bos_id;
  if (tokens.pad_id >= 0) choices.pad_token_id = tokens.pad_id;
  if (!tokens.eos.empty()) choices.eos_token = tokens.eos;
  if (!tokens.pad.empty()) choices.pad_token = tokens.pad;
  const std::string chat_template = exported_chat_template(tmpl, tokens, *model.tokenizer);
  if (!chat_template.empty()) choices.chat_template = chat_template;
  return make_small_files(choices);
}

void export_model(Engine& engine, RankGroup& group, const std::string& folder, DType dtype, const std::vector<SmallFile>& files) {
  FolderExport out(group, ExportPlan(shapes_of(engine.model()), dtype), folder);
  engine.manager().read_weights([&out](const ParameterSpec& parameter, int64_t begin, int64_t count, const float* values) {
    out.write_range(parameter.name, begin, count, values, DType::float32);
  });
  out.finish(files);
}

}  // namespace llmtrain
