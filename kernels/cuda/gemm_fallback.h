// Matrix products for what cuBLASLt has no algorithm for: rows whose lengths are no multiple of the vectors it loads, an empty inner dimension.
#pragma once

#include <cuda_runtime.h>

#include "kernels/gemm_shape.h"

namespace llmtrain::cuda {

// c (+)= op(a) op(b) + bias, as GemmShape says, for every shape, k = 0 included. Sums are float32, in the order of k; one rounding at the end.
void multiply_any_shape(cudaStream_t s, const GemmShape& shape, const void* a, const void* b, const void* bias, void* c);

}  // namespace llmtrain::cuda
