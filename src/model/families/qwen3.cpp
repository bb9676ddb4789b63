// Qwen 3, dense (model_type "qwen3"): an RMSNorm on each head of q and k, a head size of its own, windows by layer.
// Defaults: https://huggingface.co/docs/transformers/model_doc/qwen3#transformers.Qwen3Config
#include "model/families/family.h"

namespace llmtrain {

Family qwen3_family() {
  Family f;
  f.model_type = "qwen3";
  f.architecture = "Qwen3ForCausalLM";
  f.defaults = {.vocab_size = 151936, .hidden_size = 4096, .intermediate_size = 22016, .num_layers = 32, .num_heads = 32, .num_kv_heads = 32,
                .head_dim = 128, .max_position_embeddings = 32768, .rms_norm_eps = 1e-6, .bos = {}, .eos = {}, .pad = {}};
  f.rope_kinds = every_rope_kind();
  f.read_options = [](const ConfigReader& reader, ModelConfig& config) {
    config.qk_norm = true;
    config.attention_bias = config.attention_output_bias = reader.boolean("attention_bias", false);
    note_ignored_flag(reader, config, "mlp_bias");
    read_window_by_layer(reader, config);
  };
  f.block_tensors = separate_block_tensors;
  return f;
}

}  // namespace llmtrain
