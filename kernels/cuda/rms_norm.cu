// RMSNorm, fused with the residual add, and its gradient.
//
//   kernel                   bytes moved                                                            bound
//   rms_norm_forward         T h X times: x, delta and sum where present, y                         memory
//   rms_norm_backward        T h X times: dy, x, dres where present, dx                             memory
//     + dweight              4 h G written and read once more (at most 16 MiB)                      L2 cache
//   …_any                    the same, rows read twice (the second time mostly from a cache)        issue rate: one element an access
#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {
namespace {

constexpr int kForwardVectors = 4;  // 16-byte vectors of a row that a thread keeps in registers
constexpr int kForwardThreads = 512, kBackwardThreads = 512, kAnyThreads = 256;

__device__ __forceinline__ float inverse_root(float square, int64_t hidden, float eps) {
  return 1.0f / sqrtf(square / static_cast<float>(hidden) + eps);
}

// A block for each row. The row stays in registers between the two passes, as rounded to X. x, delta and sum may be the same memory: a thread
// reads all its elements before it writes any.
template <class X>
__global__ void __launch_bounds__(kForwardThreads)
    rms_norm_forward_kernel(const X* x, const X* delta, const X* __restrict__ weight, float eps, X* sum, X* __restrict__ y, float* __restrict__ rstd,
                            int64_t hidden) {
  __shared__ float shared[32];
  const int64_t row = int64_t{blockIdx.x} * hidden;
  const int vectors = static_cast<int>(hidden / kVector<X>);
  uint4 kept[kForwardVectors], added[kForwardVectors];
#pragma unroll
  for (int k = 0; k < kForwardVectors; ++k) {
    const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
    if (v >= vectors) continue;
    kept[k] = reinterpret_cast<const uint4*>(x + row)[v];
    if (delta) added[k] = reinterpret_cast<const uint4*>(delta + row)[v];
  }
  float square = 0;
#pragma unroll
  for (int k = 0; k < kForwardVectors; ++k) {
    const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
    if (v >= vectors) continue;
    if (delta) {
      Vector<X> value = unpack(kept[k], X{});
      const Vector<X> addend = unpack(added[k], X{});
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i) value.v[i] += addend.v[i];
      kept[k] = pack(value);
    }
    if (sum) reinterpret_cast<uint4*>(sum + row)[v] = kept[k];
    const Vector<X> value = unpack(kept[k], X{});
#pragma unroll
    for (int i = 0; i < kVector<X>; ++i) square += value.v[i] * value.v[i];
  }
  const float r = inverse_root(block_sum(square, shared), hidden, eps);
  if (rstd && threadIdx.x == 0) rstd[blockIdx.x] = r;
#pragma unroll
  for (int k = 0; k < kForwardVectors; ++k) {
    const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
    if (v >= vectors) continue;
    Vector<X> value = unpack(kept[k], X{});
    const Vector<X> factor = load(weight + v * kVector<X>);
#pragma unroll
    for (int i = 0; i < kVector<X>; ++i) value.v[i] = factor.v[i] * (value.v[i] * r);
    store(y + row + v * kVector<X>, value);
  }
}

// Rows of any length and address.
template <class X>
__global__ void __launch_bounds__(kAnyThreads)
    rms_norm_forward_any_kernel(const X* x, const X* delta, const X* __restrict__ weight, float eps, X* sum, X* __restrict__ y,
                                float* __restrict__ rstd, int64_t hidden) {
  __shared__ float shared[32];
  const int64_t row = int64_t{blockIdx.x} * hidden;
  float square = 0;
  for (int64_t j = threadIdx.x; j < hidden; j += kAnyThreads) {
    X value = x[row + j];
    if (delta) value = narrow<X>(widen(value) + widen(delta[row + j]));
    if (sum) sum[row + j] = value;
    square += widen(value) * widen(value);
  }
  const float r = inverse_root(block_sum(square, shared), hidden, eps);
  if (rstd && threadIdx.x == 0) rstd[blockIdx.x] = r;
  const X* from = sum ? sum : x;  // what this thread has written itself
  for (int64_t j = threadIdx.x; j < hidden; j += kAnyThreads) y[row + j] = narrow<X>(widen(weight[j]) * (widen(from[row + j]) * r));
}

// A block for each group of `rows` rows. Where the weight's gradient is wanted, it leaves the group's part in partial [groups, hidden]. K vectors of a
// row a thread, all of whose loads are under way at once; the weight comes from the L1 cache each time, as registers are scarce. dx may be dres.
template <class X, int K, bool kWeight>
__global__ void __launch_bounds__(kBackwardThreads, K == 2 ? 2 : 1)
    rms_norm_backward_kernel(const X* __restrict__ dy, const X* __restrict__ x, const X* __restrict__ weight, const float* __restrict__ rstd,
                             const X* dres, X* dx, float* __restrict__ partial, int64_t tokens, int64_t rows, int64_t hidden) {
  __shared__ float shared[32];
  const int vectors = static_cast<int>(hidden / kVector<X>);
  float part[K][kVector<X>] = {};
  const int64_t end = min((blockIdx.x + int64_t{1}) * rows, tokens);
  for (int64_t t = blockIdx.x * rows; t < end; ++t) {
    uint4 gradient[K], value[K], past[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
      if (v >= vectors) continue;
      gradient[k] = __ldcs(reinterpret_cast<const uint4*>(dy + t * hidden) + v);
      value[k] = __ldcs(reinterpret_cast<const uint4*>(x + t * hidden) + v);
      if (dres) past[k] = reinterpret_cast<const uint4*>(dres + t * hidden)[v];
    }
    const float r = rstd[t];
    float dot = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
      if (v >= vectors) continue;
      const Vector<X> d = unpack(gradient[k], X{}), a = unpack(value[k], X{}), w = load(weight + v * kVector<X>);
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i) {
        const float product = d.v[i] * a.v[i];
        dot += product * w.v[i];
        if constexpr (kWeight) part[k][i] += product * r;
      }
    }
    const float along = -r * r * r * (block_sum(dot, shared) / static_cast<float>(hidden));
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
      if (v >= vectors) continue;
      const Vector<X> d = unpack(gradient[k], X{}), a = unpack(value[k], X{}), w = load(weight + v * kVector<X>);
      Vector<X> result;
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i) result.v[i] = a.v[i] * along + d.v[i] * w.v[i] * r;
      if (dres) {
        const Vector<X> p = unpack(past[k], X{});
#pragma unroll
        for (int i = 0; i < kVector<X>; ++i) result.v[i] += p.v[i];
      }
      store(dx + t * hidden + v * kVector<X>, result);
    }
  }
  if constexpr (kWeight) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int v = static_cast<int>(threadIdx.x + k * blockDim.x);
      if (v < vectors) store_elements(partial + blockIdx.x * hidden + v * kVector<X>, part[k]);
    }
  }
}

// Rows of any length and address. A thread adds up its columns' partial sums in memory; partial may be null.
template <class X>
__global__ void __launch_bounds__(kAnyThreads)
    rms_norm_backward_any_kernel(const X* __restrict__ dy, const X* __restrict__ x, const X* __restrict__ weight, const float* __restrict__ rstd,
                                 const X* dres, X* dx, float* __restrict__ partial, int64_t tokens, int64_t rows, int64_t hidden) {
  __shared__ float shared[32];
  const int64_t begin = blockIdx.x * rows, end = min(begin + rows, tokens);
  for (int64_t t = begin; t < end; ++t) {
    const float r = rstd[t];
    float dot = 0;
    for (int64_t j = threadIdx.x; j < hidden; j += kAnyThreads) {
      const float product = widen(dy[t * hidden + j]) * widen(x[t * hidden + j]);
      dot += product * widen(weight[j]);
      if (partial) {
        float* part = partial + blockIdx.x * hidden + j;
        *part = (t == begin ? 0.0f : *part) + product * r;
      }
    }
    const float along = -r * r * r * (block_sum(dot, shared) / static_cast<float>(hidden));
    for (int64_t j = threadIdx.x; j < hidden; j += kAnyThreads) {
      float result = widen(x[t * hidden + j]) * along + widen(dy[t * hidden + j]) * widen(weight[j]) * r;
      if (dres) result += widen(dres[t * hidden + j]);
      dx[t * hidden + j] = narrow<X>(result);
    }
  }
}

// How the rows of a backward pass are grouped: enough groups to fill a GPU with blocks of this hidden size, few enough for partial sums of 8 MiB, and
// at least 8 rows in each.
constexpr int64_t kSmallestGroup = 8;
int64_t most_groups(int64_t hidden) { return std::clamp<int64_t>((int64_t{1} << 21) / std::max<int64_t>(hidden, 1), 128, 2048); }
int64_t rows_of_group(int64_t tokens, int64_t hidden) { return std::max(kSmallestGroup, ceil_div(tokens, most_groups(hidden))); }

struct BackwardCall {
  cudaStream_t stream;
  TensorView dy, x, weight, rstd, dres, dx;
  float* partial;  // null without the weight's gradient
  int64_t tokens, hidden, rows, groups;
};

template <class X, class... P>
void launch_backward(const BackwardCall& c, unsigned threads, void (*kernel)(P...)) {
  launch(c.stream, "rms_norm_backward", {dim3(static_cast<unsigned>(c.groups)), dim3(threads)}, kernel, c.dy.as<X>(), c.x.as<X>(), c.weight.as<X>(),
         c.rstd.as<float>(), c.dres.as<X>(), c.dx.as<X>(), c.partial, c.tokens, c.rows, c.hidden);
}

template <class X, int K>
void launch_vectors(const BackwardCall& c, unsigned threads) {
  if (c.partial) return launch_backward<X>(c, threads, rms_norm_backward_kernel<X, K, true>);
  launch_backward<X>(c, threads, rms_norm_backward_kernel<X, K, false>);
}

}  // namespace

void rms_norm_forward(cudaStream_t s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y, TensorView rstd) {
  const int64_t tokens = x.dim(0), hidden = x.dim(1);
  if (!delta && sum.data == x.data) sum = TensorView();  // it is there already
  with_compute_type(x.dtype, [&](auto type) {
    using X = decltype(type);
    const int64_t vectors = hidden / kVector<X>;
    const bool fits = vectors_fit<X>(hidden, x.as<X>(), delta.as<X>(), weight.as<X>(), sum.as<X>(), y.as<X>()) &&
                      vectors <= int64_t{kForwardVectors} * kForwardThreads;
    launch(s, "rms_norm_forward",
           {dim3(static_cast<unsigned>(tokens)), dim3(fits ? whole_warps(ceil_div(vectors, kForwardVectors), kForwardThreads) : kAnyThreads)},
           fits ? rms_norm_forward_kernel<X> : rms_norm_forward_any_kernel<X>, x.as<X>(), delta.as<X>(), weight.as<X>(), eps, sum.as<X>(), y.as<X>(),
           rstd.as<float>(), hidden);
  });
}

size_t rms_norm_backward_scratch(int64_t hidden) { return padded(static_cast<size_t>(most_groups(hidden) * hidden) * sizeof(float)); }

void rms_norm_backward(cudaStream_t s, Workspace& workspace, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres,
                       TensorView dx, TensorView dweight) {
  const int64_t tokens = x.dim(0), hidden = x.dim(1), rows = rows_of_group(tokens, hidden);
  float* partial = dweight ? reinterpret_cast<float*>(workspace.get(rms_norm_backward_scratch(hidden))) : nullptr;
  const BackwardCall call{s, dy, x, weight, rstd, dres, dx, partial, tokens, hidden, rows, ceil_div(tokens, rows)};
  with_compute_type(x.dtype, [&](auto type) {
    using X = decltype(type);
    const int64_t vectors = hidden / kVector<X>;
    const bool fits = vectors_fit<X>(hidden, dy.as<X>(), x.as<X>(), weight.as<X>(), dres.as<X>(), dx.as<X>(), partial);
    if (fits && vectors <= 2 * kBackwardThreads) return launch_vectors<X, 2>(call, whole_warps(ceil_div(vectors, 2), kBackwardThreads));
    if (fits && vectors <= 4 * kBackwardThreads) return launch_vectors<X, 4>(call, whole_warps(ceil_div(vectors, 4), kBackwardThreads));
    launch_backward<X>(call, kAnyThreads, rms_norm_backward_any_kernel<X>);
  });
  if (dweight) add_partial_sums(s, partial, call.groups, hidden, dweight.as<float>());
}

}  // namespace llmtrain::cuda
