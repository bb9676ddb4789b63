// Cross entropy of rows of logits, and its gradient in their place.
//
//   kernel           bytes moved                                                                 bound
//   cross_entropy    T V X read; with a gradient read again (partly from the L2 cache) and       memory
//                    written
#include <cfloat>

#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {
namespace {

constexpr int kThreads = 1024;

// Accesses that a thread has under way at once, times W elements.
template <int W>
inline constexpr int kBatch = W == 1 ? 8 : 2;

// e^x for x <= 0; what is below 2^-126 becomes 0.
__device__ __forceinline__ float exp_of(float x) { return ptx::exp2_approximate(x * 1.4426950408889634f); }

// Largest logit so far, and the sum of exp(logit - largest). `largest` begins as the lowest finite number, so that logits of minus infinity weigh
// nothing instead of giving a NaN; a NaN among the logits makes the sum one.
struct Softmax {
  float largest = -FLT_MAX, sum = 0;
};

// What this thread's elements of a row add up to, in one pass over them (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867).
template <class X, int W>
__device__ __forceinline__ Softmax read_row(const X* row, int64_t vocabulary) {
  constexpr int B = kBatch<W>;
  Softmax soft;
  const int64_t stride = int64_t{blockDim.x} * W;
  for (int64_t first = int64_t{threadIdx.x} * W; first < vocabulary; first += B * stride) {
    float x[B][W];
#pragma unroll
    for (int b = 0; b < B; ++b) {
      if (first + b * stride < vocabulary) {
        load_elements(row + first + b * stride, x[b]);
      } else {
#pragma unroll
        for (int i = 0; i < W; ++i) x[b][i] = -INFINITY;
      }
    }
    float largest = soft.largest;
#pragma unroll
    for (int b = 0; b < B; ++b) {
#pragma unroll
      for (int i = 0; i < W; ++i) largest = fmaxf(largest, x[b][i]);
    }
    if (largest > soft.largest) {
      soft.sum *= exp_of(soft.largest - largest);
      soft.largest = largest;
    }
#pragma unroll
    for (int b = 0; b < B; ++b) {
#pragma unroll
      for (int i = 0; i < W; ++i) soft.sum += exp_of(x[b][i] - largest);
    }
  }
  return soft;
}

template <class X, int W>
__device__ __forceinline__ void write_gradient(X* row, int64_t vocabulary, float largest, float factor) {
  constexpr int B = kBatch<W>;
  const int64_t stride = int64_t{blockDim.x} * W;
  for (int64_t first = int64_t{threadIdx.x} * W; first < vocabulary; first += B * stride) {
    float x[B][W];
#pragma unroll
    for (int b = 0; b < B; ++b)
      if (first + b * stride < vocabulary) load_elements(row + first + b * stride, x[b]);
#pragma unroll
    for (int b = 0; b < B; ++b) {
      if (first + b * stride >= vocabulary) continue;
#pragma unroll
      for (int i = 0; i < W; ++i) x[b][i] = exp_of(x[b][i] - largest) * factor;
      store_elements(row + first + b * stride, x[b]);
    }
  }
}

template <class X, int W>
__device__ __forceinline__ void clear_row(X* row, int64_t vocabulary) {
  const float zero[W] = {};
  for (int64_t j = int64_t{threadIdx.x} * W; j < vocabulary; j += int64_t{blockDim.x} * W) store_elements(row + j, zero);
}

// A block for each row.
template <class X, int W>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(X* __restrict__ logits, const int32_t* __restrict__ labels, float scale, bool gradient, float* __restrict__ losses,
                         int64_t vocabulary) {
  __shared__ float shared[32];
  __shared__ double shared_sums[32];
  X* row = logits + blockIdx.x * vocabulary;
  const int32_t label = labels[blockIdx.x];
  if (label == kIgnoredLabel) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    if (gradient) clear_row<X, W>(row, vocabulary);
    return;
  }
  if (label < 0 || label >= vocabulary) __trap();  // a broken invariant, as on the CPU
  const double target = static_cast<double>(widen(row[label]));
  const Softmax soft = read_row<X, W>(row, vocabulary);
  const float largest = block_max(soft.largest, shared);
  // In double: where one logit outweighs all others, what is left of 1 - softmax are the small sums of the other threads.
  const double sum = block_sum(static_cast<double>(soft.sum * exp_of(soft.largest - largest)), shared_sums);
  const double shifted = target - static_cast<double>(largest);
  if (threadIdx.x == 0) losses[blockIdx.x] = static_cast<float>(log(sum) - shifted);
  if (!gradient) return;
  write_gradient<X, W>(row, vocabulary, largest, static_cast<float>(static_cast<double>(scale) / sum));
  __syncthreads();
  // softmax - 1 of the label, in double for the same reason.
  if (threadIdx.x == 0) row[label] = narrow<X>(static_cast<float>((exp(shifted) / sum - 1.0) * static_cast<double>(scale)));
}

}  // namespace

void cross_entropy(cudaStream_t s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses) {
  const int64_t tokens = logits.dim(0), vocabulary = logits.dim(1);
  with_compute_type(logits.dtype, [&](auto type) {
    using X = decltype(type);
    with_width<X>(vectors_fit<X>(vocabulary, logits.as<X>()), [&](auto width) {
      constexpr int W = decltype(width)::value;
      const unsigned threads = whole_warps(ceil_div(vocabulary, W * kBatch<W>), kThreads);
      launch(s, "cross_entropy", {dim3(static_cast<unsigned>(tokens)), dim3(threads)}, cross_entropy_kernel<X, W>, logits.as<X>(),
             labels.as<int32_t>(), scale, gradient, losses.as<float>(), vocabulary);
    });
  });
}

}  // namespace llmtrain::cuda
