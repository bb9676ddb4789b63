#include "app/config_check.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/templates.h"
#include "optim/schedules.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxDatasetInfoBytes = size_t{64} << 20;

// The names must stand in dataset_info.json; what an entry says is checked by `data` and `train`.
void check_dataset_names(const Config& config) {
  if (config.dataset.empty() && config.eval_dataset.empty()) return;
  const std::string path = config.dataset_dir + "/dataset_info.json";
  if (!is_regular_file(path)) {
    throw InputError(config.origin("dataset_dir") + ": dataset_dir", "there is no " + path,
                     "name the folder that holds dataset_info.json, or add --no-files to check the keys only");
  }
  const Json info = parse_json_file(path, kMaxDatasetInfoBytes);
  if (!info.is_object()) throw InputError(path, "is not a JSON object", "each dataset is an entry \"name\": { … }");
  std::vector<std::string> known;
  for (const auto& [name, entry] : info.items()) known.push_back(name);
  for (const char* key : {"dataset", "eval_dataset"}) {
    for (const std::string& name : std::string(key) == "dataset" ? config.dataset : config.eval_dataset) {
      if (info.contains(name)) continue;
      throw InputError(config.origin(key) + ": " + key, "'" + name.substr(0, 80) + "' does not stand in " + path, "nearest: " + nearest(name, known));
    }
  }
}

// Arguments of the schedule: the schedule itself knows which it takes.
void check_schedule_arguments(const Config& config) {
  ScheduleOptions options;
  options.type = config.lr_scheduler_type;
  options.learning_rate = config.learning_rate;
  options.total_steps = 100;
  options.warmup_steps = warmup_steps_of(config, options.total_steps);
  options.kwargs = config.lr_scheduler_kwargs;
  options.where = config.origin("lr_scheduler_kwargs") + ": lr_scheduler_kwargs";
  Schedule::make(options);
}

// The place of the YAML before a message of another room, which does not know it.
void check_template(const Config& config) {
  if (!config.template_name) return;
  try {
    find_template(*config.template_name);
  } catch (const InputError& e) {
    throw InputError(config.origin("template"), e.what());
  }
}

}  // namespace

CheckedConfig check_configuration(const std::string& path, const std::vector<std::string>& overrides, bool files) {
  CheckedConfig result;
  result.config = load_config(path, overrides);
  check_trainable(result.config);
  check_template(result.config);
  check_schedule_arguments(result.config);
  result.notes = notes_of(result.config);
  if (!files) return result;
  check_dataset_names(result.config);
  if (!result.config.deepspeed) return result;
  result.deepspeed = read_deepspeed(*result.config.deepspeed);
  apply_deepspeed(result.config, *result.deepspeed);
  check_trainable(*result.deepspeed);
  check_trainable(result.config);  // again: precision may come from there
  result.notes.insert(result.notes.end(), result.deepspeed->notes.begin(), result.deepspeed->notes.end());
  if (result.config.decays_everything && result.config.weight_decay > 0)
    result.notes.push_back(*result.config.deepspeed + ": optimizer: weight decay applies to norms and biases too, as under DeepSpeed; without the section it does not");
  return result;
}

}  // namespace llmtrain
