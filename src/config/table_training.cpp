// Keys of transformers' TrainingArguments that steer the optimisation, and those that belong to PyTorch's machinery.
#include "config/table.h"

namespace llmtrain {
namespace {

void add_precision(std::vector<Key>& t) {
  t.push_back(key("bf16", &Config::bf16, "false", "compute in bfloat16, with float32 master weights; else everything is float32"));
  t.push_back(key("fp16", &Config::fp16, "false", "compute in float16")
                  .not_yet("float16 with loss scaling is not supported in this version; use bf16: true"));
  t.push_back(
      key("bf16_full_eval", ValueKind::boolean, "false", "evaluate in bfloat16").without_effect("evaluation uses the element type of training"));
  t.push_back(
      key("fp16_full_eval", ValueKind::boolean, "false", "evaluate in float16").without_effect("evaluation uses the element type of training"));
  t.push_back(key("tf32", ValueKind::boolean, "null", "TF32 on GPUs").without_effect("float32 means float32"));
  t.push_back(
      key("half_precision_backend", ValueKind::text, "auto", "mixed precision of PyTorch").without_effect("mixed precision is llmtrain's own"));
  t.push_back(key("fp16_opt_level", ValueKind::text, "O1", "mixed precision of Apex").without_effect("mixed precision is llmtrain's own"));
}

void add_loss(std::vector<Key>& t) {
  t.push_back(key("average_tokens_across_devices", ValueKind::boolean, "true", "one token, one weight")
                  .never("a trained token weighs the same on whichever rank it lies, always; remove the key"));
  t.push_back(key("label_smoothing_factor", ValueKind::number, "0.0", "smoothed labels")
                  .range(0, 1)
                  .not_yet("label smoothing is not supported in this version"));
  t.push_back(key("neftune_noise_alpha", ValueKind::number, "null", "noise on embeddings").not_yet("NEFTune is not supported in this version"));
  t.push_back(
      key("auto_find_batch_size", ValueKind::boolean, "false", "smaller batches until they fit").never("give per_device_train_batch_size that fits"));
  t.push_back(key("dataloader_drop_last", &Config::dataloader_drop_last, "false",
                  "leave out the rows at the end of an epoch, and of an evaluation, that do not fill a batch of every rank"));
  t.push_back(key("group_by_length", ValueKind::boolean, "false", "rows of like length together")
                  .not_yet("grouping by length is not supported in this version; rows are not padded anyway"));
  t.push_back(key("train_sampling_strategy", &Config::train_sampling_strategy, "random", "order of rows; sequential is the same as disable_shuffling: true")
                  .one_of({"random", "sequential", "group_by_length"}));
  t.push_back(key("ignore_data_skip", ValueKind::boolean, "false", "start over in the data at a resume")
                  .never("the position in the data is restored at no cost; remove the key"));
}

void add_checkpointing(std::vector<Key>& t) {
  const char* const recompute = "recomputing is on by default as in LLaMA-Factory; see disable_gradient_checkpointing and recompute";
  t.push_back(key("gradient_checkpointing", ValueKind::boolean, "null", "recompute activations").without_effect(recompute));
  t.push_back(key("gradient_checkpointing_kwargs", ValueKind::map, "null", "its options in PyTorch").without_effect(recompute));
  t.push_back(key("activation_checkpointing", ValueKind::boolean, "null", "recompute activations").without_effect(recompute));
  t.push_back(key("activation_checkpointing_kwargs", ValueKind::map, "null", "its options in PyTorch").without_effect(recompute));
}

void add_machinery(std::vector<Key>& t) {
  const char* const machinery = "it steers PyTorch, which is not here";
  for (const char* name : {"torch_compile", "skip_memory_metrics", "use_mps_device", "dataloader_pin_memory", "dataloader_persistent_workers",
                           "dataloader_in_order", "remove_unused_columns", "enable_torch_profiler", "profiler_record_shapes",
                           "profiler_profile_memory", "profiler_with_stack", "use_liger_kernel"})
    t.push_back(key(name, ValueKind::boolean, "null", "machinery of PyTorch").without_effect(machinery));
  for (const char* name : {"ddp_find_unused_parameters", "ddp_broadcast_buffers", "ddp_static_graph", "eval_use_gather_object",
                           "eval_do_concat_batches", "batch_eval_metrics", "prediction_loss_only", "restore_callback_states_from_checkpoint",
                           "log_on_each_node", "save_on_each_node", "logging_nan_inf_filter", "enable_jit_checkpoint"})
    t.push_back(
        key(name, ValueKind::boolean, "null", "machinery of the Trainer").without_effect("it steers transformers' Trainer, which is not here"));
  for (const char* name : {"torch_compile_backend", "torch_compile_mode", "dataloader_multiprocessing_context", "ddp_backend", "length_column_name",
                           "profiler_output_dir", "profile_modules", "debug"})
    t.push_back(key(name, ValueKind::text, "null", "machinery of PyTorch").without_effect(machinery));
  for (const char* name : {"torch_empty_cache_steps", "dataloader_prefetch_factor", "ddp_bucket_cap_mb", "eval_accumulation_steps", "local_rank",
                           "past_index", "profiler_wait_steps", "profiler_warmup_steps", "profiler_active_steps", "profiler_repeat"})
    t.push_back(key(name, ValueKind::integer, "null", "machinery of PyTorch").without_effect(machinery));
  for (const char* name : {"liger_kernel_config", "accelerator_config", "parallelism_config"})
    t.push_back(key(name, ValueKind::map, "null", "machinery of accelerate").without_effect(machinery));
  t.push_back(key("label_names", ValueKind::list, "null", "names of labels").without_effect("labels are made by the data itself"));
  t.push_back(key("include_for_metrics", ValueKind::list, "null", "inputs of metrics").without_effect("there are no metric functions"));
  t.push_back(key("dataloader_num_workers", ValueKind::integer, "0", "processes that load batches")
                  .at_least(0)
                  .without_effect("batches come from a memory-mapped store without loader processes"));
  t.push_back(
      key("ddp_timeout", ValueKind::integer, "1800", "seconds before PyTorch gives up")
          .at_least(0)
          .without_effect("tokenising comes before any device communicator exists, so no long timeout is needed, and detection of hangs stays on"));
  const char* const fsdp = "training at any rank count is ZeRO-3, which is what FSDP does; remove the key";
  t.push_back(key("fsdp", ValueKind::text, "null", "FSDP").never(fsdp));
  t.push_back(key("fsdp_config", ValueKind::map, "null", "FSDP").never(fsdp));
  t.push_back(key("fsdp_min_num_params", ValueKind::integer, "null", "FSDP").never(fsdp));
  t.push_back(key("fsdp_transformer_layer_cls_to_wrap", ValueKind::text, "null", "FSDP").never(fsdp));
  const char* const ray = "ranks come from mpirun or srun, not from Ray";
  t.push_back(key("ray_num_workers", ValueKind::integer, "1", "Ray").without_effect(ray));
  for (const char* name : {"ray_run_name", "ray_storage_path", "ray_storage_filesystem", "placement_strategy", "master_addr", "master_port"})
    t.push_back(key(name, ValueKind::text, "null", "Ray").without_effect(ray));
  for (const char* name : {"resources_per_worker", "ray_init_kwargs"}) t.push_back(key(name, ValueKind::map, "null", "Ray").without_effect(ray));
}

}  // namespace

void add_training_keys(std::vector<Key>& t) {
  t.push_back(key("do_train", &Config::do_train, "false", "train"));
  t.push_back(key("per_device_train_batch_size", &Config::per_device_train_batch_size, "8", "rows of a micro-batch on each rank").range(1, 1 << 20));
  t.push_back(key("gradient_accumulation_steps", &Config::gradient_accumulation_steps, "1", "micro-batches of an optimizer step").range(1, 1 << 20));
  t.push_back(key("learning_rate", &Config::learning_rate, "5e-5", "largest learning rate").range(0, 1e6));
  t.push_back(key("num_train_epochs", &Config::num_train_epochs, "3.0", "passes over the data; may be a fraction").above(0));
  t.push_back(key("max_steps", &Config::max_steps, "-1", "optimizer steps; above 0 it wins over num_train_epochs").at_least(-1));
  t.push_back(key("lr_scheduler_type", &Config::lr_scheduler_type, "linear", "course of the learning rate")
                  .one_of({"linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
                           "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"}));
  t.push_back(key("lr_scheduler_kwargs", &Config::lr_scheduler_kwargs, "null", "its arguments, such as {min_lr_rate: 0.1}"));
  t.push_back(key("warmup_ratio", &Config::warmup_ratio, "null", "share of the steps in which the rate rises from 0; above 0 it wins over warmup_steps").range(0, 1));
  t.push_back(key("warmup_steps", &Config::warmup_steps, "0", "steps in which the rate rises from 0; below 1 a share of all steps").at_least(0));
  t.push_back(key("optim", ValueKind::text, "adamw_torch", "the optimizer: AdamW, under transformers' names for it")
                  .one_of({"adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"})
                  .without_effect("the optimizer is llmtrain's AdamW, whose result is the same"));
  t.push_back(key("optim_args", ValueKind::text, "null", "options of other optimizers")
                  .never("the optimizer is AdamW, which has adam_beta1, adam_beta2 and adam_epsilon; remove the key"));
  t.push_back(key("optim_target_modules", ValueKind::list, "null", "modules of other optimizers")
                  .never("the optimizer is AdamW for all trained weights; remove the key"));
  t.push_back(key("adafactor", ValueKind::boolean, "false", "Adafactor").never("Adafactor is not supported; the optimizer is AdamW"));
  t.push_back(key("weight_decay", &Config::weight_decay, "0.0", "decay of weights, but not of biases and norms").range(0, 1));
  t.push_back(key("adam_beta1", &Config::adam_beta1, "0.9", "decay of the first moment").range(0, 1));
  t.push_back(key("adam_beta2", &Config::adam_beta2, "0.999", "decay of the second moment").range(0, 1));
  t.push_back(key("adam_epsilon", &Config::adam_epsilon, "1e-8", "added to the square root of the second moment").range(0, 1));
  t.push_back(key("max_grad_norm", &Config::max_grad_norm, "1.0", "gradients are scaled down to this total norm; 0: never").at_least(0));
  t.push_back(key("seed", &Config::seed, "42", "seed of the order of rows and of random weights").at_least(0));
  t.push_back(key("data_seed", &Config::data_seed, "null", "seed of the order of rows, where it differs from seed").at_least(0));
  t.push_back(key("use_cpu", &Config::use_cpu, "false", "the same as device: cpu"));
  t.push_back(alias("no_cuda", "use_cpu"));
  t.push_back(key("full_determinism", ValueKind::boolean, "false", "deterministic operations of PyTorch")
                  .without_effect("the CPU is deterministic always; for GPUs see deterministic"));
  add_precision(t);
  add_loss(t);
  add_checkpointing(t);
  add_machinery(t);
}

}  // namespace llmtrain
