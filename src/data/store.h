// The token store: rows as ids with trained spans, in memory-mapped files, read-only once written.
//
// A store is a folder: manifest.json and one part file per rank that wrote it. A part is a header and frames; a frame holds the sequences of a run
// of rows with a checksum (XXH3). A row is one sequence, or two (chosen, rejected) in a store of rankings. The order of rows does not depend on how
// many ranks wrote or read them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "data/encode.h"

namespace llmtrain {

enum class PackKind : uint8_t {
  none,    // a row is a row
  plain,   // packs whose samples attend to each other; positions restart
  neat,    // packs whose samples do not
  blocks,  // pretraining text cut into blocks of equal length
};
const char* name_of(PackKind kind);

// What manifest.json says about a store.
struct StoreInfo {
  std::string key;                 // hash of everything that decides the ids, 16 hex digits
  bool ranking = false;
  PackKind pack = PackKind::none;
  int64_t cutoff_len = 0;          // as the person wrote it: the length to which packs are padded
  int32_t eos_id = -1, pad_id = -1;
  uint64_t rows = 0;
  Json report;                     // report.h
};

// A sequence. Views into the store.
struct RowView {
  std::span<const int32_t> ids;
  std::span<const Span> trained;
  std::span<const uint32_t> restarts;  // packs: where positions begin anew, 0 included
};

// Sequences on their way to disk.
struct Frame {
  std::vector<int32_t> ids;
  std::vector<Span> spans;
  std::vector<uint32_t> restarts, ids_end, spans_end, restarts_end;  // the ends count from the frame's beginning
  void add(const Sequence& sequence);
  size_t sequences() const { return ids_end.size(); }
  void clear();
};

// Appends frames to a part file. OperationError for I/O.
class PartWriter {
 public:
  explicit PartWriter(const std::string& path);
  void append(const Frame& frame);
  void finish();  // fsync, close
  uint64_t bytes() const { return offset_; }

 private:
  File file_;
  uint64_t offset_ = 0;
};

class TokenStore {
 public:
  TokenStore() = default;
  // InputError naming what is missing or damaged. `verify`: check the checksums of all frames too.
  static TokenStore open(const std::string& folder, bool verify);

  size_t size() const;
  bool empty() const { return size() == 0; }
  const StoreInfo& info() const;
  RowView row(size_t i) const;              // the chosen answer of a ranking
  RowView rejected(size_t i) const;         // rankings only
  uint64_t tokens(size_t i) const;          // of both answers in a ranking
  uint64_t trained_tokens(size_t i) const;  // labels that are not -100, counted before the shift by one
  // What LLaMA-Factory's row has with its padding: cutoff_len for packs, else the number of tokens (of the longer answer).
  uint64_t padded_tokens(size_t i) const;

  // Lets the system take back the pages read so far. Views stay valid.
  void forget_pages() const;

 private:
  struct Data;
  RowView sequence(uint64_t index) const;
  std::shared_ptr<const Data> data_;
};

Json manifest_json(const StoreInfo& info, const std::vector<std::string>& parts, const std::vector<uint64_t>& part_bytes);

// One line a row, as {"ids": …, "trained": …}, store after store: what will be trained, for people and for comparison with LLaMA-Factory's rows. Packs
// are filled with the pad id to cutoff_len. OperationError; the file is complete or absent.
void write_golden_lines(const std::vector<TokenStore>& stores, const std::string& path);
inline void write_golden_lines(const TokenStore& store, const std::string& path) { write_golden_lines(std::vector<TokenStore>{store}, path); }

}  // namespace llmtrain
