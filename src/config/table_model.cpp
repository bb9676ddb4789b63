// Keys of LLaMA-Factory's ModelArguments.
#include "config/table.h"

namespace llmtrain {
namespace {

const char* const kGeneration = "settings of generation belong to llmtrain generate";
const char* const kVision = "images, video and audio are not supported: llmtrain trains text models; remove the key";
const char* const kVocabulary = "changing the vocabulary is not supported; prepare the folder with the wanted tokenizer first";
const char* const kExport = "exporting is a command of its own: llmtrain convert SRC OUT";
const char* const kTransformers = "is a code path of LLaMA-Factory that llmtrain does not have; remove the key";

void add_vision(std::vector<Key>& t) {
  t.push_back(key("image_max_pixels", ValueKind::integer, "589824", "pixels of an image").never(kVision));
  t.push_back(key("image_min_pixels", ValueKind::integer, "1024", "pixels of an image").never(kVision));
  t.push_back(key("image_resolution", ValueKind::integer, "null", "pixels of an image, older name").never(kVision));
  t.push_back(key("image_do_pan_and_scan", ValueKind::boolean, "false", "crops of an image").never(kVision));
  t.push_back(key("crop_to_patches", ValueKind::boolean, "false", "patches of an image").never(kVision));
  t.push_back(key("video_max_pixels", ValueKind::integer, "65536", "pixels of a video").never(kVision));
  t.push_back(key("video_min_pixels", ValueKind::integer, "256", "pixels of a video").never(kVision));
  t.push_back(key("video_resolution", ValueKind::integer, "null", "pixels of a video, older name").never(kVision));
  t.push_back(key("video_fps", ValueKind::number, "2.0", "frames per second").never(kVision));
  t.push_back(key("video_maxlen", ValueKind::integer, "128", "frames of a video").never(kVision));
  t.push_back(key("use_audio_in_video", ValueKind::boolean, "false", "sound of a video").never(kVision));
  t.push_back(key("audio_sampling_rate", ValueKind::integer, "16000", "samples per second").never(kVision));
}

void add_quantization(std::vector<Key>& t) {
  const char* const quantized = "quantised training (QLoRA) is not supported in this version; remove the key";
  t.push_back(key("quantization_bit", ValueKind::integer, "null", "bits of the frozen weights").not_yet(quantized));
  t.push_back(key("quantization_method", ValueKind::text, "bnb", "how weights are quantised")
                  .one_of({"bnb", "bitsandbytes", "gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8"})
                  .without_effect("it matters only beside quantization_bit"));
  t.push_back(key("quantization_type", ValueKind::text, "nf4", "4-bit code")
                  .one_of({"fp4", "nf4"})
                  .without_effect("it matters only beside quantization_bit"));
  t.push_back(key("double_quantization", ValueKind::boolean, "true", "quantised scales").without_effect("it matters only beside quantization_bit"));
  t.push_back(key("quantization_device_map", ValueKind::text, "null", "device map").never(kTransformers));
  t.push_back(key("fp8", ValueKind::boolean, "false", "8-bit matrix products")
                  .not_yet("8-bit floating point is not supported in this version; use bf16: true"));
  t.push_back(key("fp8_backend", ValueKind::text, "auto", "8-bit library").without_effect("it matters only beside fp8"));
  t.push_back(key("fp8_enable_fsdp_float8_all_gather", ValueKind::boolean, "false", "8-bit gathers")
                  .not_yet("8-bit floating point is not supported in this version"));
}

void add_export(std::vector<Key>& t) {
  t.push_back(key("export_dir", ValueKind::text, "null", "folder of the export").never(kExport));
  t.push_back(key("export_size", ValueKind::integer, "5", "GB of a file").never(kExport));
  t.push_back(key("export_device", ValueKind::text, "cpu", "where the export runs").one_of({"cpu", "auto"}).never(kExport));
  t.push_back(key("export_quantization_bit", ValueKind::integer, "null", "bits of the export").never("exporting quantised models is not supported"));
  t.push_back(
      key("export_quantization_dataset", ValueKind::text, "null", "data for quantising").never("exporting quantised models is not supported"));
  t.push_back(
      key("export_quantization_nsamples", ValueKind::integer, "128", "rows for quantising").never("exporting quantised models is not supported"));
  t.push_back(
      key("export_quantization_maxlen", ValueKind::integer, "1024", "tokens of such a row").never("exporting quantised models is not supported"));
  t.push_back(key("export_legacy_format", ValueKind::boolean, "false", "pickle files").never("pickle files are never written: safetensors only"));
  t.push_back(key("export_hub_model_id", ValueKind::text, "null", "name on the hub").never("llmtrain talks to no hub; upload the folder yourself"));
}

void add_inference(std::vector<Key>& t) {
  t.push_back(key("infer_backend", ValueKind::text, "huggingface", "engine of generation")
                  .one_of({"huggingface", "vllm", "sglang", "ktransformers"})
                  .without_effect(kGeneration));
  t.push_back(key("infer_dtype", ValueKind::text, "auto", "element type of generation")
                  .one_of({"auto", "float16", "bfloat16", "float32"})
                  .without_effect(kGeneration));
  t.push_back(key("use_kv_cache", ValueKind::boolean, "true", "cache in generation").without_effect(kGeneration));
  t.push_back(key("use_cache", ValueKind::boolean, "true", "cache in generation").without_effect(kGeneration));
  for (const char* name : {"vllm_maxlen", "vllm_max_lora_rank", "sglang_maxlen", "sglang_tp_size"})
    t.push_back(key(name, ValueKind::integer, "null", "setting of another engine").without_effect(kGeneration));
  for (const char* name : {"vllm_gpu_util", "sglang_mem_fraction"})
    t.push_back(key(name, ValueKind::number, "null", "setting of another engine").without_effect(kGeneration));
  t.push_back(key("vllm_enforce_eager", ValueKind::boolean, "false", "setting of another engine").without_effect(kGeneration));
  t.push_back(key("sglang_lora_backend", ValueKind::text, "triton", "setting of another engine").without_effect(kGeneration));
  for (const char* name : {"vllm_config", "sglang_config"})
    t.push_back(key(name, ValueKind::map, "null", "setting of another engine").without_effect(kGeneration));
  const char* const kt = "KTransformers is not supported; remove the key";
  t.push_back(key("use_kt", ValueKind::boolean, "false", "KTransformers").never(kt));
  t.push_back(key("kt_use_lora_experts", ValueKind::boolean, "null", "KTransformers").never(kt));
  for (const char* name : {"kt_weight_path", "kt_expert_checkpoint_path", "kt_optimize_rule", "kt_mode"})
    t.push_back(key(name, ValueKind::text, "null", "KTransformers").never(kt));
  for (const char* name : {"kt_lora_expert_num", "kt_lora_expert_intermediate_size", "kt_maxlen", "cpu_infer", "chunk_size"})
    t.push_back(key(name, ValueKind::integer, "null", "KTransformers").never(kt));
  t.push_back(key("kt_use_cuda_graph", ValueKind::boolean, "null", "KTransformers").never(kt));
}

}  // namespace

void add_model_keys(std::vector<Key>& t) {
  t.push_back(key("model_name_or_path", &Config::model_name_or_path, "null",
                  "the model: a Hugging Face folder (config.json, safetensors, tokenizer files), or a name such as Qwen/Qwen3-4B that lies in "
                  "Hugging Face's cache"));
  t.push_back(key("adapter_name_or_path", ValueKind::list, "null", "adapter folders").not_yet("adapters (LoRA) are not supported in this version"));
  t.push_back(key("adapter_folder", ValueKind::text, "null", "folder of adapters").not_yet("adapters (LoRA) are not supported in this version"));
  t.push_back(key("rope_scaling", &Config::rope_scaling, "null",
                  "stretches the trained context to cutoff_len: factor = ceil(cutoff_len / old maximum); no change where cutoff_len fits")
                  .one_of({"linear", "dynamic", "yarn", "llama3"}));
  t.push_back(key("disable_gradient_checkpointing", &Config::disable_gradient_checkpointing, "false",
                  "keep all activations instead of computing them again in the backward pass; see recompute"));
  t.push_back(key("trust_remote_code", ValueKind::boolean, "false", "run code of the model folder")
                  .without_effect("llmtrain never runs code from a model folder"));
  t.push_back(key("flash_attn", ValueKind::text, "auto", "attention of PyTorch")
                  .one_of({"auto", "disabled", "sdpa", "fa2", "fa3"})
                  .without_effect("attention is llmtrain's own, with variable lengths and without padding, always"));
  t.push_back(
      key("enable_liger_kernel", ValueKind::boolean, "false", "fused operations").without_effect("operations are fused always, the loss included"));
  t.push_back(key("use_v1_kernels", ValueKind::boolean, "false", "other operations").without_effect("operations are llmtrain's own"));
  t.push_back(key("use_fast_tokenizer", ValueKind::boolean, "true", "tokenizer in Rust").without_effect("the tokenizer is llmtrain's own"));
  t.push_back(key("low_cpu_mem_usage", ValueKind::boolean, "true", "load sparingly")
                  .without_effect("each rank reads only its own part of the weights, always"));
  t.push_back(key("offload_folder", ValueKind::text, "offload", "folder for weights on disk").without_effect("nothing is moved to a folder"));
  t.push_back(key("print_param_status", ValueKind::boolean, "false", "list the parameters")
                  .without_effect("llmtrain config and the log say what is trained"));
  t.push_back(key("use_reentrant_gc", ValueKind::boolean, "true", "kind of checkpointing in PyTorch")
                  .without_effect("recomputing is llmtrain's own; see recompute"));
  t.push_back(key("upcast_layernorm", ValueKind::boolean, "false", "norms in float32").without_effect("norms are computed in float32 always"));
  t.push_back(key("upcast_lmhead_output", ValueKind::boolean, "false", "logits in float32").without_effect("the loss is computed in float32 always"));
  t.push_back(key("cache_dir", ValueKind::text, "null", "cache of downloads")
                  .never("llmtrain downloads nothing; set HF_HUB_CACHE to the cache that holds the model, or name its folder"));
  t.push_back(key("model_revision", ValueKind::text, "main", "revision on the hub")
                  .never("name the folder of that revision (…/snapshots/<commit>) in model_name_or_path"));
  t.push_back(key("resize_vocab", ValueKind::boolean, "false", "fit the embedding to the tokenizer")
                  .without_effect("the embedding is not resized; a model with fewer rows than its tokenizer has tokens is refused"));
  t.push_back(key("split_special_tokens", ValueKind::boolean, "false", "special tokens in texts are plain text")
                  .never("it would change the tokens; not supported"));
  for (const char* name : {"add_tokens", "add_special_tokens", "new_special_tokens", "new_special_tokens_config"})
    t.push_back(key(name, ValueKind::list, "null", "further tokens").never(kVocabulary));
  t.push_back(key("init_special_tokens", ValueKind::text, "noise_init", "weights of further tokens").never(kVocabulary));
  t.push_back(
      key("train_from_scratch", ValueKind::boolean, "false", "random weights").never("make a folder with random weights first: llmtrain init"));
  t.push_back(key("shift_attn", ValueKind::boolean, "false", "shifted sparse attention")
                  .never("shifted sparse attention (LongLoRA) is not supported; remove the key"));
  t.push_back(key("mixture_of_depths", ValueKind::text, "null", "mixture of depths").never("mixture of depths is not supported; remove the key"));
  t.push_back(key("moe_aux_loss_coef", ValueKind::number, "null", "loss of a router").never("mixtures of experts are not supported; remove the key"));
  t.push_back(key("use_unsloth", ValueKind::boolean, "false", "Unsloth").never("Unsloth is not supported; remove the key"));
  t.push_back(key("use_unsloth_gc", ValueKind::boolean, "false", "Unsloth").never("Unsloth is not supported; remove the key"));
  for (const char* name : {"hf_hub_token", "ms_hub_token", "om_hub_token"})
    t.push_back(key(name, ValueKind::text, "null", "secret of a hub")
                    .never("secrets do not belong into a configuration, and llmtrain talks to no hub; remove the key")
                    .hidden());
  add_quantization(t);
  add_vision(t);
  add_export(t);
  add_inference(t);
}

}  // namespace llmtrain
