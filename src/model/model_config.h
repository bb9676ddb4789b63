// ModelConfig: what config.json says about a model, checked and completed by its family's defaults, in one form whichever style of
// config.json it was read from. Everything about a model that the engine may rely on is here; what the engine cannot do is refused
// here, by name, before a weight is read.
//
// The meaning of every key and its default when absent are those of Hugging Face transformers' configuration classes
// (https://huggingface.co/docs/transformers/main_classes/configuration and each model's page). Two styles are read:
//   new    dtype, rope_parameters {rope_type, rope_theta, …}
//   older  torch_dtype, rope_theta, rope_scaling {type or rope_type, …}
// A family (llama, mistral, qwen2, qwen3, phi3) is one file in src/model/families; families/family.h says how to add one.
//
// Errors: InputError naming the file and the key, for a model_type, option or number that is not supported or makes no sense.
// Thread rules: plain values; a loaded ModelConfig is read-only and may be shared.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace llmtrain {

// How rotary frequencies are scaled beyond the trained context. rope.h turns this into frequencies.
//   none      inv_freq[i] = theta^(-2i / rotary_dim)                                         (Su et al. 2021, RoFormer)
//   linear    divided by factor                                                              (Chen et al. 2023)
//   dynamic   theta grows with the length once it exceeds max_position_embeddings            (NTK-aware)
//   yarn      interpolated by parts, with attention_factor                                   (Peng et al. 2023)
//   llama3    low frequencies divided, a smooth band between                                 (Llama 3.1)
//   longrope  per-frequency factors, a short and a long list, with attention_factor          (Ding et al. 2024; Phi-3)
enum class RopeKind : uint8_t { none, linear, dynamic, yarn, llama3, longrope };
const char* name_of(RopeKind kind);  // as config.json writes it; none is "default"

struct RopeParameters {
  RopeKind kind = RopeKind::none;
  double theta = 10000.0;
  double factor = 1.0;  // linear, dynamic, yarn, llama3; longrope: of attention_factor's rule (0 = max / original)
  double low_freq_factor = 1.0, high_freq_factor = 4.0;   // llama3
  int64_t original_max_position_embeddings = 0;           // yarn, llama3, longrope: the trained context
  std::optional<double> attention_factor;                 // yarn, longrope: given; else the rule of rope.h
  double beta_fast = 32.0, beta_slow = 1.0;               // yarn
  std::optional<double> mscale, mscale_all_dim;           // yarn
  bool truncate = true;                                   // yarn: round the band's ends to whole dimensions
  std::vector<double> short_factor, long_factor;          // longrope: rotary_dim / 2 numbers each
  double partial_rotary_factor = 1.0;                     // rotary_dim = int(head_dim * this)
  bool operator==(const RopeParameters&) const = default;
};

struct ModelConfig {
  std::string model_type;                   // "llama", "mistral", "qwen2", "qwen3", "phi3"
  std::vector<std::string> architectures;   // as written; may be empty
  std::string path;                         // the config.json it came from, for messages

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;        // divides num_heads
  int64_t head_dim = 0;        // may differ from hidden_size / num_heads
  int64_t rotary_dim = 0;      // even, <= head_dim: the first rotary_dim elements of each head are rotated
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 0;
  bool tie_word_embeddings = false;

  bool attention_bias = false;         // q, k and v have biases
  bool attention_output_bias = false;  // o has a bias
  bool mlp_bias = false;               // gate, up and down have biases
  bool qk_norm = false;                // RMSNorm over head_dim of each head of q and k, before the rotation
  bool fused_qkv = false;              // the folder holds one self_attn.qkv_proj: rows q, k, v
  bool fused_gate_up = false;          // the folder holds one mlp.gate_up_proj: rows gate, up

  // Per layer: 0 = full causal attention; W = a query at position p sees keys p-W+1 … p (itself counts).
  std::vector<int64_t> sliding_window;  // num_layers entries
  RopeParameters rope;

  float initializer_range = 0.02f;
  double attention_dropout = 0, resid_dropout = 0, embd_dropout = 0;  // see refuse_dropout()
  std::optional<int64_t> bos_token_id, pad_token_id;
  std::vector<int64_t> eos_token_ids;   // none, one or several
  std::optional<DType> dtype;           // what the weights were saved as, where the file says so

  std::vector<std::string> notes;                          // what was ignored as transformers ignores it: one line each, for the log
  std::shared_ptr<const nlohmann::ordered_json> raw;       // config.json as read, for the export

  int64_t q_rows() const { return num_heads * head_dim; }
  int64_t kv_rows() const { return num_kv_heads * head_dim; }
  bool any_sliding_window() const;
};

// From a model folder (its config.json), a config.json, or parsed JSON (`where` is named in errors).
ModelConfig load_model_config(const std::string& folder_or_file);
ModelConfig parse_model_config(const nlohmann::ordered_json& json, const std::string& where);

// Training with dropout is not supported: InputError naming the key where config.json asks for it. (Evaluation and generation
// have no dropout in any case.)
void refuse_dropout(const ModelConfig& config);

// The YAML's rope_scaling: kind "linear", "dynamic", "yarn" or "llama3". The trained context is stretched to cutoff_len by
// factor = ceil(cutoff_len / max_position_embeddings); nothing changes (returns false) where cutoff_len already fits.
// max_position_embeddings becomes old * factor, except for dynamic, which needs the trained length itself. `config.raw` is updated in
// the style that it has, so that the export carries the scaling.
bool apply_rope_scaling(ModelConfig& config, const std::string& kind, int64_t cutoff_len);

// What a tensor is in the model's mathematics.
enum class TensorRole : uint8_t {
  embed,                       // [vocab_size, hidden_size]
  input_norm, post_norm,       // [hidden_size]
  q, k, v, qkv,                // [rows, hidden_size]; qkv stacks q, k, v
  q_bias, k_bias, v_bias,      // [rows]
  q_norm, k_norm,              // [head_dim]
  o, o_bias,                   // [hidden_size, q_rows], [hidden_size]
  gate, up, gate_up,           // [intermediate_size, hidden_size]; gate_up stacks gate, up
  gate_bias, up_bias,          // [intermediate_size]
  down, down_bias,             // [hidden_size, intermediate_size], [hidden_size]
  final_norm,                  // [hidden_size]
  lm_head                      // [vocab_size, hidden_size]; absent where tied
};
const char* name_of(TensorRole role);

struct TensorSpec {
  std::string name;  // Hugging Face's name, as in checkpoints, logs and errors
  Shape shape;
  TensorRole role;
};

// The canonical order of a unit's parameters, which never depends on ranks. In a block:
//   input_norm, {q, k, v | qkv}, {q_bias, k_bias, v_bias}, {q_norm, k_norm}, o, {o_bias}, post_norm,
//   {gate, up | gate_up}, {gate_bias, up_bias}, down, {down_bias}
// so that q, k, v always form one [q_rows + 2 kv_rows, hidden_size] matrix (and their biases one vector), and gate, up one
// [2 intermediate_size, hidden_size] matrix, whether the folder holds them fused or not.
std::vector<TensorSpec> block_tensors(const ModelConfig& config, int layer);
std::vector<TensorSpec> embedding_tensors(const ModelConfig& config);  // embed
std::vector<TensorSpec> head_tensors(const ModelConfig& config);       // final_norm, and lm_head unless tied
// All of them: embedding, blocks in order, head.
std::vector<TensorSpec> all_tensors(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);
// Biases and norms get no weight decay (as transformers' Trainer).
bool is_norm_or_bias(TensorRole role);

}  // namespace llmtrain
