// Mistral 7B and its kin (model_type "mistral"): Llama with one sliding window for all layers and a head size of its own.
// Defaults: https://huggingface.co/docs/transformers/model_doc/mistral#transformers.MistralConfig
#include "model/families/family.h"

namespace llmtrain {

Family mistral_family() {
  Family f;
  f.model_type = "mistral";
  f.architecture = "MistralForCausalLM";
  f.defaults = {.vocab_size = 32000, .hidden_size = 4096, .intermediate_size = 14336, .num_layers = 32, .num_heads = 32, .num_kv_heads = 8,
                .head_dim = 0, .max_position_embeddings = 131072, .rms_norm_eps = 1e-6, .bos = 1, .eos = 2, .pad = {}};
  f.rope_kinds = every_rope_kind();
  f.read_options = [](const ConfigReader& reader, ModelConfig& config) {
    note_ignored_flag(reader, config, "attention_bias");
    note_ignored_flag(reader, config, "mlp_bias");
    read_uniform_window(reader, config, 4096);
  };
  f.block_tensors = separate_block_tensors;
  return f;
}

}  // namespace llmtrain
