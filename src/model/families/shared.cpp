// Pieces of configuration that several families share (family.h).
#include "model/families/family.h"

namespace llmtrain {
namespace {

constexpr int64_t kMaxWindow = int64_t{1} << 40;

// layer_types as written, checked; empty where the key is missing or null.
std::vector<std::string> read_layer_types(const ConfigReader& reader, const ModelConfig& config) {
  const std::vector<std::string> types = reader.texts("layer_types");
  if (types.empty()) return types;
  if (static_cast<int>(types.size()) != config.num_layers) {
    reader.refuse("layer_types", "names " + std::to_string(types.size()) + " layers, num_hidden_layers is " + std::to_string(config.num_layers));
  }
  for (const std::string& type : types) {
    if (type != "full_attention" && type != "sliding_attention") {
      reader.refuse("layer_types", "'" + type + "' is not supported", "supported: full_attention, sliding_attention");
    }
  }
  return types;
}

// transformers' class ignores layer_types and gives every layer `window`; where the two disagree, neither reading is safe.
void fill_window(const ConfigReader& reader, ModelConfig& config, int64_t window) {
  config.sliding_window.assign(static_cast<size_t>(config.num_layers), window);
  for (const std::string& type : read_layer_types(reader, config)) {
    if ((type == "sliding_attention") != (window > 0)) {
      reader.refuse("layer_types", "'" + type + "' disagrees with sliding_window: a " + config.model_type + " model has one window for all layers");
    }
  }
}

}  // namespace

std::vector<TensorSpec> separate_block_tensors(const ModelConfig& c, int layer) {
  const std::string block = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = block + "self_attn.", mlp = block + "mlp.";
  std::vector<TensorSpec> t;
  t.push_back({block + "input_layernorm.weight", {c.hidden_size}, TensorRole::input_norm});
  t.push_back({attention + "q_proj.weight", {c.q_rows(), c.hidden_size}, TensorRole::q});
  t.push_back({attention + "k_proj.weight", {c.kv_rows(), c.hidden_size}, TensorRole::k});
  t.push_back({attention + "v_proj.weight", {c.kv_rows(), c.hidden_size}, TensorRole::v});
  if (c.attention_bias) {
    t.push_back({attention + "q_proj.bias", {c.q_rows()}, TensorRole::q_bias});
    t.push_back({attention + "k_proj.bias", {c.kv_rows()}, TensorRole::k_bias});
    t.push_back({attention + "v_proj.bias", {c.kv_rows()}, TensorRole::v_bias});
  }
  if (c.qk_norm) {
    t.push_back({attention + "q_norm.weight", {c.head_dim}, TensorRole::q_norm});
    t.push_back({attention + "k_norm.weight", {c.head_dim}, TensorRole::k_norm});
  }
  t.push_back({attention + "o_proj.weight", {c.hidden_size, c.q_rows()}, TensorRole::o});
  if (c.attention_output_bias) t.push_back({attention + "o_proj.bias", {c.hidden_size}, TensorRole::o_bias});
  t.push_back({block + "post_attention_layernorm.weight", {c.hidden_size}, TensorRole::post_norm});
  t.push_back({mlp + "gate_proj.weight", {c.intermediate_size, c.hidden_size}, TensorRole::gate});
  t.push_back({mlp + "up_proj.weight", {c.intermediate_size, c.hidden_size}, TensorRole::up});
  if (c.mlp_bias) {
    t.push_back({mlp + "gate_proj.bias", {c.intermediate_size}, TensorRole::gate_bias});
    t.push_back({mlp + "up_proj.bias", {c.intermediate_size}, TensorRole::up_bias});
  }
  t.push_back({mlp + "down_proj.weight", {c.hidden_size, c.intermediate_size}, TensorRole::down});
  if (c.mlp_bias) t.push_back({mlp + "down_proj.bias", {c.hidden_size}, TensorRole::down_bias});
  return t;
}

void read_no_window(const ConfigReader& reader, ModelConfig& config) {
  if (reader.is_set("sliding_window")) {
    config.notes.push_back("sliding_window is ignored: " + config.model_type + " models have none in transformers");
  }
  fill_window(reader, config, 0);
}

void read_uniform_window(const ConfigReader& reader, ModelConfig& config, int64_t absent) {
  const std::optional<int64_t> by_default = absent > 0 ? std::optional<int64_t>(absent) : std::nullopt;
  fill_window(reader, config, reader.optional_integer("sliding_window", by_default, 1, kMaxWindow).value_or(0));
}

void read_window_by_layer(const ConfigReader& reader, ModelConfig& config) {
  const bool use = reader.boolean("use_sliding_window", false);
  const int64_t window = use ? reader.optional_integer("sliding_window", 4096, 1, kMaxWindow).value_or(0) : 0;
  const int64_t first_sliding = reader.integer("max_window_layers", 28, 0, int64_t{1} << 40);
  const std::vector<std::string> types = read_layer_types(reader, config);
  config.sliding_window.assign(static_cast<size_t>(config.num_layers), 0);
  for (int i = 0; i < config.num_layers; ++i) {
    const bool slides = types.empty() ? (window > 0 && i >= first_sliding) : types[static_cast<size_t>(i)] == "sliding_attention";
    if (slides && window == 0) {
      reader.refuse("layer_types", "layer " + std::to_string(i) + " is sliding_attention, but there is no window",
                    "set use_sliding_window to true and sliding_window to a length, or the layer to full_attention");
    }
    if (slides) config.sliding_window[static_cast<size_t>(i)] = window;
  }
}

void note_ignored_flag(const ConfigReader& reader, ModelConfig& config, const std::string& key) {
  if (reader.boolean(key, false)) config.notes.push_back(key + " is ignored: " + config.model_type + " models have no such option in transformers");
}

}  // namespace llmtrain
