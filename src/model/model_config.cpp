#include "model/model_config.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "model/model_config_internal.h"

namespace llmtrain {
namespace {

constexpr int64_t kMaxVocab = int64_t{1} << 26;
constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxIntermediate = int64_t{1} << 24;
constexpr int64_t kMaxLayers = int64_t{1} << 14;
constexpr int64_t kMaxHeads = int64_t{1} << 14;
constexpr int64_t kMaxHeadDim = int64_t{1} << 14;
constexpr int64_t kMaxContext = int64_t{1} << 40;
constexpr int64_t kMaxId = (int64_t{1} << 31) - 1;
constexpr size_t kConfigLimitBytes = size_t{16} << 20;

// Keys that change the mathematics and that no family here has. `means` says what the model would be.
struct Refused {
  const char* key;
  const char* means;
};
constexpr Refused kRefusedWhenSet[] = {
    {"num_experts", "mixture of experts"},
    {"num_local_experts", "mixture of experts"},
    {"n_routed_experts", "mixture of experts"},
    {"moe_intermediate_size", "mixture of experts"},
    {"num_experts_per_tok", "mixture of experts"},
    {"vision_config", "multimodal models"},
    {"audio_config", "multimodal models"},
    {"speech_config", "multimodal models"},
    {"text_config", "multimodal models"},
    {"quantization_config", "quantised weights"},
    {"compression_config", "quantised weights"},
    {"kv_lora_rank", "latent attention"},
    {"q_lora_rank", "latent attention"},
    {"attn_logit_softcapping", "soft-capped attention"},
    {"final_logit_softcapping", "soft-capped logits"},
    {"query_pre_attn_scalar", "another attention scale"},
    {"attention_multiplier", "another attention scale"},
    {"embedding_multiplier", "scaled embeddings"},
    {"residual_multiplier", "scaled residuals"},
    {"logits_scaling", "scaled logits"},
    {"no_rope_layers", "layers without rotation"},
    {"no_rope_layer_interval", "layers without rotation"},
    {"attention_chunk_size", "chunked attention"},
    {"per_layer_config", "layers of different shapes"},
};
constexpr Refused kRefusedWhenTrue[] = {
    {"is_encoder_decoder", "encoder-decoder models"}, {"add_cross_attention", "cross-attention"},
    {"use_mrope", "multimodal rotary positions"},     {"lm_head_bias", "a bias on the head"},
    {"use_qk_norm", "norms on q and k in this family"}, {"qk_layernorm", "norms on q and k in this family"},
    {"use_bidirectional_attention", "attention that is not causal"}, {"parallel_attn", "parallel attention and MLP"},
    {"use_parallel_residual", "parallel attention and MLP"},
};

bool is_neutral(const Json& value) {  // what a multiplier or count says when it changes nothing
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) || (value.is_number() && value.get<double>() == 0) ||
         ((value.is_array() || value.is_object()) && value.empty());
}

void refuse_unsupported(const ConfigReader& reader) {
  for (const Refused& r : kRefusedWhenSet) {
    const Json* value = reader.find(r.key);
    if (!value || is_neutral(*value)) continue;
    const std::string key = r.key;
    const bool factor = key.find("multiplier") != std::string::npos || key == "logits_scaling";
    if (factor && value->is_number() && value->get<double>() == 1) continue;
    reader.refuse(key, std::string("not supported: ") + r.means);
  }
  for (const Refused& r : kRefusedWhenTrue) {
    if (reader.boolean(r.key, false)) reader.refuse(r.key, std::string("not supported: ") + r.means);
  }
  if (!reader.boolean("is_causal", true)) reader.refuse("is_causal", "not supported: attention that is not causal");
  if (reader.optional_integer("pretraining_tp", 1, 0, kMaxId).value_or(1) > 1) {
    reader.refuse("pretraining_tp", "above 1 is not supported", "it only split sums in an old implementation: set it to 1, the model is the same");
  }
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") reader.refuse("hidden_act", "'" + activation + "' is not supported", "supported: silu");
}

void read_sizes(const ConfigReader& reader, const Family::Defaults& d, ModelConfig& c) {
  c.vocab_size = reader.integer("vocab_size", d.vocab_size, 1, kMaxVocab);
  c.hidden_size = reader.integer("hidden_size", d.hidden_size, 1, kMaxHidden);
  c.intermediate_size = reader.integer("intermediate_size", d.intermediate_size, 1, kMaxIntermediate);
  c.num_layers = static_cast<int>(reader.integer("num_hidden_layers", d.num_layers, 1, kMaxLayers));
  c.num_heads = static_cast<int>(reader.integer("num_attention_heads", d.num_heads, 1, kMaxHeads));
  c.max_position_embeddings = reader.integer("max_position_embeddings", d.max_position_embeddings, 1, kMaxContext);
  c.rms_norm_eps = static_cast<float>(reader.number("rms_norm_eps", d.rms_norm_eps, 0, 1));

  const std::optional<int64_t> kv =
      reader.optional_integer("num_key_value_heads", d.num_kv_heads > 0 ? std::optional<int64_t>(d.num_kv_heads) : std::nullopt, 1, kMaxHeads);
  c.num_kv_heads = static_cast<int>(kv.value_or(c.num_heads));
  if (c.num_heads % c.num_kv_heads != 0) {
    reader.refuse("num_key_value_heads", std::to_string(c.num_kv_heads) + " does not divide num_attention_heads = " + std::to_string(c.num_heads));
  }
  const std::optional<int64_t> head =
      reader.optional_integer("head_dim", d.head_dim > 0 ? std::optional<int64_t>(d.head_dim) : std::nullopt, 2, kMaxHeadDim);
  if (!head && c.hidden_size % c.num_heads != 0) {
    reader.refuse("hidden_size", std::to_string(c.hidden_size) + " is not a multiple of num_attention_heads = " + std::to_string(c.num_heads) +
                                     " and head_dim is not given");
  }
  c.head_dim = head.value_or(c.hidden_size / c.num_heads);
  if (c.head_dim % 2 != 0 || c.head_dim > kMaxHeadDim)
    reader.refuse("head_dim", std::to_string(c.head_dim) + " is not supported: it must be even and at most " + std::to_string(kMaxHeadDim));
}

void read_ids(const ConfigReader& reader, const Family::Defaults& d, ModelConfig& c) {
  const auto one = [&](const char* key, std::optional<int64_t> absent) -> std::optional<int64_t> {
    const std::optional<int64_t> id = reader.optional_integer(key, absent, -1, kMaxId);
    return id && *id == -1 ? std::nullopt : id;  // -1 stands for "none" in old Llama folders
  };
  c.bos_token_id = one("bos_token_id", d.bos);
  c.pad_token_id = one("pad_token_id", d.pad);
  const Json* eos = reader.find("eos_token_id");
  if (eos && eos->is_array()) {
    for (const double id : reader.numbers("eos_token_id", 0, static_cast<double>(kMaxId))) {
      if (id != static_cast<double>(static_cast<int64_t>(id))) reader.refuse("eos_token_id", "a list of whole numbers is expected");
      c.eos_token_ids.push_back(static_cast<int64_t>(id));
    }
  } else if (const auto id = one("eos_token_id", d.eos)) {
    c.eos_token_ids.push_back(*id);
  }
}

void read_dtype(const ConfigReader& reader, ModelConfig& c) {
  const char* key = reader.is_set("dtype") ? "dtype" : "torch_dtype";
  if (!reader.is_set(key)) return;
  std::string name = reader.text(key, "");
  if (name == "auto") return;
  if (name.rfind("torch.", 0) == 0) name = name.substr(6);
  c.dtype = parse_dtype(name, reader.where() + ": " + key);
}

void check_architectures(const ConfigReader& reader, const Family& family, ModelConfig& c) {
  c.architectures = reader.texts("architectures");
  for (const std::string& name : c.architectures) {
    if (name != family.architecture)
      reader.refuse("architectures", "'" + name + "' is not supported", "supported for model_type " + family.model_type + ": " + family.architecture);
  }
}

// The sum in 128 bits: every factor is bounded, their product over all layers is not.
void check_total_size(const ConfigReader& reader, const ModelConfig& c) {
  __int128 block = 0;
  for (const TensorSpec& t : block_tensors(c, 0)) block += t.shape.elements();
  const __int128 total = block * c.num_layers + static_cast<__int128>(c.vocab_size) * c.hidden_size * 2;
  if (total > (static_cast<__int128>(1) << 50))
    reader.refuse("num_hidden_layers", "the model would have more than 2^50 parameters: the sizes are not sensible");
}

}  // namespace

bool ModelConfig::any_sliding_window() const {
  return std::any_of(sliding_window.begin(), sliding_window.end(), [](int64_t w) { return w > 0; });
}

ModelConfig parse_model_config(const Json& json, const std::string& where) {
  if (!json.is_object()) throw InputError(where, "a JSON object is expected");
  const ConfigReader reader(json, where);
  if (!reader.is_set("model_type")) throw InputError(where, "model_type is missing: this is no config.json of a Hugging Face model");
  ModelConfig c;
  c.path = where;
  c.model_type = reader.text("model_type", "");
  const Family& family = find_family(c.model_type, where);
  check_architectures(reader, family, c);
  refuse_unsupported(reader);
  read_sizes(reader, family.defaults, c);
  read_ids(reader, family.defaults, c);
  read_dtype(reader, c);
  c.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
  c.initializer_range = static_cast<float>(reader.number("initializer_range", 0.02, 0, 1));
  c.attention_dropout = reader.optional_number("attention_dropout", 0, 1).value_or(0);
  c.resid_dropout = reader.optional_number("resid_pdrop", 0, 1).value_or(0);
  c.embd_dropout = reader.optional_number("embd_pdrop", 0, 1).value_or(0);
  read_rope(reader, family, c);
  family.read_options(reader, c);
  check_total_size(reader, c);
  c.raw = std::make_shared<const Json>(json);
  return c;
}

ModelConfig load_model_config(const std::string& folder_or_file) {
  std::string file = folder_or_file;
  if (is_directory(file)) {
    file += "/config.json";
    if (!is_regular_file(file)) throw InputError(folder_or_file, "the folder has no config.json", "name the folder of a Hugging Face model");
  }
  return parse_model_config(parse_json_file(file, kConfigLimitBytes), file);
}

void refuse_dropout(const ModelConfig& c) {
  const std::pair<const char*, double> all[] = {
      {"attention_dropout", c.attention_dropout}, {"resid_pdrop", c.resid_dropout}, {"embd_pdrop", c.embd_dropout}};
  for (const auto& [key, value] : all) {
    if (value > 0)
      throw InputError(c.path, std::string(key) + ": training with dropout is not supported", std::string("set ") + key + " to 0.0 in config.json");
  }
}

const char* name_of(TensorRole role) {
  static constexpr const char* kNames[] = {"embed",   "input_norm", "post_norm", "q",      "k",         "v",          "qkv",    "q_bias",
                                           "k_bias",  "v_bias",     "q_norm",    "k_norm", "o",         "o_bias",     "gate",   "up",
                                           "gate_up", "gate_bias",  "up_bias",   "down",   "down_bias", "final_norm", "lm_head"};
  return kNames[static_cast<int>(role)];
}

bool is_norm_or_bias(TensorRole role) {
  switch (role) {
    case TensorRole::input_norm:
    case TensorRole::post_norm:
    case TensorRole::q_norm:
    case TensorRole::k_norm:
    case TensorRole::final_norm:
    case TensorRole::q_bias:
    case TensorRole::k_bias:
    case TensorRole::v_bias:
    case TensorRole::o_bias:
    case TensorRole::gate_bias:
    case TensorRole::up_bias:
    case TensorRole::down_bias: return true;
    default: return false;
  }
}

std::vector<TensorSpec> block_tensors(const ModelConfig& config, int layer) {
  return find_family(config.model_type, config.path).block_tensors(config, layer);
}

std::vector<TensorSpec> embedding_tensors(const ModelConfig& c) {
  return {{"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, TensorRole::embed}};
}

std::vector<TensorSpec> head_tensors(const ModelConfig& c) {
  std::vector<TensorSpec> t{{"model.norm.weight", {c.hidden_size}, TensorRole::final_norm}};
  if (!c.tie_word_embeddings) t.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}, TensorRole::lm_head});
  return t;
}

std::vector<TensorSpec> all_tensors(const ModelConfig& config) {
  std::vector<TensorSpec> all = embedding_tensors(config);
  const auto add = [&](std::vector<TensorSpec> more) {
    all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  for (int layer = 0; layer < config.num_layers; ++layer) add(block_tensors(config, layer));
  add(head_tensors(config));
  return all;
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t block = 0, rest = 0;
  for (const TensorSpec& t : block_tensors(config, 0)) block += t.shape.elements();
  for (const TensorSpec& t : embedding_tensors(config)) rest += t.shape.elements();
  for (const TensorSpec& t : head_tensors(config)) rest += t.shape.elements();
  return block * config.num_layers + rest;
}

}  // namespace llmtrain
