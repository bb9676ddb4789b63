// RMSNorm of each query and key head (Qwen3), and its gradient.
//
//   kernel              bytes moved                                             bound
//   qk_norm_forward     2 T (Hq + 2 Hk) D X                                     memory
//   qk_norm_backward    3 T (Hq + Hk) D X (dqkv read and written, qkv read)     memory
//     + weights         8 D G written and read once more (small)                L2 cache
#include <bit>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {
namespace {

constexpr int kForwardThreads = 512, kBackwardThreads = 256;
constexpr int64_t kGroups = 512, kSmallestGroup = 4;  // of tokens, for the weights' gradients
constexpr int kLargestHead = 256;                     // as attention's

// A head belongs to a team of 2^i lanes of a warp. Each lane has K times W neighbouring elements of it: column (k team + lane) W.
template <class X, int W>
inline constexpr int kPieces = W == 1 ? 8 : 2;

template <class X, int W>
int team_size(int head_dim) {
  return static_cast<int>(std::min(32u, std::bit_ceil(static_cast<unsigned>(ceil_div(head_dim, W * kPieces<X, W>)))));
}

__device__ __forceinline__ float team_sum(float x, int team) {
  for (int bits = team / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
  return x;
}

// A block for each token. Heads of v are copied.
template <class X, int W>
__global__ void __launch_bounds__(kForwardThreads)
    qk_norm_forward_kernel(const X* __restrict__ qkv, const X* __restrict__ q_weight, const X* __restrict__ k_weight, float eps, int heads,
                           int kv_heads, int head_dim, int team, X* __restrict__ out, float* __restrict__ rstd) {
  constexpr int K = kPieces<X, W>;
  const int lane = static_cast<int>(threadIdx.x) % team, teams = static_cast<int>(blockDim.x) / team, normed = heads + kv_heads,
            all = normed + kv_heads;
  const int64_t t = blockIdx.x;
  for (int first = 0; first < all; first += teams) {
    const int head = first + static_cast<int>(threadIdx.x) / team;
    const int64_t at = (t * all + head) * head_dim;
    float x[K][W];
    float square = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int column = (k * team + lane) * W;
      if (head >= all || column >= head_dim) continue;
      load_elements(qkv + at + column, x[k]);
#pragma unroll
      for (int i = 0; i < W; ++i) square += x[k][i] * x[k][i];
    }
    const float r = 1.0f / sqrtf(team_sum(square, team) / static_cast<float>(head_dim) + eps);
    if (head < normed && lane == 0) rstd[t * normed + head] = r;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int column = (k * team + lane) * W;
      if (head >= all || column >= head_dim) continue;
      if (head < normed) {
        float weight[W];
        load_elements((head < heads ? q_weight : k_weight) + column, weight);
#pragma unroll
        for (int i = 0; i < W; ++i) x[k][i] = weight[i] * (x[k][i] * r);
      }
      store_elements(out + at + column, x[k]);
    }
  }
}

template <class X>
struct HeadGradient {
  X* dqkv;
  const X *qkv, *weight;
  const float* rstd;
  int first, count, head_dim, all, normed;  // heads [first, first + count) of `all`, of which the first `normed` are normalised
};

// The heads of one kind (q or k) of the tokens [begin, end): the teams of the block share them. Leaves the team's part of the weight's gradient in `part`.
template <class X, int W, int K>
__device__ __forceinline__ void head_gradients(const HeadGradient<X>& h, int team, int64_t begin, int64_t end, float (&part)[K][W]) {
  const int lane = static_cast<int>(threadIdx.x) % team, mine = static_cast<int>(threadIdx.x) / team, teams = static_cast<int>(blockDim.x) / team;
  float weight[K][W];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int column = (k * team + lane) * W;
    if (column < h.head_dim) load_elements(h.weight + column, weight[k]);
  }
  const int64_t items = (end - begin) * h.count;
  int64_t t = begin + mine / h.count;
  int head = mine % h.count;
  for (int64_t item = 0; item < items; item += teams) {
    const bool present = item + mine < items;
    const int64_t at = (t * h.all + h.first + head) * h.head_dim;
    const float r = present ? h.rstd[t * h.normed + h.first + head] : 0.0f;
    Raw<X, W> gradients[K], values[K];
    float dot = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int column = (k * team + lane) * W;
      if (!present || column >= h.head_dim) continue;
      gradients[k] = load_raw<W>(h.dqkv + at + column);
      values[k] = load_raw<W>(h.qkv + at + column);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (!present || (k * team + lane) * W >= h.head_dim) continue;
      float d[W], x[W];
      widen_raw<X, W>(gradients[k], d);
      widen_raw<X, W>(values[k], x);
#pragma unroll
      for (int i = 0; i < W; ++i) {
        const float product = d[i] * x[i];
        dot += product * weight[k][i];
        part[k][i] += product * r;
      }
    }
    const float along = -r * r * r * (team_sum(dot, team) / static_cast<float>(h.head_dim));
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int column = (k * team + lane) * W;
      if (!present || column >= h.head_dim) continue;
      float d[W], x[W];
      widen_raw<X, W>(gradients[k], d);
      widen_raw<X, W>(values[k], x);
#pragma unroll
      for (int i = 0; i < W; ++i) d[i] = x[i] * along + d[i] * weight[k][i] * r;
      store_elements(h.dqkv + at + column, d);
    }
    t += teams / h.count;
    head += teams % h.count;
    if (head >= h.count) {
      head -= h.count;
      ++t;
    }
  }
}

// A block for each group of `rows` tokens: its q heads, then its k heads. The sums over the block's teams are taken in their order and left in partial
// [2 (q, k), groups, head_dim], which may be null.
template <class X, int W>
__global__ void __launch_bounds__(kBackwardThreads)
    qk_norm_backward_kernel(X* dqkv, const X* __restrict__ qkv, const X* __restrict__ q_weight, const X* __restrict__ k_weight,
                            const float* __restrict__ rstd, int heads, int kv_heads, int head_dim, int team, float* __restrict__ partial,
                            int64_t tokens, int64_t rows) {
  constexpr int K = kPieces<X, W>;
  float* shared = ptx::dynamic_shared<float>();  // [teams, head_dim]
  const int lane = static_cast<int>(threadIdx.x) % team, teams = static_cast<int>(blockDim.x) / team;
  const int64_t begin = blockIdx.x * rows, end = min(begin + rows, tokens);
  for (int kind = 0; kind < 2; ++kind) {
    float part[K][W] = {};
    head_gradients<X, W, K>({dqkv, qkv, kind == 0 ? q_weight : k_weight, rstd, kind == 0 ? 0 : heads, kind == 0 ? heads : kv_heads, head_dim,
                             heads + 2 * kv_heads, heads + kv_heads},
                            team, begin, end, part);
    if (!partial) continue;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int column = (k * team + lane) * W;
      if (column >= head_dim) continue;
#pragma unroll
      for (int i = 0; i < W; ++i) shared[static_cast<int>(threadIdx.x) / team * head_dim + column + i] = part[k][i];
    }
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < head_dim; j += kBackwardThreads) {
      float sum = 0;
      for (int i = 0; i < teams; ++i) sum += shared[i * head_dim + j];
      partial[(int64_t{kind} * gridDim.x + blockIdx.x) * head_dim + j] = sum;
    }
    __syncthreads();
  }
}

void check_head(HeadLayout layout) {
  LLMTRAIN_ASSERT(layout.head_dim <= kLargestHead, "qk_norm: head size " + std::to_string(layout.head_dim) + " is above 256");
}

}  // namespace

void qk_norm_forward(cudaStream_t s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                     TensorView rstd) {
  check_head(layout);
  const int all = layout.heads + 2 * layout.kv_heads;
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    with_width<X>(vectors_fit<X>(layout.head_dim, qkv.as<X>(), q_weight.as<X>(), k_weight.as<X>(), out.as<X>()), [&](auto width) {
      constexpr int W = decltype(width)::value;
      const int team = team_size<X, W>(layout.head_dim);
      launch(s, "qk_norm_forward", {dim3(static_cast<unsigned>(qkv.dim(0))), dim3(whole_warps(int64_t{all} * team, kForwardThreads))},
             qk_norm_forward_kernel<X, W>, qkv.as<X>(), q_weight.as<X>(), k_weight.as<X>(), eps, layout.heads, layout.kv_heads, layout.head_dim, team,
             out.as<X>(), rstd.as<float>());
    });
  });
}

size_t qk_norm_backward_scratch(int64_t head_dim) { return padded(static_cast<size_t>(2 * kGroups * head_dim) * sizeof(float)); }

void qk_norm_backward(cudaStream_t s, Workspace& workspace, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                      HeadLayout layout, TensorView dq_weight, TensorView dk_weight) {
  check_head(layout);
  const int64_t tokens = qkv.dim(0), rows = std::max(kSmallestGroup, ceil_div(tokens, kGroups)), groups = ceil_div(tokens, rows);
  float* partial = dq_weight ? reinterpret_cast<float*>(workspace.get(qk_norm_backward_scratch(layout.head_dim))) : nullptr;
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    with_width<X>(vectors_fit<X>(layout.head_dim, dqkv.as<X>(), qkv.as<X>(), q_weight.as<X>(), k_weight.as<X>()), [&](auto width) {
      constexpr int W = decltype(width)::value;
      const int team = team_size<X, W>(layout.head_dim);
      const size_t shared = partial ? static_cast<size_t>(kBackwardThreads / team * layout.head_dim) * sizeof(float) : 0;
      launch(s, "qk_norm_backward", {dim3(static_cast<unsigned>(groups)), dim3(kBackwardThreads), shared}, qk_norm_backward_kernel<X, W>,
             dqkv.as<X>(), qkv.as<X>(), q_weight.as<X>(), k_weight.as<X>(), rstd.as<float>(), layout.heads, layout.kv_heads, layout.head_dim, team,
             partial, tokens, rows);
    });
  });
  if (!partial) return;
  add_partial_sums(s, partial, groups, layout.head_dim, dq_weight.as<float>());
  add_partial_sums(s, partial + groups * layout.head_dim, groups, layout.head_dim, dk_weight.as<float>());
}

}  // namespace llmtrain::cuda
