// The model that a run starts from: its folder, configuration, tokenizer and weights, checked against each other before anything large is touched.
// Thread rules: plain values; every rank makes its own (headers only).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/log.h"
#include "data/prepare.h"
#include "data/tokenizer.h"
#include "hf/export.h"
#include "hf/model_folder.h"
#include "model/model_config.h"
#include "train/engine.h"

namespace llmtrain {

struct ModelSetup {
  std::string folder;
  ModelConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ModelFolder> weights;
  std::vector<std::string> notes;  // for the log
};

// InputError where the folder, its config.json, tokenizer or weights are missing, damaged or do not fit together.
ModelSetup open_model(const std::string& name_or_path, const std::string& key);
// As open_model, and what only training minds: dropout, rope_scaling of the YAML, an output_dir that is the model's own folder.
ModelSetup open_model_for_training(const Config& config);

// Which tensors `config` trains; null: all.
std::function<bool(const std::string&)> trained_tensors(const Config& config, const ModelConfig& model);

// Element type of the exported model: export_dtype, else bfloat16 under bf16, else float32.
DType export_dtype(const Config& config);
// The small files of the exported folder: config.json, generation_config.json, tokenizer, chat template. Reads the source's.
std::vector<SmallFile> export_files(const Config& config, const ModelSetup& model, const Template& tmpl, const SpecialTokens& tokens);
// Writes the engine's weights as a Hugging Face folder, all ranks together. `files` counts on rank 0.
void export_model(Engine& engine, RankGroup& group, const std::string& folder, DType dtype, const std::vector<SmallFile>& files);

}  // namespace llmtrain
