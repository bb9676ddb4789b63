// Attention of new tokens over cached keys and values (generation). Several tokens (a prompt): the kernels of attention.cu. One token: the keys are
// split among blocks, whose results a second kernel puts together.
//
//   kernel      bytes moved                                                   bound
//   append      4 n Hk D elements                                             memory
//   split       the visible part of the caches, once for kHeads query heads   memory
//   combine     kSplits Hq (D + 2) floats at most                             memory
#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/attention_over_keys.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace llmtrain::cuda {
namespace attention {
namespace {

constexpr int kHeads = 4;      // query heads of a block
constexpr int kSplits = 64;    // at most: what the scratch memory is planned for
constexpr int kChunk = 64;     // keys whose scores a block holds at a time; a split is whole chunks
constexpr int kLanes = 8;      // threads that share a key
constexpr int kTeams = kThreads / kLanes;
constexpr int kAppendThreads = 256;

// k and v of a row of qkv stand side by side: `width` elements each.
template <class T>
__global__ void append_kernel(const T* __restrict__ kv, int64_t row, int64_t width, int64_t items, T* __restrict__ k_cache, T* __restrict__ v_cache) {
  const int64_t item = int64_t{blockIdx.x} * kAppendThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t token = item / width, column = item % width;
  k_cache[item] = kv[token * row + column];
  v_cache[item] = kv[token * row + width + column];
}

template <class X>
struct SplitCall {
  const X *q, *k, *v;
  int64_t kv_row;
  int group, heads, head_dim, splits;
  int first, end, split_keys;  // the keys that are seen, and how many of them a split has
  float scale_log2;
  bool vectors;
  float* result;        // [heads, splits, head_dim], relative to the largest score of its split
  float2* statistics;   // [heads, splits]: the largest score times scale in base 2, the sum of weights
};

// Elements [d, d + kVector) of a row; 0 beyond the head.
template <class X>
__device__ __forceinline__ Vector<X> load_part(const X* row, int d, int head_dim, bool vectors) {
  Vector<X> part{};
  if (d >= head_dim) return part;
  if (vectors) return load(row + d);
#pragma unroll
  for (int i = 0; i < kVector<X>; ++i)
    if (d + i < head_dim) part.v[i] = widen(row[d + i]);
  return part;
}

template <int kDepth>
struct SplitShared {
  float q[kHeads][kDepth];
  float weights[kHeads][kChunk];
  float factor[kHeads], largest[kHeads], sum[kHeads];
};

// scores of a chunk: eight threads for a key, each a few vectors of it, for all heads of the block.
template <class X, int kDepth>
__device__ __forceinline__ void score_chunk(const SplitCall<X>& c, const X* k, int key, int keys, SplitShared<kDepth>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes, team = static_cast<int>(threadIdx.x) / kLanes;
  for (int j = team; j < kChunk; j += kTeams) {
    float score[kHeads] = {};
    if (j < keys) {
#pragma unroll
      for (int d = lane * kVector<X>; d < kDepth; d += kLanes * kVector<X>) {
        const Vector<X> part = load_part(k + (key + j) * c.kv_row, d, c.head_dim, c.vectors);
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
#pragma unroll
          for (int i = 0; i < kVector<X>; ++i) score[h] = __fmaf_rn(part.v[i], shared.q[h][d + i], score[h]);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int bits = kLanes / 2; bits > 0; bits /= 2) score[h] += __shfl_xor_sync(0xffffffffu, score[h], bits);
      if (lane == 0) shared.weights[h][j] = j < keys ? score[h] * c.scale_log2 : negative_infinity();
    }
  }
}

// Scores -> weights relative to the new largest score; warp h does head h.
template <int kDepth>
__device__ __forceinline__ void weigh_chunk(SplitShared<kDepth>& shared) {
  const int h = warp_number(), lane = lane_number();
  float* weights = shared.weights[h];
  const float before = shared.largest[h], now = fmaxf(before, warp_max(fmaxf(weights[lane], weights[lane + 32])));
  const float low = ptx::exp2_approximate(weights[lane] - now), high = ptx::exp2_approximate(weights[lane + 32] - now);
  weights[lane] = low;
  weights[lane + 32] = high;
  const float sum = warp_sum(low + high);
  __syncwarp();
  if (lane == 0) {
    const float factor = ptx::exp2_approximate(before - now);
    shared.factor[h] = factor;
    shared.largest[h] = now;
    shared.sum[h] = __fmaf_rn(shared.sum[h], factor, sum);
  }
}

// Block (split, group of heads): the keys of a split for up to kHeads query heads of one key-value head.
template <class X, int kDepth>
__global__ void __launch_bounds__(kThreads) split_kernel(SplitCall<X> c) {
  constexpr int kParts = kDepth / (kLanes * kVector<X>);  // vectors of a row that a thread has
  static_assert(kThreads == kHeads * 32 && kChunk == 64 && kDepth % (kLanes * kVector<X>) == 0);
  __shared__ SplitShared<kDepth> shared;
  __shared__ float sums[kHeads][kDepth];
  const int split = static_cast<int>(blockIdx.x), parts_of_group = (c.group + kHeads - 1) / kHeads, part = static_cast<int>(blockIdx.y);
  const int kv_head = part / parts_of_group, first_head = kv_head * c.group + part % parts_of_group * kHeads;
  const int heads = min(kHeads, (kv_head + 1) * c.group - first_head);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, team = static_cast<int>(threadIdx.x) / kLanes;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * kDepth; i += kThreads) {
    const int h = i / kDepth, d = i % kDepth;
    shared.q[h][d] = h < heads && d < c.head_dim ? widen(c.q[(first_head + h) * c.head_dim + d]) : 0.0f;
    sums[h][d] = 0;
  }
  if (lane_number() == 0) shared.largest[warp_number()] = negative_infinity(), shared.sum[warp_number()] = 0;
  __syncthreads();

  const X *k = c.k + kv_head * c.head_dim, *v = c.v + kv_head * c.head_dim;
  float result[kHeads][kParts][kVector<X>] = {};
  const int begin = c.first + split * c.split_keys, end = min(begin + c.split_keys, c.end);
  for (int key = begin; key < end; key += kChunk) {
    const int keys = min(kChunk, end - key);
    score_chunk(c, k, key, keys, shared);
    __syncthreads();
    weigh_chunk(shared);
    __syncthreads();
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
#pragma unroll
      for (int m = 0; m < kParts; ++m)
#pragma unroll
        for (int i = 0; i < kVector<X>; ++i) result[h][m][i] *= shared.factor[h];
    for (int j = team; j < keys; j += kTeams) {
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
        const Vector<X> value = load_part(v + (key + j) * c.kv_row, (m * kLanes + lane) * kVector<X>, c.head_dim, c.vectors);
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
#pragma unroll
          for (int i = 0; i < kVector<X>; ++i) result[h][m][i] = __fmaf_rn(shared.weights[h][j], value.v[i], result[h][m][i]);
      }
    }
    __syncthreads();
  }
  // The teams of a warp add up by exchanges, the warps one after the other.
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    if (warp == warp_number()) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
#pragma unroll
        for (int m = 0; m < kParts; ++m)
#pragma unroll
          for (int i = 0; i < kVector<X>; ++i) {
            float x = result[h][m][i];
            x += __shfl_xor_sync(0xffffffffu, x, 16);
            x += __shfl_xor_sync(0xffffffffu, x, 8);
            if (lane_number() < kLanes) sums[h][(m * kLanes + lane) * kVector<X> + i] += x;
          }
    }
    __syncthreads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < heads * c.head_dim; i += kThreads) {
    const int h = i / c.head_dim, d = i % c.head_dim;
    c.result[(int64_t{first_head + h} * c.splits + split) * c.head_dim + d] = sums[h][d];
  }
  if (static_cast<int>(threadIdx.x) < heads)
    c.statistics[int64_t{first_head + static_cast<int>(threadIdx.x)} * c.splits + split] = make_float2(shared.largest[threadIdx.x], shared.sum[threadIdx.x]);
}

// A block for each head: out = sum of the splits' results, each brought to the largest score of all, over the sum of weights.
template <class X>
__global__ void __launch_bounds__(kThreads) combine_kernel(const float* __restrict__ result, const float2* __restrict__ statistics, int splits,
                                                           int head_dim, X* __restrict__ out) {
  __shared__ float factor[kSplits];
  const int64_t head = blockIdx.x;
  float largest = negative_infinity(), sum = 0;
  for (int i = 0; i < splits; ++i) largest = fmaxf(largest, statistics[head * splits + i].x);
  for (int i = static_cast<int>(threadIdx.x); i < splits; i += kThreads) factor[i] = ptx::exp2_approximate(statistics[head * splits + i].x - largest);
  __syncthreads();
  for (int i = 0; i < splits; ++i) sum = __fmaf_rn(statistics[head * splits + i].y, factor[i], sum);
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += kThreads) {
    float x = 0;
    for (int i = 0; i < splits; ++i) x = __fmaf_rn(result[(head * splits + i) * head_dim + d], factor[i], x);
    out[head * head_dim + d] = narrow<X>(x / sum);
  }
}

template <class X>
void append(cudaStream_t s, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout) {
  const int64_t width = int64_t{layout.kv_heads} * layout.head_dim;
  const X* kv = qkv.as<X>() + int64_t{layout.heads} * layout.head_dim;
  X *k = k_cache.as<X>() + past * width, *v = v_cache.as<X>() + past * width;
  const auto start = [&](auto word) {
    using T = decltype(word);
    constexpr int64_t kElements = sizeof(T) / sizeof(X);
    const int64_t items = qkv.dim(0) * width / kElements;
    launch(s, "attention_cached append", {dim3(static_cast<unsigned>(ceil_div(items, kAppendThreads))), dim3(kAppendThreads)}, append_kernel<T>,
           reinterpret_cast<const T*>(kv), layout.row() / kElements, width / kElements, items, reinterpret_cast<T*>(k), reinterpret_cast<T*>(v));
  };
  if (vectors_fit<X>(layout.head_dim, kv, k, v)) return start(uint4{});
  start(X{});
}

// A fixed cut of the keys, so that results do not depend on the GPU.
template <class X>
void decode(cudaStream_t s, Workspace& workspace, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout, float scale,
            int window, TensorView out) {
  SplitCall<X> c{};
  c.q = qkv.as<X>();
  c.k = k_cache.as<X>();
  c.v = v_cache.as<X>();
  c.kv_row = int64_t{layout.kv_heads} * layout.head_dim;
  c.group = layout.heads / layout.kv_heads;
  c.heads = layout.heads;
  c.head_dim = layout.head_dim;
  c.end = static_cast<int>(past + 1);
  c.first = window > 0 ? std::max(0, c.end - window) : 0;
  const int64_t keys = c.end - c.first;
  c.split_keys = static_cast<int>(ceil_div(ceil_div(keys, kSplits), kChunk)) * kChunk;
  c.splits = static_cast<int>(ceil_div(keys, c.split_keys));
  c.scale_log2 = scale * kLog2E;
  c.vectors = vectors_fit<X>(layout.head_dim, c.k, c.v);
  Carver scratch(workspace.get(attention_cached_scratch(past + 1, layout)));
  c.result = scratch.take<float>(int64_t{layout.heads} * kSplits * layout.head_dim);
  c.statistics = scratch.take<float2>(int64_t{layout.heads} * kSplits);
  const Grid grid{dim3(static_cast<unsigned>(c.splits), static_cast<unsigned>(ceil_div(c.group, kHeads) * layout.kv_heads)), dim3(kThreads)};
  const char* name = "attention_cached split";
  if (layout.head_dim <= 64) {
    launch(s, name, grid, split_kernel<X, 64>, c);
  } else if (layout.head_dim <= 128) {
    launch(s, name, grid, split_kernel<X, 128>, c);
  } else {
    launch(s, name, grid, split_kernel<X, 256>, c);
  }
  launch(s, "attention_cached combine", {dim3(static_cast<unsigned>(layout.heads)), dim3(kThreads)}, combine_kernel<X>, c.result, c.statistics, c.splits,
         layout.head_dim, out.as<X>());
}

}  // namespace
}  // namespace attention

// The same for any number of tokens: the keys of one new token are cut into at most kSplits parts.
size_t attention_cached_scratch(int64_t, HeadLayout layout) {
  const size_t parts = static_cast<size_t>(layout.heads) * attention::kSplits;
  return padded(parts * static_cast<size_t>(layout.head_dim) * sizeof(float)) + padded(parts * sizeof(float2));
}

void attention_cached(cudaStream_t s, Workspace& workspace, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout,
                      float scale, int window, TensorView out) {
  attention::check_head_dim(layout.head_dim);
  const int64_t n = qkv.dim(0), size = layout.head_dim;
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    attention::append<X>(s, qkv, k_cache, v_cache, past, layout);
    if (n == 1) attention::decode<X>(s, workspace, qkv, k_cache, v_cache, past, layout, scale, window, out);
  });
  if (n == 1) return;
  AttentionOverKeys call{};
  call.type = qkv.dtype;
  call.q = qkv.data;
  call.k = k_cache.data;
  call.v = v_cache.data;
  call.q_row = layout.row();
  call.kv_row = int64_t{layout.kv_heads} * size;
  call.out = out.data;
  call.layout = layout;
  call.scale = scale;
  call.window = window;
  call.tile_count = static_cast<int>(ceil_div(n, kSequenceTile));
  call.longest = static_cast<int>(past + n);
  call.queries = static_cast<int>(n);
  call.past = static_cast<int>(past);
  attention_over_keys(s, call);
}

}  // namespace llmtrain::cuda
