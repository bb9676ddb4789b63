// Keys of LLaMA-Factory's FinetuningArguments.
#include "config/table.h"

namespace llmtrain {
namespace {

void add_adapters(std::vector<Key>& t) {
  const char* const lora = "it matters only for finetuning_type: lora";
  t.push_back(key("lora_rank", ValueKind::integer, "8", "rank of the adapters").at_least(1).without_effect(lora));
  t.push_back(key("lora_alpha", ValueKind::integer, "null", "scale of the adapters (2 * lora_rank)").without_effect(lora));
  t.push_back(key("lora_dropout", ValueKind::number, "0.0", "dropout of the adapters").range(0, 1).without_effect(lora));
  t.push_back(key("lora_target", ValueKind::list, "all", "modules with adapters").without_effect(lora));
  t.push_back(key("additional_target", ValueKind::list, "null", "modules trained beside the adapters").without_effect(lora));
  t.push_back(key("use_rslora", ValueKind::boolean, "false", "rank-stabilised scale").without_effect(lora));
  t.push_back(key("use_dora", ValueKind::boolean, "false", "magnitude and direction apart").without_effect(lora));
  t.push_back(key("create_new_adapter", ValueKind::boolean, "false", "a fresh adapter on top").without_effect(lora));
  t.push_back(key("loraplus_lr_ratio", ValueKind::number, "null", "LoRA+").never("LoRA+ is not supported; remove the key"));
  t.push_back(key("loraplus_lr_embedding", ValueKind::number, "1e-6", "LoRA+").never("LoRA+ is not supported; remove the key"));
  t.push_back(key("pissa_init", ValueKind::boolean, "false", "PiSSA").never("PiSSA is not supported; remove the key"));
  t.push_back(key("pissa_convert", ValueKind::boolean, "false", "PiSSA").never("PiSSA is not supported; remove the key"));
  t.push_back(key("pissa_iter", ValueKind::integer, "16", "PiSSA").never("PiSSA is not supported; remove the key"));
  const char* const oft = "orthogonal finetuning (OFT) is not supported; remove the key";
  t.push_back(key("module_dropout", ValueKind::number, "0.0", "OFT").never(oft));
  t.push_back(key("oft_rank", ValueKind::integer, "0", "OFT").never(oft));
  t.push_back(key("oft_block_size", ValueKind::integer, "32", "OFT").never(oft));
  t.push_back(key("oft_target", ValueKind::list, "all", "OFT").never(oft));
}

void add_preferences(std::vector<Key>& t) {
  const char* const dpo = "it matters only for stage: dpo";
  t.push_back(key("pref_beta", ValueKind::number, "0.1", "strength of the preference").at_least(0).without_effect(dpo));
  t.push_back(key("pref_ftx", ValueKind::number, "0.0", "weight of the sft loss").at_least(0).without_effect(dpo));
  t.push_back(key("pref_loss", ValueKind::text, "sigmoid", "loss of a pair")
                  .one_of({"sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"})
                  .without_effect(dpo));
  t.push_back(key("simpo_gamma", ValueKind::number, "0.5", "margin of SimPO").at_least(0).without_effect(dpo));
  t.push_back(key("dpo_label_smoothing", ValueKind::number, "0.0", "share of swapped pairs").range(0, 0.5).without_effect(dpo));
  t.push_back(key("ref_model", ValueKind::text, "null", "reference model").without_effect(dpo));
  t.push_back(key("ref_model_adapters", ValueKind::list, "null", "its adapters").without_effect(dpo));
  t.push_back(key("ref_model_quantization_bit", ValueKind::integer, "null", "its bits")
                  .never("a quantised reference model is not supported; remove the key"));
  t.push_back(key("pref_bco_weight", ValueKind::number, "0.0", "BCO").never("the BCO loss is not supported; remove the key"));
  t.push_back(key("ld_alpha", ValueKind::number, "null", "LD-DPO").never("LD-DPO is not supported; remove the key"));
  t.push_back(key("kto_chosen_weight", ValueKind::number, "1.0", "KTO").never("KTO is not supported; remove the key"));
  t.push_back(key("kto_rejected_weight", ValueKind::number, "1.0", "KTO").never("KTO is not supported; remove the key"));
  const char* const ppo = "PPO, with its reward models and servers, is not supported; remove the key";
  t.push_back(key("ppo_buffer_size", ValueKind::integer, "1", "PPO").never(ppo));
  t.push_back(key("ppo_epochs", ValueKind::integer, "4", "PPO").never(ppo));
  t.push_back(key("ppo_score_norm", ValueKind::boolean, "false", "PPO").never(ppo));
  t.push_back(key("ppo_target", ValueKind::number, "6.0", "PPO").never(ppo));
  t.push_back(key("ppo_whiten_rewards", ValueKind::boolean, "false", "PPO").never(ppo));
  for (const char* name : {"reward_model", "reward_model_adapters"}) t.push_back(key(name, ValueKind::text, "null", "PPO").never(ppo));
  t.push_back(key("reward_model_quantization_bit", ValueKind::integer, "null", "PPO").never(ppo));
  t.push_back(key("reward_model_type", ValueKind::text, "lora", "PPO").never(ppo));
}

void add_other_optimizers(std::vector<Key>& t) {
  const char* const galore = "GaLore is not supported; remove the key";
  t.push_back(key("use_galore", ValueKind::boolean, "false", "GaLore").never(galore));
  t.push_back(key("galore_target", ValueKind::list, "all", "GaLore").never(galore));
  t.push_back(key("galore_rank", ValueKind::integer, "16", "GaLore").never(galore));
  t.push_back(key("galore_update_interval", ValueKind::integer, "200", "GaLore").never(galore));
  t.push_back(key("galore_scale", ValueKind::number, "2.0", "GaLore").never(galore));
  t.push_back(key("galore_proj_type", ValueKind::text, "std", "GaLore").never(galore));
  t.push_back(key("galore_layerwise", ValueKind::boolean, "false", "GaLore").never(galore));
  const char* const apollo = "APOLLO is not supported; remove the key";
  t.push_back(key("use_apollo", ValueKind::boolean, "false", "APOLLO").never(apollo));
  t.push_back(key("apollo_target", ValueKind::list, "all", "APOLLO").never(apollo));
  t.push_back(key("apollo_rank", ValueKind::integer, "16", "APOLLO").never(apollo));
  t.push_back(key("apollo_update_interval", ValueKind::integer, "200", "APOLLO").never(apollo));
  t.push_back(key("apollo_scale", ValueKind::number, "32.0", "APOLLO").never(apollo));
  t.push_back(key("apollo_proj", ValueKind::text, "random", "APOLLO").never(apollo));
  t.push_back(key("apollo_proj_type", ValueKind::text, "std", "APOLLO").never(apollo));
  t.push_back(key("apollo_scale_type", ValueKind::text, "channel", "APOLLO").never(apollo));
  t.push_back(key("apollo_layerwise", ValueKind::boolean, "false", "APOLLO").never(apollo));
  t.push_back(key("apollo_scale_front", ValueKind::boolean, "false", "APOLLO").never(apollo));
  const char* const badam = "BAdam is not supported; remove the key";
  t.push_back(key("use_badam", ValueKind::boolean, "false", "BAdam").never(badam));
  t.push_back(key("badam_mode", ValueKind::text, "layer", "BAdam").never(badam));
  t.push_back(key("badam_start_block", ValueKind::integer, "null", "BAdam").never(badam));
  t.push_back(key("badam_switch_mode", ValueKind::text, "ascending", "BAdam").never(badam));
  t.push_back(key("badam_switch_interval", ValueKind::integer, "50", "BAdam").never(badam));
  t.push_back(key("badam_update_ratio", ValueKind::number, "0.05", "BAdam").never(badam));
  t.push_back(key("badam_mask_mode", ValueKind::text, "adjacent", "BAdam").never(badam));
  t.push_back(key("badam_verbose", ValueKind::integer, "0", "BAdam").never(badam));
  t.push_back(key("use_adam_mini", ValueKind::boolean, "false", "Adam-mini").never("Adam-mini is not supported; the optimizer is AdamW"));
  t.push_back(key("use_muon", ValueKind::boolean, "false", "Muon").never("Muon is not supported; the optimizer is AdamW"));
}

void add_other_losses_and_engines(std::vector<Key>& t) {
  t.push_back(key("use_llama_pro", ValueKind::boolean, "false", "expanded blocks").never("LLaMA Pro is not supported; remove the key"));
  t.push_back(key("use_dft_loss", ValueKind::boolean, "false", "DFT loss").never("the DFT loss is not supported; remove the key"));
  t.push_back(key("use_asft_loss", ValueKind::boolean, "false", "ASFT loss").never("the ASFT loss is not supported; remove the key"));
  t.push_back(key("asft_alpha", ValueKind::number, "0.1", "ASFT loss").never("the ASFT loss is not supported; remove the key"));
  t.push_back(key("use_eaft_loss", ValueKind::boolean, "false", "EAFT loss").never("the EAFT loss is not supported; remove the key"));
  t.push_back(key("eaft_alpha", ValueKind::number, "1.0", "EAFT loss").never("the EAFT loss is not supported; remove the key"));
  t.push_back(key("use_chunked_ce_loss", ValueKind::boolean, "false", "loss in chunks").without_effect("the loss is computed in chunks always"));
  t.push_back(key("chunked_ce_num_chunks", ValueKind::integer, "8", "chunks of the loss")
                  .without_effect("the loss is computed in chunks of llmtrain's own choice"));
  const char* const engine = "training at any rank count is ZeRO-3 of llmtrain itself; remove the key";
  for (const char* name : {"use_mca", "use_hyper_parallel", "use_megatron_bridge"})
    t.push_back(key(name, ValueKind::boolean, "false", "another engine").never(engine));
  t.push_back(key("hyper_parallel_args", ValueKind::text, "null", "another engine").never(engine));
  const char* const vision = "there is no vision tower: llmtrain trains text models; remove the key";
  t.push_back(key("freeze_vision_tower", ValueKind::boolean, "true", "freeze the vision tower").never(vision));
  t.push_back(key("freeze_multi_modal_projector", ValueKind::boolean, "true", "freeze the projector").never(vision));
  t.push_back(key("freeze_language_model", ValueKind::boolean, "false", "freeze the language model").never(vision));
  t.push_back(key("train_mm_proj_only", ValueKind::boolean, "false", "train the projector").never(vision));
}

}  // namespace

void add_method_keys(std::vector<Key>& t) {
  t.push_back(key("stage", &Config::stage, "sft",
                  "what is learned: pt (plain text), sft (answers), dpo (preferences). In this version train takes pt and sft, data also dpo")
                  .one_of({"pt", "sft", "dpo", "kto", "rm", "ppo"}));
  t.push_back(key("finetuning_type", &Config::finetuning_type, "lora",
                  "which weights are trained: full (all), freeze (some blocks), lora (adapters). In this version train takes full and freeze")
                  .one_of({"full", "freeze", "lora", "oft"}));
  t.push_back(key("freeze_trainable_layers", &Config::freeze_trainable_layers, "2", "freeze: the last n blocks are trained; negative: the first n"));
  t.push_back(key("freeze_trainable_modules", &Config::freeze_trainable_modules, "all", "freeze: parts of these blocks, such as self_attn or mlp"));
  t.push_back(key("freeze_extra_modules", &Config::freeze_extra_modules, "null",
                  "freeze: what else is trained: embed_tokens, norm (which names the norms of all blocks too, as in LLaMA-Factory), lm_head"));
  t.push_back(key("deepspeed", &Config::deepspeed, "null", "a DeepSpeed JSON file; without it training at any rank count is ZeRO-3"));
  t.push_back(key("disable_shuffling", &Config::disable_shuffling, "false", "keep the rows in the order of the datasets"));
  t.push_back(key("early_stopping_steps", &Config::early_stopping_steps, "null", "stop after so many evaluations without a better result")
                  .at_least(1)
                  .not_yet("early stopping is not supported in this version"));
  t.push_back(key("compute_accuracy", ValueKind::boolean, "false", "share of right tokens")
                  .not_yet("accuracy at evaluation is not supported in this version; eval_loss is"));
  t.push_back(key("include_effective_tokens_per_second", ValueKind::boolean, "false", "tokens per second")
                  .without_effect("tokens per second are logged always"));
  t.push_back(key("pure_bf16", ValueKind::boolean, "false", "weights and states in bfloat16")
                  .not_yet("use bf16: true with states: bfloat16, which rounds stochastically"));
  const char* const tracker = "llmtrain writes trainer_log.jsonl and trainer_state.json and contacts no service";
  t.push_back(key("use_swanlab", ValueKind::boolean, "false", "SwanLab").without_effect(tracker));
  t.push_back(key("swanlab_project", ValueKind::text, "llamafactory", "SwanLab").without_effect(tracker));
  t.push_back(key("swanlab_mode", ValueKind::text, "cloud", "SwanLab").without_effect(tracker));
  for (const char* name : {"swanlab_workspace", "swanlab_run_name", "swanlab_logdir"})
    t.push_back(key(name, ValueKind::text, "null", "SwanLab").without_effect(tracker));
  for (const char* name : {"swanlab_api_key", "swanlab_lark_webhook_url", "swanlab_lark_secret"})
    t.push_back(key(name, ValueKind::text, "null", "secret of SwanLab").never("secrets do not belong into a configuration; remove the key").hidden());
  add_adapters(t);
  add_preferences(t);
  add_other_optimizers(t);
  add_other_losses_and_engines(t);
}

}  // namespace llmtrain
