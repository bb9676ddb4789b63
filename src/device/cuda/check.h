// Every call of CUDA's runtime is checked: CUDA_CHECK(cudaMemcpyAsync(…)) throws OperationError with the call, file and line, and CUDA's own name and
// text of the error. (Rank and host are added where errors leave the program.)
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "core/error.h"

namespace llmtrain::cuda {

[[noreturn]] void fail(cudaError_t error, const char* call, const char* file, int line);

inline void check(cudaError_t error, const char* call, const char* file, int line) {
  if (error != cudaSuccess) fail(error, call, file, line);
}

}  // namespace llmtrain::cuda

#define CUDA_CHECK(call) ::llmtrain::cuda::check((call), #call, __FILE__, __LINE__)
