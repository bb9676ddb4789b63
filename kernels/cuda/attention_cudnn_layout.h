// Small kernels around cuDNN's attention: where sequences begin, in elements of each tensor, and gradients into dqkv's rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/tensor.h"
#include "kernels/kernels.h"

namespace llmtrain::cuda {

// For entry i of `entries` (attention_cudnn_shapes.h, AttentionOffsets) with b = cu_seqlens[min(i, count)]: qkv = b * row, q = b * Hq * D,
// kv = b * Hk * D, heads = b * Hq; length = that of sequence i, 0 where there is none. All device memory.
struct OffsetArrays {
  int64_t *qkv = nullptr, *q = nullptr, *kv = nullptr, *heads = nullptr;
  int32_t* length = nullptr;
};
void attention_offsets(cudaStream_t s, const int32_t* cu_seqlens, int64_t count, int64_t entries, HeadLayout layout, const OffsetArrays& out);

// Copies those of dq [T, Hq D], dk, dv [T, Hk D] (bfloat16, D a multiple of 8) that are not null into the columns of dqkv.
void place_gradients(cudaStream_t s, const void* dq, const void* dk, const void* dv, HeadLayout layout, TensorView dqkv);

}  // namespace llmtrain::cuda
