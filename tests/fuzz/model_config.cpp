// A model's config.json, and what follows from it: the tensors, the rotary frequencies, rope_scaling of the YAML.
#include "core/error.h"
#include "core/json.h"
#include "model/model_config.h"
#include "model/rope.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {
namespace {

std::string model(const std::string& type, const std::string& more) {
  return json("{'architectures':['" + std::string(type == "phi3" ? "Phi3" : type == "llama" ? "Llama" : type == "qwen2" ? "Qwen2" : type == "qwen3" ? "Qwen3" : "Mistral") +
              "ForCausalLM'],'model_type':'" + type + "','vocab_size':64,'hidden_size':32,'intermediate_size':48,'num_hidden_layers':2,'num_attention_heads':4,"
              "'num_key_value_heads':2,'max_position_embeddings':128,'rms_norm_eps':1e-5,'hidden_act':'silu','tie_word_embeddings':false,'bos_token_id':1,"
              "'eos_token_id':2,'torch_dtype':'float32'" + (more.empty() ? "" : "," + more) + "}");
}

}  // namespace

const Target& target() {
  static const Target t{
      {model("llama", "'rope_theta':10000.0,'rope_scaling':null,'attention_bias':false,'mlp_bias':true"),
       model("llama", "'rope_scaling':{'rope_type':'llama3','factor':8.0,'low_freq_factor':1.0,'high_freq_factor':4.0,'original_max_position_embeddings':64}"),
       model("llama", "'head_dim':16,'rope_parameters':{'rope_type':'yarn','rope_theta':1e4,'factor':4.0,'beta_fast':32,'beta_slow':1,'mscale':1,"
                      "'mscale_all_dim':0.5,'original_max_position_embeddings':32,'truncate':false}"),
       model("llama", "'rope_scaling':{'type':'dynamic','factor':2.0},'eos_token_id':[2,3]"),
       model("mistral", "'sliding_window':16,'rope_scaling':{'type':'linear','factor':2}"),
       model("qwen2", "'use_sliding_window':true,'sliding_window':16,'max_window_layers':1,'layer_types':['full_attention','sliding_attention']"),
       model("qwen3", "'head_dim':8,'attention_bias':true,'dtype':'bfloat16'"),
       model("phi3", "'partial_rotary_factor':0.5,'pad_token_id':0,'original_max_position_embeddings':64,'rope_scaling':{'type':'longrope',"
                     "'short_factor':[1.0,1.5],'long_factor':[2.0,2.5]},'resid_pdrop':0.1,'embd_pdrop':0.0"),
       model("gpt2", "")},
      json_words({"\"rope_scaling\"", "\"rope_parameters\"", "\"rope_type\"", "\"type\"", "\"factor\"", "\"yarn\"", "\"llama3\"", "\"longrope\"", "\"dynamic\"",
                  "\"linear\"", "\"default\"", "\"head_dim\"", "\"partial_rotary_factor\"", "\"layer_types\"", "\"sliding_attention\"", "\"full_attention\"",
                  "\"num_hidden_layers\"", "\"max_position_embeddings\"", "\"original_max_position_embeddings\"", "\"attention_factor\"", "\"short_factor\"",
                  "\"vocab_size\"", "\"hidden_size\"", "\"mscale\"", "\"beta_fast\"", "\"rope_theta\"", "\"qwen2\"", "\"qwen3\"", "\"phi3\"", "\"mistral\"",
                  "\"quantization_config\"", "\"eos_token_id\""})};
  return t;
}

void take(std::string_view input) {
  const ModelConfig config = parse_model_config(parse_json(input, "config.json"), "config.json");
  block_tensors(config, 0);
  head_tensors(config);
  if (config.num_layers < 1000 && parameter_count(config) <= 0) finding("a model of no parameters was accepted");
  if (config.rotary_dim <= 4096) {
    compute_inv_freq(config);
    compute_inv_freq(config, 1 << 20);
  }
  rope_depends_on_length(config);
  for (const char* kind : {"linear", "dynamic", "yarn", "llama3"}) {
    ModelConfig scaled = config;
    try {
      if (apply_rope_scaling(scaled, kind, 1 << 16)) parse_model_config(*scaled.raw, "scaled config.json");
    } catch (const InputError&) {
    }
  }
  try {
    refuse_dropout(config);
  } catch (const InputError&) {
  }
}

}  // namespace llmtrain::fuzz
