// Casts, additions, sums and the bias gradient.
//
//   kernel          bytes moved                         bound
//   cast, add       read and written elements, once     memory
//   sum             4 n read                            memory
//   bias_backward   T N X read, small writes            memory
#include <algorithm>

#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {
namespace {

constexpr int kThreads = 256;

// How many blocks add up n elements: it follows from n alone, as the order of a sum must not depend on the GPU.
constexpr int kMostSumBlocks = 512, kSumPerThread = 8;
unsigned sum_blocks(int64_t n) { return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(n, kThreads * kSumPerThread), 1, kMostSumBlocks)); }

// Four elements at a time through float4 or pairs of words; the rest one by one.
template <class From, class To>
__global__ void cast_kernel(const From* __restrict__ from, To* __restrict__ to, int64_t n, bool vectors) {
  const int64_t quads = vectors ? n / 4 : 0;
  for (int64_t q = first_item(); q < quads; q += item_stride()) {
    float x[4];
    if constexpr (sizeof(From) == 4) {
      const float4 v = __ldcs(reinterpret_cast<const float4*>(from) + q);
      x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
      const uint2 v = __ldcs(reinterpret_cast<const uint2*>(from) + q);
      x[0] = __uint_as_float(v.x << 16), x[1] = __uint_as_float(v.x & 0xffff0000u);
      x[2] = __uint_as_float(v.y << 16), x[3] = __uint_as_float(v.y & 0xffff0000u);
    }
    if constexpr (sizeof(To) == 4) {
      reinterpret_cast<float4*>(to)[q] = make_float4(x[0], x[1], x[2], x[3]);
    } else {
      reinterpret_cast<uint2*>(to)[q] = make_uint2(ptx::pack_bf16x2(x[0], x[1]), ptx::pack_bf16x2(x[2], x[3]));
    }
  }
  for (int64_t i = quads * 4 + first_item(); i < n; i += item_stride()) to[i] = narrow<To>(widen(from[i]));
}

template <class X>
__global__ void add_kernel(const X* __restrict__ x, X* __restrict__ y, int64_t n, bool vectors) {
  const int64_t groups = vectors ? n / kVector<X> : 0;
  for (int64_t g = first_item(); g < groups; g += item_stride()) {
    const Vector<X> a = load_streaming(x + g * kVector<X>);
    Vector<X> b = load(y + g * kVector<X>);
#pragma unroll
    for (int i = 0; i < kVector<X>; ++i) b.v[i] += a.v[i];
    store(y + g * kVector<X>, b);
  }
  for (int64_t i = groups * kVector<X> + first_item(); i < n; i += item_stride()) y[i] = narrow<X>(widen(y[i]) + widen(x[i]));
}

// Each block sums a fixed part of x in double, in the order of its threads; the second kernel adds the blocks in order.
__global__ void sum_kernel(const float* __restrict__ x, int64_t n, bool squares, double* __restrict__ partial) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    const double value = static_cast<double>(x[i]);
    sum += squares ? value * value : value;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void sum_partial_kernel(const double* __restrict__ partial, int count, double* __restrict__ result) {
  __shared__ double shared[32];
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *result = sum;
}

constexpr int kBiasGroups = 64;  // groups of rows whose partial sums are added in order

// Block (c, g): columns [32 c, 32 c + 32), the rows of group g. Eight threads share a column; each takes every eighth row of the group.
template <class X>
__global__ void bias_partial_kernel(const X* __restrict__ dy, int64_t tokens, int64_t features, float* __restrict__ partial) {
  __shared__ float shared[8][33];
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
  const int64_t rows = (tokens + kBiasGroups - 1) / kBiasGroups, begin = blockIdx.y * rows, end = min(begin + rows, tokens);
  float sum = 0;
  if (column < features)
    for (int64_t t = begin + threadIdx.y; t < end; t += 8) sum += widen(dy[t * features + column]);
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < features) {
    for (int i = 1; i < 8; ++i) sum += shared[i][threadIdx.x];
    partial[blockIdx.y * features + column] = sum;
  }
}

}  // namespace

void cast(cudaStream_t s, TensorView from, TensorView to) {
  const int64_t n = from.elements();
  if (n == 0) return;
  with_compute_type(from.dtype, [&](auto source) {
    with_compute_type(to.dtype, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      const bool vectors = vectors_fit<float>(0, from.as<From>(), to.as<To>());
      launch(s, "cast", elementwise_grid(ceil_div(n, 4)), cast_kernel<From, To>, from.as<From>(), to.as<To>(), n, vectors);
    });
  });
}

void add(cudaStream_t s, TensorView x, TensorView y) {
  const int64_t n = x.elements();
  if (n == 0) return;
  with_compute_type(x.dtype, [&](auto type) {
    using X = decltype(type);
    launch(s, "add", elementwise_grid(ceil_div(n, kVector<X>)), add_kernel<X>, x.as<X>(), y.as<X>(), n, vectors_fit<X>(0, x.as<X>(), y.as<X>()));
  });
}

size_t sum_scratch() { return padded(kMostSumBlocks * sizeof(double)); }

void sum(cudaStream_t s, void* scratch, TensorView x, bool squares, double* result) {
  auto* partial = static_cast<double*>(scratch);
  const unsigned blocks = sum_blocks(x.elements());
  launch(s, "sum", {dim3(blocks), dim3(kThreads)}, sum_kernel, x.as<float>(), x.elements(), squares, partial);
  launch(s, "sum of partial sums", {dim3(1), dim3(kThreads)}, sum_partial_kernel, partial, static_cast<int>(blocks), result);
}

size_t bias_backward_scratch(int64_t features) { return padded(static_cast<size_t>(kBiasGroups * features) * sizeof(float)); }

void bias_backward(cudaStream_t s, Workspace& workspace, TensorView dy, TensorView db) {
  const int64_t tokens = dy.dim(0), features = dy.dim(1);
  auto* partial = reinterpret_cast<float*>(workspace.get(bias_backward_scratch(features)));
  with_compute_type(dy.dtype, [&](auto type) {
    using X = decltype(type);
    launch(s, "bias_backward", {dim3(static_cast<unsigned>(ceil_div(features, 32)), kBiasGroups), dim3(32, 8)}, bias_partial_kernel<X>, dy.as<X>(),
           tokens, features, partial);
  });
  add_partial_sums(s, partial, kBiasGroups, features, db.as<float>());
}

}  // namespace llmtrain::cuda
