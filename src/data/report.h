// What became of the rows of each dataset: used, dropped and why, cut, tokens. Kept in the token store's manifest, so that a run which finds its
// store ready reports the same.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"

namespace llmtrain {

class Log;

// Rows with one fate, and the first of them. Rows count from 1.
struct RowNote {
  uint64_t count = 0;
  uint64_t order = 0;  // of the first, among all rows of the run
  std::string file;
  uint64_t row = 0;
  void note(uint64_t at, const std::string& in_file, uint64_t in_row);
  void merge(const RowNote& other);
};

struct DatasetReport {
  std::string name;
  uint64_t rows = 0;              // taken from the files (max_samples, mixing)
  uint64_t used = 0;
  uint64_t tokens = 0;            // of the used rows, before packing; both answers of a ranking with their prompts
  uint64_t trained_tokens = 0;    // labels that are not -100, counted before the shift by one
  RowNote truncated;
  std::map<std::string, RowNote> dropped;  // by reason
  std::map<std::string, uint64_t> columns; // rows that have each column named in dataset_info.json

  void drop(const std::string& reason, uint64_t order, const std::string& file, uint64_t row);
  void merge(const DatasetReport& other);
  uint64_t dropped_rows() const { return rows - used; }
};

// One token store: what the trainer sees.
struct StoreReport {
  std::string name;               // "train", "eval" or the name of an evaluation set
  std::vector<DatasetReport> datasets;
  uint64_t rows = 0;              // of the store: packs and blocks count as one
  uint64_t tokens = 0;            // without padding
  uint64_t padding = 0;           // that LLaMA-Factory would add to packs; the engine has none
  uint64_t trained_tokens = 0;
  bool eos_trained = false;       // EOS carries loss somewhere
  std::string eos;
  void merge(const StoreReport& other);  // of another part of the same store: sums
};

Json report_json(const StoreReport& report);
// InputError with `where` for a damaged report.
StoreReport report_from_json(const Json& json, const std::string& where);
std::vector<std::string> report_lines(const StoreReport& report);
// The lines and the warnings (no EOS with loss, rows dropped) to the log.
void log_report(const StoreReport& report, Log& log);

}  // namespace llmtrain
