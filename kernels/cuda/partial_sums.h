// The second pass of sums over rows: a first pass leaves one partial sum for each group of rows, and these are added in a fixed order. The number of
// groups follows from the shape, never from the GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace llmtrain::cuda {

// out[j] += sum over g of partial[g, j].   partial float32 [groups, columns]
void add_partial_sums(cudaStream_t s, const float* partial, int64_t groups, int64_t columns, float* out);

}  // namespace llmtrain::cuda
