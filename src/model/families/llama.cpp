// Llama 2, 3, 3.1, 3.2 and what was built on them (model_type "llama").
// Defaults: https://huggingface.co/docs/transformers/model_doc/llama#transformers.LlamaConfig
#include "model/families/family.h"

namespace llmtrain {

Family llama_family() {
  Family f;
  f.model_type = "llama";
  f.architecture = "LlamaForCausalLM";
  f.defaults = {.vocab_size = 32000, .hidden_size = 4096, .intermediate_size = 11008, .num_layers = 32, .num_heads = 32, .num_kv_heads = 0,
                .head_dim = 0, .max_position_embeddings = 2048, .rms_norm_eps = 1e-6, .bos = 1, .eos = 2, .pad = {}};
  f.rope_kinds = every_rope_kind();
  f.read_options = [](const ConfigReader& reader, ModelConfig& config) {
    if (config.hidden_size % config.num_heads != 0) {
      reader.refuse("hidden_size",
                    std::to_string(config.hidden_size) + " is not a multiple of num_attention_heads = " + std::to_string(config.num_heads));
    }
    config.attention_bias = config.attention_output_bias = reader.boolean("attention_bias", false);
    config.mlp_bias = reader.boolean("mlp_bias", false);
    read_no_window(reader, config);
  };
  f.block_tensors = separate_block_tensors;
  return f;
}

}  // namespace llmtrain
