// dataset_info.json: what each dataset name means. LLaMA-Factory's format, its trap included: where an entry has "columns" (or "tags"), every
// column (tag) that it does not list is absent, not its default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/options.h"

namespace llmtrain {

class Log;

enum class Formatting : uint8_t { alpaca, sharegpt, openai };

struct DatasetEntry {
  using Name = std::optional<std::string>;
  std::string name;
  std::vector<std::string> files;            // in the order in which their rows follow; a folder's files by name
  Formatting formatting = Formatting::alpaca;
  bool ranking = false;
  std::optional<uint64_t> num_samples;       // so many rows, drawn at random
  // columns
  Name prompt = "instruction", query = "input", response = "output", history;
  Name messages = "conversations";
  Name system, tools, chosen, rejected, kto_tag, images, videos, audios;
  bool lists_columns = false;
  // tags
  Name role_tag = "from", content_tag = "value", user_tag = "human", assistant_tag = "gpt", observation_tag = "observation",
       function_tag = "function_call", system_tag = "system";
};

// The entries of `names` in dataset_dir/dataset_info.json, checked: the files exist, are of one kind, and suit the stage. InputError otherwise:
// unknown names with the nearest known one, hub datasets with the advice to download, wrong types with the key.
std::vector<DatasetEntry> read_dataset_info(const std::string& dataset_dir, const std::vector<std::string>& names, Stage stage, Log& log);
// The same without looking for the data files (`llmtrain config --no-files`).
void check_dataset_names(const std::string& dataset_dir, const std::vector<std::string>& names, Stage stage, Log& log);

}  // namespace llmtrain
