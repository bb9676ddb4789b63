// A tiled matrix product that takes any shape (gemm_fallback.h).
//
//   kernel      bytes moved                                        bound
//   multiply    inputs (m n k / 64) (1 / m-tile + 1 / n-tile)      float32 units, no tensor cores: a few TFLOP/s. For shapes that are small anyway
#include "kernels/cuda/gemm_fallback.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256;  // a thread has 4 x 4 sums of the block's 64 x 64

// Element (i, j) of a matrix is at i * row + j * column.
struct Strides {
  int64_t row, column;
};

// A tile of op(x): shared[p][i] = x(first + i, p0 + p), 0 outside.
template <class X>
__device__ __forceinline__ void load_tile(const X* __restrict__ x, Strides strides, int64_t rows, int64_t k, int64_t first, int64_t p0,
                                          float (*shared)[kTile + 1]) {
  const int thread = static_cast<int>(threadIdx.x);
  const bool along_k = strides.column == 1;  // neighbouring threads read neighbouring addresses
  for (int e = thread; e < kTile * kDepth; e += kThreads) {
    const int i = along_k ? e / kDepth : e % kTile, p = along_k ? e % kDepth : e / kTile;
    const bool inside = first + i < rows && p0 + p < k;
    shared[p][i] = inside ? widen(x[(first + i) * strides.row + (p0 + p) * strides.column]) : 0.0f;
  }
}

template <class In, class Out>
__global__ void multiply_kernel(const In* __restrict__ a, Strides a_strides, const In* __restrict__ b, Strides b_strides, const In* __restrict__ bias,
                                Out* __restrict__ c, int64_t m, int64_t n, int64_t k, bool accumulate) {
  __shared__ float a_tile[kDepth][kTile + 1], b_tile[kDepth][kTile + 1];
  const int64_t row0 = int64_t{blockIdx.y} * kTile, column0 = int64_t{blockIdx.x} * kTile;
  const int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
  float sums[4][4] = {};
  for (int64_t p0 = 0; p0 < k; p0 += kDepth) {
    load_tile(a, a_strides, m, k, row0, p0, a_tile);
    load_tile(b, b_strides, n, k, column0, p0, b_tile);
    __syncthreads();
    for (int p = 0; p < kDepth; ++p)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] += a_tile[p][y + 16 * i] * b_tile[p][x + 16 * j];
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const int64_t row = row0 + y + 16 * i, column = column0 + x + 16 * j;
      if (row >= m || column >= n) continue;
      float sum = sums[i][j];
      if (bias != nullptr) sum += widen(bias[column]);
      if (accumulate) sum += widen(c[row * n + column]);
      c[row * n + column] = narrow<Out>(sum);
    }
  }
}

}  // namespace

void multiply_any_shape(cudaStream_t s, const GemmShape& g, const void* a, const void* b, const void* bias, void* c) {
  if (g.m == 0 || g.n == 0 || (g.k == 0 && g.accumulate && !g.bias)) return;
  // op(a) is [m, k]; op(b) is read as its transpose [n, k], so that both tiles are loaded alike.
  const Strides a_strides = g.a_transposed ? Strides{1, g.m} : Strides{g.k, 1}, b_strides = g.b_transposed ? Strides{g.k, 1} : Strides{1, g.n};
  LLMTRAIN_ASSERT(ceil_div(g.m, kTile) <= 65535, "more rows than a grid has");
  const Grid grid = {dim3(static_cast<unsigned>(ceil_div(g.n, kTile)), static_cast<unsigned>(ceil_div(g.m, kTile))), dim3(kThreads)};
  with_compute_type(g.inputs, [&](auto in) {
    with_compute_type(g.output, [&](auto out) {
      using In = decltype(in);
      using Out = decltype(out);
      launch(s, "multiply_any_shape", grid, multiply_kernel<In, Out>, static_cast<const In*>(a), a_strides, static_cast<const In*>(b), b_strides,
             static_cast<const In*>(g.bias ? bias : nullptr), static_cast<Out*>(c), g.m, g.n, g.k, g.accumulate);
    });
  });
}

}  // namespace llmtrain::cuda
