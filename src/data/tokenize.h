// Turning the rows of datasets into the frames of a token store, by this rank's threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset_info.h"
#include "data/encode.h"
#include "data/mix.h"
#include "data/reference_random.h"
#include "data/report.h"
#include "data/store.h"

namespace llmtrain {

struct SourceFile;

// A dataset with its indexed files and the rows that are taken from it.
class DatasetSource {
 public:
  // Scans the files. InputError for what cannot be read. `samples`: where num_samples draws from; one state for all datasets of a run, in their order.
  DatasetSource(DatasetEntry entry, const DataOptions& options, NumpyLegacy& samples);
  ~DatasetSource();
  DatasetSource(DatasetSource&&) noexcept;
  const DatasetEntry& entry() const { return entry_; }
  uint64_t length() const { return length_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t hash() const;                         // of all rows that may be taken, in order
  const std::vector<SourceFile>& files() const { return files_; }
  // Where row `row` of this dataset lies: file and row in the file.
  std::pair<size_t, uint64_t> locate(uint64_t row) const;

 private:
  DatasetEntry entry_;
  void draw(uint64_t wanted, NumpyLegacy& samples);
  std::vector<SourceFile> files_;
  std::vector<uint32_t> drawn_;  // num_samples: which rows
  uint64_t total_ = 0, length_ = 0, bytes_ = 0;
};

// Everything that turning rows into tokens depends on. References must outlive the call.
struct TokenizeJob {
  const DataOptions& options;
  const std::vector<DatasetSource>& sources;
  const MixPlan& plan;
  const Tokenizer& tokenizer;
  const Template& tmpl;
  const SpecialTokens& tokens;
  std::string date;  // for tool lists
  int threads = 1;
};

PackKind pack_kind(const DataOptions& options);

// The runs of rows within which packs and blocks are formed: run i holds the rows [starts[i], starts[i + 1]) of the plan.
std::vector<uint64_t> row_runs(uint64_t rows, const DataOptions& options);

// Encodes the runs [begin, end) in order into `writer`. Returns the report of these rows. Memory: a few runs at a time. InputError for broken
// rows (of several, the first), OperationError for I/O.
StoreReport tokenize_runs(const TokenizeJob& job, const std::vector<uint64_t>& starts, size_t begin, size_t end, PartWriter& writer);

}  // namespace llmtrain
