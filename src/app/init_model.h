// Makes a model with random weights as a Hugging Face folder: what `llmtrain init` does.
//
// Weights: matrices normal with config.json's initializer_range, norms 1, biases 0, each number a pure function of (seed, tensor name, element): the
// folder does not depend on the number of ranks. All ranks write; none holds more than one chunk.
// Thread rules: collective over the group; one thread.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "core/log.h"
#include "core/rank_group.h"

namespace llmtrain {

struct InitOptions {
  std::string source;          // a folder with config.json, a config.json, or ORG/NAME of Hugging Face's cache
  std::string out;             // the folder to be written
  uint64_t seed = 42;
  DType dtype = DType::float32;
  std::string tokenizer_from;  // text to learn a byte-level BPE tokenizer from; "" copies the tokenizer of `source`
  int64_t vocab_size = 0;      // of the learned tokenizer; 0: config.json's
  uint64_t max_shard_bytes = 5'000'000'000;
  bool force = false;          // write into a folder that is not empty
};

struct InitResult {
  int64_t parameters = 0;
  int64_t vocab_size = 0;
  uint64_t bytes = 0;  // of all tensors
  bool has_tokenizer = false;
};

// Collective. InputError for what a person got wrong, the same on every rank; nothing has been changed then.
InitResult init_model(const InitOptions& options, RankGroup& group, Log& log);

// The text of a dataset file, for learning a tokenizer: .json and .jsonl give all their strings, one a line (keys are left out), anything else is
// taken as it is. InputError naming the file.
std::string text_of_dataset(const std::string& path);

}  // namespace llmtrain
