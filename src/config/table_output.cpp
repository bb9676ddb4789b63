// Keys of transformers' TrainingArguments about outputs, logging, checkpoints and evaluation, and llmtrain's own keys.
#include "config/table.h"

namespace llmtrain {
namespace {

void add_evaluation(std::vector<Key>& t) {
  t.push_back(key("do_eval", &Config::do_eval, "false", "evaluate at the end"));
  t.push_back(key("eval_strategy", &Config::eval_strategy, "no", "when to evaluate while training").one_of({"no", "steps", "epoch"}));
  t.push_back(alias("evaluation_strategy", "eval_strategy"));
  t.push_back(
      key("eval_steps", &Config::eval_steps, "null", "steps between evaluations; below 1 a share of all steps; left out: logging_steps").at_least(0));
  t.push_back(
      key("per_device_eval_batch_size", &Config::per_device_eval_batch_size, "8", "rows of an evaluation batch on each rank").range(1, 1 << 20));
  t.push_back(key("load_best_model_at_end", &Config::load_best_model_at_end, "false", "export the best checkpoint, not the last")
                  .not_yet("going back to the best checkpoint is not supported in this version"));
  t.push_back(key("metric_for_best_model", &Config::metric_for_best_model, "null", "what the best is measured by")
                  .without_effect("it matters only beside load_best_model_at_end or early_stopping_steps"));
  t.push_back(key("greater_is_better", &Config::greater_is_better, "null", "the direction of that")
                  .without_effect("it matters only beside load_best_model_at_end or early_stopping_steps"));
  const char* const predict = "predictions by a training run are not supported; use llmtrain generate";
  t.push_back(key("do_predict", ValueKind::boolean, "false", "write predictions").not_yet(predict));
  t.push_back(key("predict_with_generate", ValueKind::boolean, "false", "generate at evaluation").not_yet(predict));
  for (const char* name : {"generation_max_length", "generation_num_beams"})
    t.push_back(key(name, ValueKind::integer, "null", "generation at evaluation").without_effect(predict));
  t.push_back(key("generation_config", ValueKind::text, "null", "generation at evaluation").without_effect(predict));
  t.push_back(
      key("sortish_sampler", ValueKind::boolean, "false", "order of rows").not_yet("not supported in this version; rows are not padded anyway"));
  t.push_back(key("eval_delay", &Config::eval_delay, "0.0", "no evaluation before so many steps (eval_strategy: steps) or epochs (epoch)").at_least(0));
  t.push_back(key("eval_on_start", &Config::eval_on_start, "false", "evaluate before the first step too"));
}

void add_services(std::vector<Key>& t) {
  const char* const service = "llmtrain writes trainer_log.jsonl and trainer_state.json and contacts no service";
  t.push_back(key("report_to", ValueKind::list, "none", "services that follow a run").without_effect(service));
  for (const char* name : {"project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "logging_dir"})
    t.push_back(key(name, ValueKind::text, "null", "services").without_effect(service));
  t.push_back(key("run_name", &Config::run_name, "null", "a name for people, written into the logs"));
  const char* const hub = "llmtrain talks to no hub; upload the finished folder yourself";
  t.push_back(key("push_to_hub", ValueKind::boolean, "false", "upload").never(hub));
  for (const char* name : {"hub_model_id", "hub_revision", "push_to_hub_model_id", "push_to_hub_organization"})
    t.push_back(key(name, ValueKind::text, "null", "upload").never(hub));
  t.push_back(key("hub_strategy", ValueKind::text, "every_save", "upload").without_effect(hub));
  for (const char* name : {"hub_private_repo", "hub_always_push"}) t.push_back(key(name, ValueKind::boolean, "null", "upload").without_effect(hub));
  for (const char* name : {"hub_token", "push_to_hub_token"})
    t.push_back(key(name, ValueKind::text, "null", "secret of a hub")
                    .never("secrets do not belong into a configuration, and llmtrain talks to no hub; remove the key")
                    .hidden());
  for (const char* name : {"log_level", "log_level_replica"})
    t.push_back(key(name, ValueKind::text, "null", "verbosity of transformers").without_effect("one rank speaks, always"));
  t.push_back(key("disable_tqdm", ValueKind::boolean, "null", "no progress bar").without_effect("see progress"));
  t.push_back(key("include_num_input_tokens_seen", &Config::include_num_input_tokens_seen, "no",
                  "log num_input_tokens_seen at each step; all, or true: with the padding that LLaMA-Factory's batches would have, non_padding: without")
                  .one_of({"no", "all", "non_padding"})
                  .or_boolean("all", "no"));
  t.push_back(
      key("include_tokens_per_second", ValueKind::boolean, "false", "tokens per second").without_effect("tokens per second are logged always"));
}

}  // namespace

void add_output_keys(std::vector<Key>& t) {
  t.push_back(key("output_dir", &Config::output_dir, "null", "folder of the model, the logs and the token store"));
  t.push_back(key("overwrite_output_dir", &Config::overwrite_output_dir, "false", "start afresh in a folder that holds an earlier run"));
  t.push_back(key("logging_strategy", &Config::logging_strategy, "steps", "when to log").one_of({"no", "steps", "epoch"}));
  t.push_back(
      key("logging_steps", &Config::logging_steps, "500", "steps between log entries; below 1 a share of all steps; the last step is logged always")
          .at_least(0));
  t.push_back(key("logging_first_step", &Config::logging_first_step, "false", "log the first step too"));
  t.push_back(key("plot_loss", &Config::plot_loss, "false", "draw training_loss.png and training_eval_loss.png"));
  t.push_back(
      key("save_strategy", &Config::save_strategy, "steps", "when to save").one_of({"no", "steps", "epoch", "best"}));
  t.push_back(key("save_steps", &Config::save_steps, "500", "steps between checkpoints; below 1 a share of all steps").at_least(0));
  t.push_back(key("save_total_limit", &Config::save_total_limit, "null", "checkpoints that are kept").at_least(0));
  t.push_back(key("save_only_model", &Config::save_only_model, "false", "write checkpoints, which hold the model only, so that nothing can be resumed"));
  t.push_back(
      key("resume_from_checkpoint", &Config::resume_from_checkpoint, "null", "true: the newest valid checkpoint of output_dir; or the path of one")
          .or_boolean());
  t.push_back(
      key("save_safetensors", ValueKind::boolean, "true", "safetensors, not pickle").never("pickle files are never written: safetensors only"));
  add_evaluation(t);
  add_services(t);
}

void add_own_keys(std::vector<Key>& t) {
  t.push_back(key("device", &Config::device, "auto", "where to compute; auto: the GPU where there is one").one_of({"auto", "cpu", "cuda"}));
  t.push_back(key("deterministic", &Config::deterministic, "false", "GPUs: bitwise equal results from run to run; the CPU is so always"));
  t.push_back(key("states", &Config::states, "float32",
                  "master weights and moments: float32 (with bf16: true 18 bytes a parameter, its float32 gradient and bfloat16 copy included), mixed (float32 "
                  "weights, bfloat16 moments: 14 bytes), bfloat16 (10 bytes, stochastic rounding)")
                  .one_of({"float32", "mixed", "bfloat16"}));
  t.push_back(key("recompute", &Config::recompute, "auto",
                  "activations computed again in the backward pass: none, cheap (norms, activation functions), full (whole blocks)")
                  .one_of({"auto", "none", "cheap", "full"}));
  t.push_back(key("prefetch_depth", &Config::prefetch_depth, "1", "units whose weights are gathered ahead of use").range(1, 64));
  t.push_back(
      key("overlap", &Config::overlap, "auto", "communicate while computing; the result is the same, bit for bit").one_of({"auto", "on", "off"}));
  t.push_back(key("communicator", &Config::communicator, "auto",
                  "how ranks talk: mpi, shared (memory of a node, MPI between nodes), nccl, staged (GPU buffers through MPI)")
                  .one_of({"auto", "mpi", "shared", "nccl", "staged"}));
  t.push_back(key("ranks_per_node", &Config::ranks_per_node, "0", "for tests: so many consecutive ranks count as a node; 0: as the machine is")
                  .range(0, 1 << 20));
  t.push_back(
      key("progress", &Config::progress, "auto", "progress on the terminal: a bar, or one line for each log entry").one_of({"auto", "bar", "lines"}));
  t.push_back(key("export_dtype", &Config::export_dtype, "null", "element type of the exported model; left out: bfloat16 under bf16, else float32")
                  .one_of({"float32", "bfloat16", "float16"}));
  t.push_back(key("max_hours", &Config::max_hours, "null", "stop with a checkpoint after so many hours")
                  .above(0));
  t.push_back(key("hang_timeout", &Config::hang_timeout, "600", "seconds without progress after which a rank is given up, dumps are written and the job ends; ddp_timeout has no part in it")
                  .at_least(1));
  t.push_back(key("async_save", &Config::async_save, "true", "write checkpoints in the background"));
  t.push_back(key("save_hf_model", &Config::save_hf_model, "false", "checkpoints also hold a Hugging Face folder"));
}

}  // namespace llmtrain
