// What a family of models declares about its configuration: defaults, options, and the names of a block's tensors.
//
// To add a family: write src/model/families/<model_type>.cpp with one function that returns a Family, name it in registry.cpp, and
// give it a case in tests/model/model_config_test.cpp. Nothing else names families.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/config_reader.h"
#include "model/model_config.h"

namespace llmtrain {

struct Family {
  std::string model_type;    // config.json's model_type
  std::string architecture;  // the class that transformers writes into "architectures"

  // Values of missing keys, from transformers' configuration class of this model_type.
  struct Defaults {
    int64_t vocab_size, hidden_size, intermediate_size;
    int num_layers, num_heads;
    int num_kv_heads;  // 0: as num_heads. An explicit null always means num_heads
    int64_t head_dim;  // 0: hidden_size / num_heads. An explicit null always means that
    int64_t max_position_embeddings;
    double rms_norm_eps;
    std::optional<int64_t> bos, eos, pad;
  } defaults;

  std::vector<RopeKind> rope_kinds;       // what its attention can rotate by
  bool partial_rotary = false;            // partial_rotary_factor below 1 is allowed
  // config.json's outer original_max_position_embeddings when missing (Phi-3's class has one); 0: max_position_embeddings.
  int64_t default_original_max_position_embeddings = 0;

  // Reads what is special: biases, norms, sliding windows. The sizes are already in `config`.
  void (*read_options)(const ConfigReader& reader, ModelConfig& config);
  std::vector<TensorSpec> (*block_tensors)(const ModelConfig& config, int layer);
};

// All families, and one by its name: InputError naming `where` for an unknown model_type.
const std::vector<Family>& all_families();
const Family& find_family(const std::string& model_type, const std::string& where);

// ---- pieces that families share

inline std::vector<RopeKind> every_rope_kind() {
  return {RopeKind::none, RopeKind::linear, RopeKind::dynamic, RopeKind::yarn, RopeKind::llama3, RopeKind::longrope};
}
// The block of Llama and its kin: separate q, k, v, gate and up; biases and q/k norms as `config` says.
std::vector<TensorSpec> separate_block_tensors(const ModelConfig& config, int layer);

// No layer slides; a layer_types that says otherwise is refused.
void read_no_window(const ConfigReader& reader, ModelConfig& config);
// One window for all layers (Mistral, Phi-3): `sliding_window`, `absent` where the key is missing (0 = none).
void read_uniform_window(const ConfigReader& reader, ModelConfig& config, int64_t absent);
// use_sliding_window, sliding_window, max_window_layers and layer_types (Qwen).
void read_window_by_layer(const ConfigReader& reader, ModelConfig& config);
// Notes that transformers' class has no such key, where it is set to true.
void note_ignored_flag(const ConfigReader& reader, ModelConfig& config, const std::string& key);

}  // namespace llmtrain
