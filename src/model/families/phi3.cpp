// Phi-3, 3.5, 4 and 4-mini (model_type "phi3"): fused qkv_proj and gate_up_proj, partial rotation, longrope.
// Defaults: https://huggingface.co/docs/transformers/model_doc/phi3#transformers.Phi3Config
#include "model/families/family.h"

namespace llmtrain {
namespace {

std::vector<TensorSpec> fused_block_tensors(const ModelConfig& c, int layer) {
  const std::string block = "model.layers." + std::to_string(layer) + ".";
  return {
      {block + "input_layernorm.weight", {c.hidden_size}, TensorRole::input_norm},
      {block + "self_attn.qkv_proj.weight", {c.q_rows() + 2 * c.kv_rows(), c.hidden_size}, TensorRole::qkv},
      {block + "self_attn.o_proj.weight", {c.hidden_size, c.q_rows()}, TensorRole::o},
      {block + "post_attention_layernorm.weight", {c.hidden_size}, TensorRole::post_norm},
      {block + "mlp.gate_up_proj.weight", {2 * c.intermediate_size, c.hidden_size}, TensorRole::gate_up},
      {block + "mlp.down_proj.weight", {c.hidden_size, c.intermediate_size}, TensorRole::down},
  };
}

}  // namespace

Family phi3_family() {
  Family f;
  f.model_type = "phi3";
  f.architecture = "Phi3ForCausalLM";
  f.defaults = {.vocab_size = 32064, .hidden_size = 3072, .intermediate_size = 8192, .num_layers = 32, .num_heads = 32, .num_kv_heads = 0,
                .head_dim = 0, .max_position_embeddings = 4096, .rms_norm_eps = 1e-5, .bos = 1, .eos = 32000, .pad = 32000};
  f.rope_kinds = {RopeKind::none, RopeKind::longrope};  // Phi3Config refuses the others
  f.partial_rotary = true;
  f.default_original_max_position_embeddings = 4096;
  f.read_options = [](const ConfigReader& reader, ModelConfig& config) {
    config.fused_qkv = config.fused_gate_up = true;
    note_ignored_flag(reader, config, "attention_bias");
    note_ignored_flag(reader, config, "mlp_bias");
    read_uniform_window(reader, config, 0);
  };
  f.block_tensors = fused_block_tensors;
  return f;
}

}  // namespace llmtrain
