// Copies a model into a Hugging Face folder of another element type or shard size: what `llmtrain convert` does. Streams: memory does not
// depend on the model's size. All ranks read and write their own pieces.
// Thread rules: collective over the group; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "core/log.h"
#include "core/rank_group.h"
#include "hf/export.h"

namespace llmtrain {

struct ConvertOptions {
  std::string source;          // a Hugging Face folder, or ORG/NAME of its cache
  std::string out;             // the folder to be written
  std::optional<DType> dtype;  // float32, bfloat16 or float16; none: as the source is stored
  uint64_t max_shard_bytes = kDefaultMaxShardBytes;
  bool force = false;          // write into a folder that is not empty
};

struct ConvertResult {
  int64_t parameters = 0;
  uint64_t bytes = 0;  // of all tensors
  size_t files = 0;
  DType dtype = DType::float32;
};

// Collective. InputError for what a person got wrong, the same on every rank; nothing has been changed then.
ConvertResult convert_model(const ConvertOptions& options, RankGroup& group, Log& log);

}  // namespace llmtrain
