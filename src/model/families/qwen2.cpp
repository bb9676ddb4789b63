// Qwen 1.5, 2 and 2.5 (model_type "qwen2"): biases on q, k and v, always; windows by layer.
// Defaults: https://huggingface.co/docs/transformers/model_doc/qwen2#transformers.Qwen2Config
#include "model/families/family.h"

namespace llmtrain {

Family qwen2_family() {
  Family f;
  f.model_type = "qwen2";
  f.architecture = "Qwen2ForCausalLM";
  f.defaults = {.vocab_size = 151936, .hidden_size = 4096, .intermediate_size = 22016, .num_layers = 32, .num_heads = 32, .num_kv_heads = 32,
                .head_dim = 0, .max_position_embeddings = 32768, .rms_norm_eps = 1e-6, .bos = {}, .eos = {}, .pad = {}};
  f.rope_kinds = every_rope_kind();
  f.read_options = [](const ConfigReader& reader, ModelConfig& config) {
    config.attention_bias = true;
    if (!reader.boolean("attention_bias", true))
      config.notes.push_back("attention_bias: false is ignored: qwen2 models always have q, k and v biases");
    note_ignored_flag(reader, config, "mlp_bias");
    read_window_by_layer(reader, config);
  };
  f.block_tensors = separate_block_tensors;
  return f;
}

}  // namespace llmtrain
