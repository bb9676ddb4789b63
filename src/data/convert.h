// From a row of a dataset file to messages: the converters alpaca, sharegpt and openai, with LLaMA-Factory's rules for what is a usable row.
#pragma once

#include <string>
#include <vector>

#include "data/dataset_info.h"
#include "data/templates.h"

namespace llmtrain {

class Row;

// The messages of one row. For sft `prompt` ends with a user or observation turn and `response` is one answer; for dpo the two answers are chosen
// and rejected.
struct Example {
  std::vector<Message> prompt;
  std::vector<Message> response;
  std::string system;
  std::string tools;  // JSON text of the tool list, "" where there is none
};

// RowError (tools.h) with the reason for a row that cannot be used.
void convert_row(const DatasetEntry& dataset, Stage stage, const Row& row, Example& example);

// The columns without which no row of a dataset is usable, and those that rows may lack, as dataset_info.json names them.
std::vector<std::string> required_columns(const DatasetEntry& dataset, Stage stage);
std::vector<std::string> optional_columns(const DatasetEntry& dataset);

}  // namespace llmtrain
