// Starting kernels, and checking what CUDA's calls return.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "core/error.h"
#include "device/cuda/check.h"

namespace llmtrain::cuda {

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;  // dynamic shared memory of a block; above 48 KiB allow_shared() first
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Starts `kernel` on the stream. OperationError names the kernel where the launch is refused. An empty grid starts nothing.
template <class... P, class... A>
void launch(cudaStream_t stream, const char* name, Grid grid, void (*kernel)(P...), A&&... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<A>(arguments)...), name, __FILE__, __LINE__);
}

// Lets a kernel have more than 48 KiB of dynamic shared memory (at most what the device allows a block: 163 KiB on sm_80, 227 KiB on sm_90).
template <class... P>
void allow_shared(void (*kernel)(P...), size_t bytes) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

}  // namespace llmtrain::cuda
