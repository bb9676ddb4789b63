#include "train/runs/own_model.h"

#include <stdexcept>

namespace llmtrain::testing_support {
namespace {

constexpr const char* kConfig =
    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 80,
 "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "hidden_act": "silu", "tie_word_embeddings": false, "initializer_range": 0.05})";

constexpr const char* kYaml = R"(model_name_or_path: model
stage: sft
do_train: true
finetuning_type: full
template: llama3
dataset_dir: data
dataset: colours
cutoff_len: 96
output_dir: out
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 0.005
lr_scheduler_type: cosine
warmup_ratio: 0.1
num_train_epochs: 3
logging_steps: 1
save_strategy: "no"
progress: lines
)";

std::string rows() {
  const char* things[] = {"grass", "the sky", "snow", "coal", "a lemon", "a rose", "the sea", "sand", "a leaf", "milk", "a crow", "an orange"};
  const char* colours[] = {"green", "blue", "white", "black", "yellow", "red", "blue", "yellow", "green", "white", "black", "orange"};
  std::string text = "[";
  for (int i = 0; i < 36; ++i) {
    const std::string extra(static_cast<size_t>(i % 5), '!');  // rows of different lengths
    text += std::string(i ? ",\n" : "") + R"({"instruction": "What colour is )" + things[i % 12] + "?" + extra +
            R"(", "input": "", "output": "It is )" + colours[i % 12] + R"(."})";
  }
  return text + "]";
}

}  // namespace

OwnModel::OwnModel() {
  std::filesystem::create_directory(scratch_ / "data");
  write("config.json", kConfig);
  write("train.yaml", kYaml);
  write("data/colours.json", rows());
  write("data/dataset_info.json", R"({"colours": {"file_name": "colours.json"}})");
  RunOptions options;
  options.ranks = 0;
  options.folder = path();
  const RunOutcome outcome =
      run_llmtrain({"init", "config.json", "model", "--tokenizer-from", "data/colours.json", "--vocab-size", "320", "--seed", "5"}, options);
  if (outcome.exit_code != 0) throw std::runtime_error("llmtrain init failed: " + outcome.err);
}

RunOutcome OwnModel::train(const std::string& output, int ranks, std::vector<std::string> overrides,
                           const std::map<std::string, std::string>& environment) const {
  std::vector<std::string> words{"--config", "train.yaml", "output_dir=" + output};
  words.insert(words.end(), overrides.begin(), overrides.end());
  RunOptions options;
  options.ranks = ranks;
  options.folder = path();
  options.environment = environment;
  return run_llmtrain(words, options);
}

}  // namespace llmtrain::testing_support
