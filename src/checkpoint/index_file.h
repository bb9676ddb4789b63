// index.h5: the model as one file. Virtual datasets (HDF5 1.10) map each tensor, under its Hugging Face name and in its logical shape, to the
// pieces in the ranks' shard files: /model/<name>, /adam_m/<name>, /adam_v/<name>. A missing shard reads as NaN, never as zeros.
#pragma once

#include <string>

#include "checkpoint/content.h"

namespace llmtrain {

// The bytes of the file. OperationError naming the HDF5 call. Not thread-safe (HDF5).
std::string build_index_file(const CheckpointContent& content);

}  // namespace llmtrain
