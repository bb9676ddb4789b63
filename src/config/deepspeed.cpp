#include "config/deepspeed.h"

#include <algorithm>
#include <cmath>

#include "config/table.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

// What is done with a key.
enum class Effect {
  taken,     // read by name below
  section,   // a map whose keys stand in this table too
  open,      // a map or value of which everything is accepted
  none,      // accepted; said once
  silent,    // accepted; it says what is so anyway, or is part of fp16, which is refused as a whole
  off_only,  // false, 0 or null only
  refused    // likewise; a whole section
};

struct Entry {
  const char* path;
  Effect effect;
  const char* reason;
};

const char* const kStatic = "gathers follow a static schedule with a fixed number of slots";
const char* const kTorch = "it steers DeepSpeed's own machinery";
const char* const kTracker = "llmtrain writes trainer_log.jsonl and contacts no service";
const char* const kLater = "not supported in this version";

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
      {"train_batch_size", Effect::taken, ""},
      {"train_micro_batch_size_per_gpu", Effect::taken, ""},
      {"gradient_accumulation_steps", Effect::taken, ""},
      {"gradient_clipping", Effect::taken, ""},
      {"fp16", Effect::section, ""},
      {"fp16.enabled", Effect::taken, ""},
      {"fp16.loss_scale", Effect::silent, ""},
      {"fp16.initial_scale_power", Effect::silent, ""},
      {"fp16.loss_scale_window", Effect::silent, ""},
      {"fp16.hysteresis", Effect::silent, ""},
      {"fp16.consecutive_hysteresis", Effect::silent, ""},
      {"fp16.min_loss_scale", Effect::silent, ""},
      {"fp16.auto_cast", Effect::silent, ""},
      {"fp16.fp16_master_weights_and_grads", Effect::off_only, kLater},
      {"bf16", Effect::section, ""},
      {"bf16.enabled", Effect::taken, ""},
      {"bf16.immediate_grad_update", Effect::none, kTorch},
      {"bf16.check_grad_overflow", Effect::none, "gradients are checked always"},
      {"bf16.bf16_master_weights_and_grads", Effect::off_only, "use states: bfloat16 in the YAML"},
      {"bf16.bf16_optimizer_states", Effect::off_only, "use states: mixed in the YAML"},
      {"zero_optimization", Effect::section, ""},
      {"zero_optimization.stage", Effect::taken, ""},
      {"zero_optimization.allgather_partitions", Effect::none, "a gather is one collective, always"},
      {"zero_optimization.allgather_bucket_size", Effect::none, "a gather is one collective for each unit of the model"},
      {"zero_optimization.reduce_bucket_size", Effect::none, "a reduction is one collective for each unit of the model"},
      {"zero_optimization.reduce_scatter", Effect::none, "gradients are reduced and scattered in one collective, always"},
      {"zero_optimization.overlap_comm", Effect::none, "overlap is llmtrain's own key overlap; the result does not depend on it"},
      {"zero_optimization.contiguous_gradients", Effect::none, "gradients of a unit lie in one array, always"},
      {"zero_optimization.round_robin_gradients", Effect::none, "shards are balanced by construction"},
      {"zero_optimization.sub_group_size", Effect::none, "the optimizer steps over a rank's whole shard"},
      {"zero_optimization.stage3_prefetch_bucket_size", Effect::none, kStatic},
      {"zero_optimization.prefetch_bucket_size", Effect::none, kStatic},
      {"zero_optimization.stage3_param_persistence_threshold", Effect::none, kStatic},
      {"zero_optimization.param_persistence_threshold", Effect::none, kStatic},
      {"zero_optimization.stage3_model_persistence_threshold", Effect::none, kStatic},
      {"zero_optimization.stage3_max_live_parameters", Effect::none, kStatic},
      {"zero_optimization.max_live_parameters", Effect::none, kStatic},
      {"zero_optimization.stage3_max_reuse_distance", Effect::none, kStatic},
      {"zero_optimization.max_reuse_distance", Effect::none, kStatic},
      {"zero_optimization.stage3_module_granularity_threshold", Effect::none, kStatic},
      {"zero_optimization.stage3_use_all_reduce_for_fetch_params", Effect::none, kStatic},
      {"zero_optimization.use_all_reduce_for_fetch_params", Effect::none, kStatic},
      {"zero_optimization.stage3_gather_16bit_weights_on_model_save", Effect::none,
       "the result is a complete Hugging Face folder, always, written by all ranks together"},
      {"zero_optimization.gather_16bit_weights_on_model_save", Effect::none,
       "the result is a complete Hugging Face folder, always, written by all ranks together"},
      {"zero_optimization.stage3_gather_fp16_weights_on_model_save", Effect::none,
       "the result is a complete Hugging Face folder, always, written by all ranks together"},
      {"zero_optimization.use_multi_rank_bucket_allreduce", Effect::none, kTorch},
      {"zero_optimization.load_from_fp32_weights", Effect::none, "checkpoints hold float32 weights, always"},
      {"zero_optimization.elastic_checkpoint", Effect::none, "checkpoints do not depend on the number of ranks, always"},
      {"zero_optimization.ignore_unused_parameters", Effect::none, kTorch},
      {"zero_optimization.legacy_stage1", Effect::none, kTorch},
      {"zero_optimization.memory_efficient_linear", Effect::none, kTorch},
      {"zero_optimization.pipeline_loading_checkpoint", Effect::none, kTorch},
      {"zero_optimization.override_module_apply", Effect::none, kTorch},
      {"zero_optimization.log_trace_cache_warnings", Effect::none, kTorch},
      {"zero_optimization.save_muon_momentum_buffer_in_memory", Effect::none, kTorch},
      {"zero_optimization.enable_sanity_checks", Effect::none, kTorch},
      {"zero_optimization.zero_hpz_partition_size", Effect::off_only, "hybrid sharding is not supported in this version"},
      {"zero_optimization.mics_shard_size", Effect::off_only, "hybrid sharding is not supported in this version"},
      {"zero_optimization.mics_hierarchical_params_gather", Effect::off_only, "hybrid sharding is not supported in this version"},
      {"zero_optimization.zero_quantized_weights", Effect::off_only, "quantised gathers are not supported"},
      {"zero_optimization.zero_quantized_nontrainable_weights", Effect::off_only, "quantised gathers are not supported"},
      {"zero_optimization.zero_quantized_gradients", Effect::off_only, "quantised reductions are not supported"},
      {"zero_optimization.zeropp_loco_param", Effect::refused, "quantised reductions are not supported"},
      {"zero_optimization.offload_optimizer", Effect::section, ""},
      {"zero_optimization.offload_param", Effect::section, ""},
      {"zero_optimization.cpu_offload", Effect::off_only, "offload is not supported in this version"},
      {"zero_optimization.cpu_offload_params", Effect::off_only, "offload is not supported in this version"},
      {"zero_optimization.cpu_offload_use_pin_memory", Effect::silent, ""},
      {"optimizer", Effect::taken, ""},
      {"scheduler", Effect::refused,
       "the schedule is the YAML's: lr_scheduler_type, warmup_ratio, warmup_steps, lr_scheduler_kwargs; remove the section"},
      {"zero_allow_untested_optimizer", Effect::none, "the optimizer is AdamW"},
      {"zero_force_ds_cpu_optimizer", Effect::none, "the optimizer is llmtrain's own AdamW"},
      {"communication_data_type", Effect::none, "gathers use the element type of training, reductions float32"},
      {"seq_parallel_communication_data_type", Effect::none, "there is no sequence parallelism"},
      {"data_types", Effect::section, ""},
      {"data_types.grad_accum_dtype", Effect::none, "gradients are accumulated in float32, always"},
      {"prescale_gradients", Effect::none, "a gradient is divided once, by the trained tokens of all ranks"},
      {"gradient_predivide_factor", Effect::none, "a gradient is divided once, by the trained tokens of all ranks"},
      {"sparse_gradients", Effect::none, "gradients are dense, always"},
      {"steps_per_print", Effect::none, "see logging_steps"},
      {"wall_clock_breakdown", Effect::none, "exposed communication time is logged always"},
      {"dump_state", Effect::none, kTorch},
      {"memory_breakdown", Effect::none, kTorch},
      {"disable_allgather", Effect::none, kTorch},
      {"dataloader_drop_last", Effect::off_only, "dropping the last batch is not supported in this version"},
      {"use_node_local_storage", Effect::none, kTorch},
      {"checkpoint", Effect::open, kTorch},
      {"aio", Effect::open, "nothing is offloaded to a disk"},
      {"activation_checkpointing", Effect::open, "see the YAML's disable_gradient_checkpointing and recompute"},
      {"comms_config", Effect::open, kTorch},
      {"comms_logger", Effect::open, kTorch},
      {"flops_profiler", Effect::open, kTorch},
      {"monitor_config", Effect::open, kTracker},
      {"tensorboard", Effect::open, kTracker},
      {"wandb", Effect::open, kTracker},
      {"csv_monitor", Effect::open, kTracker},
      {"comet", Effect::open, kTracker},
      {"timers", Effect::open, kTorch},
      {"autotuning", Effect::open, kTorch},
      {"compile", Effect::open, kTorch},
      {"graph_harvesting", Effect::none, kTorch},
      {"elasticity", Effect::open, "a run goes on at any number of ranks by itself"},
      {"amp", Effect::refused, "mixed precision of Apex is not supported; use bf16"},
      {"torch_autocast", Effect::refused, "mixed precision is llmtrain's own; use bf16"},
      {"tensor_parallel", Effect::refused, "tensor parallelism is not supported in this version"},
      {"sequence_parallel_size", Effect::refused, "sequence parallelism is not supported in this version"},
      {"pipeline", Effect::refused, "pipeline parallelism is not supported in this version"},
      {"hybrid_engine", Effect::refused, "the hybrid engine is not supported"},
      {"sparse_attention", Effect::refused, "sparse attention is not supported"},
      {"data_efficiency", Effect::refused, "data efficiency (curriculum, random LTD) is not supported"},
      {"curriculum_learning", Effect::refused, "curriculum learning is not supported"},
      {"progressive_layer_drop", Effect::refused, "dropping layers is not supported"},
      {"eigenvalue", Effect::refused, "eigenvalues are not supported"},
      {"compression_training", Effect::refused, "compression is not supported"},
      {"quantize_training", Effect::refused, "quantised training is not supported"},
      {"nebula", Effect::refused, "nebula is not supported"},
  };
  return all;
}

const std::vector<std::string>& offload_keys() {
  static const std::vector<std::string> keys = {"device",     "nvme_path",     "buffer_count",       "buffer_size",  "max_in_cpu",
                                                "pin_memory", "pipeline_read", "pipeline_write",     "pipeline",     "fast_init",
                                                "ratio",      "super_offload", "cpuadam_cores_perc", "prefetch_step"};
  return keys;
}

// "file:line" of a key: JSON parsers give no lines, so the keys of the path are searched for one after the other.
std::string line_of(const std::string& text, const std::string& where, const std::string& path) {
  size_t at = 0;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const size_t found = text.find("\"" + path.substr(begin, end - begin) + "\"", at);
    if (found == std::string::npos) break;
    at = found;
    begin = end + 1;
  }
  return where + ":" + std::to_string(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n') + 1);
}

class Reader {
 public:
  Reader(const std::string& text, const std::string& where) : text_(text), where_(where) { result_.path = where; }

  DeepSpeed read() {
    const Json json = parse_json(text_, where_);
    if (!json.is_object())
      throw InputError(where_, "is not a JSON object", "a DeepSpeed file looks like { \"zero_optimization\": { \"stage\": 3 } }");
    result_.stage_place = where_ + ": zero_optimization.stage";
    walk(json, "");
    faults_.raise();
    if (!json.contains("gradient_clipping")) {
      result_.notes.push_back(where_ + ": gradient_clipping is left out, by which DeepSpeed does not clip: llmtrain clips at max_grad_norm all the same; "
                              "max_grad_norm: 0 is DeepSpeed's way");
    }
    return std::move(result_);
  }

 private:
  std::string place(const std::string& path) const { return line_of(text_, where_, path) + ": " + path; }

  const Entry* find(const std::string& path) const {
    for (const Entry& entry : entries())
      if (path == entry.path) return &entry;
    return nullptr;
  }

  void walk(const Json& object, const std::string& prefix) {
    for (auto it = object.begin(); it != object.end(); ++it) {
      if (it.key().starts_with("_")) continue;  // a comment, as LLaMA-Factory's own files write it
      const std::string path = prefix + it.key();
      const bool offload = prefix == "zero_optimization.offload_optimizer." || prefix == "zero_optimization.offload_param.";
      const Entry* entry = find(path);
      if (offload) {
        take_offload(prefix, it.key(), *it);
      } else if (!entry) {
        unknown(path);
      } else if (entry->effect == Effect::section) {
        if (it->is_null()) continue;
        if (it->is_object())
          walk(*it, path + ".");
        else
          faults_.add(place(path), "is not a map");
      } else {
        take(*entry, *it);
      }
    }
  }

  void unknown(const std::string& path) {
    if (faults_.full()) return faults_.add(where_, "unknown key");
    std::vector<std::string> known;
    for (const Entry& entry : entries()) known.push_back(entry.path);
    faults_.add(line_of(text_, where_, path), "unknown key '" + path.substr(0, 120) + "'", "nearest known key: " + nearest(path, known));
  }

  void take(const Entry& entry, const Json& value) {
    const std::string path = entry.path;
    const bool off = value.is_null() || value == false || (value.is_number() && value.get<double>() <= (path.ends_with("partition_size") ? 1 : 0));
    switch (entry.effect) {
      case Effect::none:
      case Effect::open:
        result_.notes.push_back(place(path) + ": accepted without effect: " + entry.reason);
        return;
      case Effect::off_only:
      case Effect::refused:
        if (!off) result_.not_yet.emplace_back(place(path), entry.reason);
        return;
      case Effect::taken:
        take_value(path, value);
        return;
      default:
        return;
    }
  }

  void take_value(const std::string& path, const Json& value) {
    if (path == "train_batch_size") count(path, value, result_.train_batch_size);
    if (path == "train_micro_batch_size_per_gpu") count(path, value, result_.train_micro_batch_size_per_gpu);
    if (path == "gradient_accumulation_steps") count(path, value, result_.gradient_accumulation_steps);
    if (path == "gradient_clipping") number(path, value, result_.gradient_clipping);
    if (path == "fp16.enabled") flag(path, value, result_.fp16);
    if (path == "bf16.enabled") flag(path, value, result_.bf16);
    if (path == "optimizer") optimizer(value);
    if (path == "zero_optimization.stage") {
      std::optional<int64_t> stage;
      if (value.is_number_integer() && value.get<double>() >= 0 && value.get<double>() <= 3) stage = value.get<int64_t>();
      if (!stage) faults_.add(place(path), dump_json(value).substr(0, 40) + " is not a stage", "stages are 0, 1, 2 and 3");
      result_.stage = stage.value_or(3);
      result_.stage_place = place(path);
    }
  }

  static bool is_auto(const Json& value) { return value.is_null() || (value.is_string() && value == "auto"); }

  void count(const std::string& path, const Json& value, std::optional<int64_t>& target) {
    if (is_auto(value)) return;
    const double number = value.is_number() ? value.get<double>() : 0;
    if (number < 1 || number != std::floor(number) || number > 1e12) {
      faults_.add(place(path), dump_json(value).substr(0, 40) + " is neither \"auto\" nor a whole number of at least 1");
    } else {
      target = static_cast<int64_t>(number);
    }
  }

  void number(const std::string& path, const Json& value, std::optional<double>& target) {
    if (is_auto(value)) return;
    if (!value.is_number() || value.get<double>() < 0) {
      faults_.add(place(path), dump_json(value).substr(0, 40) + " is neither \"auto\" nor a number of at least 0");
    } else {
      target = value.get<double>();
    }
  }

  void flag(const std::string& path, const Json& value, std::optional<bool>& target) {
    if (is_auto(value)) return;
    if (!value.is_boolean()) {
      faults_.add(place(path), dump_json(value).substr(0, 40) + " is neither \"auto\" nor true or false");
    } else {
      target = value.get<bool>();
    }
  }

  void take_offload(const std::string& prefix, const std::string& key, const Json& value) {
    const std::string path = prefix + key;
    const auto& known = offload_keys();
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      if (faults_.full()) return faults_.add(where_, "unknown key");
      faults_.add(line_of(text_, where_, path), "unknown key '" + path.substr(0, 120) + "'", "nearest known key: " + prefix + nearest(key, known));
    } else if (key == "device") {
      const bool fine = value.is_string() && (value == "none" || value == "cpu" || value == "nvme");
      if (!fine) {
        faults_.add(place(path), dump_json(value).substr(0, 40) + " is not none, cpu or nvme");
        return;
      }
      const bool optimizer = prefix == "zero_optimization.offload_optimizer.";
      (optimizer ? result_.offload_optimizer : result_.offload_param) = value.get<std::string>();
      if (value != "none") result_.not_yet.emplace_back(place(path), "offload to " + value.get<std::string>() + " is not supported in this version");
    }
  }

  void optimizer(const Json& value) {
    if (!value.is_object()) return faults_.add(place("optimizer"), "is not a map");
    result_.optimizer_section = true;
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (it.key() == "type") {
        const std::string type = it->is_string() ? it->get<std::string>() : dump_json(*it);
        if (type != "AdamW" && type != "Adam")
          result_.not_yet.emplace_back(place("optimizer.type"), type.substr(0, 40) + " is not supported; the optimizer is AdamW");
      } else if (it.key() == "params" && it->is_object()) {
        optimizer_params(*it);
      } else {
        unknown("optimizer." + it.key());
      }
    }
  }

  void optimizer_params(const Json& params) {
    for (auto it = params.begin(); it != params.end(); ++it) {
      const std::string path = "optimizer.params." + it.key();
      if (it.key() == "lr")
        number(path, *it, result_.learning_rate);
      else if (it.key() == "weight_decay")
        number(path, *it, result_.weight_decay);
      else if (it.key() == "eps")
        number(path, *it, result_.adam_epsilon);
      else if (it.key() == "betas" && is_auto(*it))
        continue;
      else if (it.key() == "betas" && it->is_array() && it->size() == 2) {
        number(path, (*it)[0], result_.adam_beta1);
        number(path, (*it)[1], result_.adam_beta2);
      } else if ((it.key() == "adam_w_mode" || it.key() == "bias_correction") && !is_auto(*it) && *it != true) {
        result_.not_yet.emplace_back(place(path), dump_json(*it).substr(0, 40) + " is not supported; the optimizer is AdamW with bias correction");
      } else if (it.key() == "torch_adam" || it.key() == "adam_w_mode" || it.key() == "bias_correction") {
        result_.notes.push_back(place(path) + ": accepted without effect: the optimizer is llmtrain's own AdamW");
      } else {
        faults_.add(line_of(text_, where_, path), "'" + path.substr(0, 120) + "' is not a parameter of AdamW that is known",
                    "known: lr, betas, eps, weight_decay");
      }
    }
  }

  const std::string& text_;
  std::string where_;
  DeepSpeed result_;
  Faults faults_;
};

// Takes the JSON's value where the YAML left the key out; a fault where both give one and they differ.
template <class Target, class Source>
void merge(Config& config, const char* key, Target& target, const std::optional<Source>& source, const DeepSpeed& ds, const char* name,
           Faults& faults) {
  if (!source) return;
  const Value yaml(target), json(static_cast<Target>(*source));
  if (config.is_default(key)) {
    target = static_cast<Target>(*source);
    if (yaml != json) config.origins[key] = ds.path;
  } else if (yaml != json) {
    faults.add(config.origin(key) + ": " + key, to_yaml(yaml) + " differs from " + name + " " + to_yaml(json) + " of " + ds.path,
               std::string("give the number once, and \"auto\" in the JSON"));
  }
}

}  // namespace

DeepSpeed parse_deepspeed(const std::string& text, const std::string& where) { return Reader(text, where).read(); }

DeepSpeed read_deepspeed(const std::string& path) { return parse_deepspeed(read_file(path, kMaxBytes), path); }

void apply_deepspeed(Config& c, const DeepSpeed& ds) {
  Faults faults;
  merge(c, "per_device_train_batch_size", c.per_device_train_batch_size, ds.train_micro_batch_size_per_gpu, ds, "train_micro_batch_size_per_gpu",
        faults);
  merge(c, "gradient_accumulation_steps", c.gradient_accumulation_steps, ds.gradient_accumulation_steps, ds, "gradient_accumulation_steps", faults);
  merge(c, "max_grad_norm", c.max_grad_norm, ds.gradient_clipping, ds, "gradient_clipping", faults);
  merge(c, "bf16", c.bf16, ds.bf16, ds, "bf16.enabled", faults);
  merge(c, "fp16", c.fp16, ds.fp16, ds, "fp16.enabled", faults);
  merge(c, "learning_rate", c.learning_rate, ds.learning_rate, ds, "optimizer.params.lr", faults);
  merge(c, "weight_decay", c.weight_decay, ds.weight_decay, ds, "optimizer.params.weight_decay", faults);
  merge(c, "adam_epsilon", c.adam_epsilon, ds.adam_epsilon, ds, "optimizer.params.eps", faults);
  merge(c, "adam_beta1", c.adam_beta1, ds.adam_beta1, ds, "optimizer.params.betas", faults);
  merge(c, "adam_beta2", c.adam_beta2, ds.adam_beta2, ds, "optimizer.params.betas", faults);
  c.decays_everything = ds.optimizer_section;
  if (c.bf16 && c.fp16) faults.add(ds.path, "bf16 and fp16 are both enabled", "choose one of the two");
  faults.raise();
}

void check_trainable(const DeepSpeed& ds) {
  Faults faults;
  if (ds.stage != 3)
    faults.add(ds.stage_place, std::to_string(ds.stage) + " is not supported in this version",
               "set it to 3, which needs the least memory; the numbers are the same");
  for (const auto& [place, why] : ds.not_yet) faults.add(place, why);
  faults.raise();
}

void resolve_batch(Config& c, const DeepSpeed& ds, int64_t ranks) {
  if (!ds.train_batch_size) return;
  const int64_t total = *ds.train_batch_size, step = c.per_device_train_batch_size * ranks;
  if (c.is_default("gradient_accumulation_steps") && !ds.gradient_accumulation_steps && total % step == 0) {
    c.gradient_accumulation_steps = total / step;
    if (total != step) c.origins["gradient_accumulation_steps"] = ds.path;
    return;
  }
  if (step * c.gradient_accumulation_steps == total) return;
  throw InputError(ds.path + ": train_batch_size",
                   "micro-batch " + std::to_string(c.per_device_train_batch_size) + " x accumulation " +
                       std::to_string(c.gradient_accumulation_steps) + " x " + std::to_string(ranks) + (ranks == 1 ? " rank = " : " ranks = ") +
                       std::to_string(step * c.gradient_accumulation_steps) + ", but train_batch_size is " + std::to_string(total),
                   "write \"auto\", or numbers that fit");
}

}  // namespace llmtrain
