// Adds the partial sums of groups of rows.
//
//   kernel              bytes moved               bound
//   add_partial_sums    4 groups columns read     latency: the partial sums mostly still lie in the L2 cache
#include "kernels/cuda/partial_sums.h"

#include "kernels/cuda/launch.h"

namespace llmtrain::cuda {
namespace {

constexpr int kColumns = 32, kLanes = 16;

// Sixteen threads share a column: each takes every sixteenth group in order, then their sums are added in order.
__global__ void add_partial_sums_kernel(const float* __restrict__ partial, int64_t groups, int64_t columns, float* __restrict__ out) {
  __shared__ float shared[kLanes][kColumns + 1];
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t g = threadIdx.y; g < groups; g += kLanes) sum += partial[g * columns + column];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int i = 1; i < kLanes; ++i) sum += shared[i][threadIdx.x];
  out[column] += sum;
}

}  // namespace

void add_partial_sums(cudaStream_t s, const float* partial, int64_t groups, int64_t columns, float* out) {
  launch(s, "sum of partial sums", {dim3(static_cast<unsigned>(ceil_div(columns, kColumns))), dim3(kColumns, kLanes)}, add_partial_sums_kernel,
         partial, groups, columns, out);
}

}  // namespace llmtrain::cuda
