// Sums and maxima over a warp and over a block, in an order fixed by the block's shape.
#pragma once

#include <cuda_runtime.h>

namespace llmtrain::cuda {

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, bits);
    x = other > x ? other : x;
  }
  return x;
}

// The sum over the block, on every thread. `shared`: 32 elements, free again after the next barrier of the block. The block is whole warps in x.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, warps = static_cast<int>(blockDim.x) / 32;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? shared[lane] : T(0));
  __syncthreads();
  return x;
}

__device__ __forceinline__ float block_max(float x, float* shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, warps = static_cast<int>(blockDim.x) / 32;
  x = warp_max(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_max(lane < warps ? shared[lane] : shared[0]);
  __syncthreads();
  return x;
}

}  // namespace llmtrain::cuda
