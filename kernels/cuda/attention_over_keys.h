// The forward pass over keys and values that lie anywhere: attention.cu for packed batches, attention_cached.cu for a prompt after cached tokens.
#pragma once

#include <cuda_runtime.h>

#include "core/dtype.h"
#include "kernels/cuda/sequence_map.h"
#include "kernels/kernels.h"

namespace llmtrain::cuda {

struct AttentionOverKeys {
  DType type;
  const void *q, *k, *v;  // the first head of each, of rows `q_row` and `kv_row` elements apart
  int64_t q_row, kv_row;
  void* out;   // [queries, heads * head_dim]
  float* lse;  // [queries, heads], or null
  HeadLayout layout;
  float scale;
  int window;                           // 0 or less: none
  const SequenceTile* tiles = nullptr;  // device; null: one sequence of `queries` queries that stand after `past` keys
  int tile_count = 0;                   // of kSequenceTile queries
  int longest = 0;                      // most keys of a sequence
  int queries = 0, past = 0;
};

void attention_over_keys(cudaStream_t s, const AttentionOverKeys& call);

}  // namespace llmtrain::cuda
