// Causal attention over packed sequences, forward (attention_tiles.h says how; attention_backward.cu is the other half).
//
// A block does 64 queries of one head: it streams the keys and values that they see and keeps, for each query, the largest score, the sum of weights and
// the weighted sum of values, all relative to the largest score so far (online softmax). Tiles outside the window or after the queries are skipped.
//
//   operations   4 D for each query, head and visible key
//   bytes moved  q, out once; k, v once for each tile of 64 queries and head (mostly from the level 2 cache: the heads of a tile are neighbours)
//   bound        tensor cores (bfloat16), fused multiply-adds (float32)
#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/attention_over_keys.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace llmtrain::cuda {
namespace attention {
namespace {

template <class X>
struct ForwardCall {
  Matrix<const X> q, k, v;
  Matrix<X> out;
  float* lse;
  const SequenceTile* tiles;
  int queries, past;  // where there are no tiles
  int heads, group, head_dim;
  float scale_log2;
  Visible visible;
  bool vectors;
};

// The state of the online softmax of a thread's rows. `shift`: largest score so far times scale, in base 2; `sum`: this thread's columns only.
template <class Tiles>
struct Softmax {
  float shift[Tiles::kThreadRows], sum[Tiles::kThreadRows];
};

// Scores -> weights 2^(s scale - shift). Brings state and result up to the new shift. Queries from `query` on, keys from `key` on.
template <class Tiles>
__device__ __forceinline__ void softmax_step(typename Tiles::Scores& s, Softmax<Tiles>& state, typename Tiles::Result& o, float scale_log2,
                                             const Visible& visible, int query, int key) {
  const bool masked = !visible.all(query, Tiles::kRows, key, Tiles::kColumns);
  float factor[Tiles::kThreadRows];
  bool changed = false;
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i) {
    float top = negative_infinity();
#pragma unroll
    for (int j = 0; j < Tiles::kThreadColumns; ++j) {
      if (masked && !visible(query + Tiles::row(i), key + Tiles::column(j))) s(i, j) = negative_infinity();
      top = fmaxf(top, s(i, j));
    }
    const float now = fmaxf(state.shift[i], row_max<Tiles>(top) * scale_log2);
    // A query that has seen no key yet: any finite shift will do, all its weights are 0.
    const float shift = now == negative_infinity() ? 0.0f : now;
    factor[i] = ptx::exp2_approximate(state.shift[i] - shift);
    changed = changed || factor[i] != 1.0f;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < Tiles::kThreadColumns; ++j) sum += s(i, j) = ptx::exp2_approximate(__fmaf_rn(s(i, j), scale_log2, -shift));
    state.sum[i] = state.sum[i] * factor[i] + sum;
    state.shift[i] = now;
  }
  if (!__any_sync(0xffffffffu, changed)) return;
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Tiles::kThreadDepth; ++j) o(i, j) *= factor[i];
}

template <class Tiles>
__global__ void __launch_bounds__(kThreads) forward_kernel(ForwardCall<typename Tiles::X> c) {
  using X = typename Tiles::X;
  const int head = static_cast<int>(blockIdx.x % static_cast<unsigned>(c.heads)), tiles = static_cast<int>(gridDim.x / static_cast<unsigned>(c.heads));
  // The last tiles of a sequence see the most keys: they begin first.
  const int tile = tiles - 1 - static_cast<int>(blockIdx.x / static_cast<unsigned>(c.heads));
  Place at;
  if (!place_of<Tiles::kRows>(c.tiles, c.queries, tile, at)) return;
  const int kv_offset = head / c.group * c.head_dim, q_offset = head * c.head_dim;
  const Matrix<const X> q{c.q.data + at.token * c.q.stride + q_offset, c.q.stride};
  const Matrix<const X> k{c.k.data + at.token * c.k.stride + kv_offset, c.k.stride}, v{c.v.data + at.token * c.v.stride + kv_offset, c.v.stride};

  const int query = c.past + at.first, keys = min(query + Tiles::kRows, c.past + at.length);
  const int first_key = c.visible.first_key(query) / Tiles::kColumns * Tiles::kColumns;
  const SharedTiles<Tiles> shared(1);
  Tiles::load(shared.rows(0), Tiles::kRows, q, at.first, at.length, c.head_dim, c.vectors);
  Softmax<Tiles> state;
  typename Tiles::Result o;
  clear<Tiles>(o);
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i) state.shift[i] = negative_infinity(), state.sum[i] = 0;
  stream_columns<Tiles>(
      (keys - first_key + Tiles::kColumns - 1) / Tiles::kColumns,
      [&](int step, int stage) {
        const int key = first_key + step * Tiles::kColumns;
        Tiles::load(shared.columns(stage, 0), Tiles::kColumns, k, key, keys, c.head_dim, c.vectors);
        Tiles::load(shared.columns(stage, 1), Tiles::kColumns, v, key, keys, c.head_dim, c.vectors);
      },
      [&](int step, int stage) {
        typename Tiles::Scores s;
        Tiles::multiply(shared.rows(0), shared.columns(stage, 0), c.head_dim, s);
        softmax_step<Tiles>(s, state, o, c.scale_log2, c.visible, query, first_key + step * Tiles::kColumns);
        Tiles::accumulate(s, shared.exchange(), shared.columns(stage, 1), c.head_dim, o);
      });

  float factor[Tiles::kThreadRows];
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i) {
    const float sum = row_sum<Tiles>(state.sum[i]);
    factor[i] = 1.0f / sum;
    const int r = at.first + Tiles::row(i);
    if (c.lse != nullptr && r < at.length && lane_number() % Tiles::kRowLanes == 0)
      c.lse[(at.token + r) * c.heads + head] = __fmaf_rn(state.shift[i], kLn2, logf(sum));
  }
  const Matrix<X> out{c.out.data + at.token * c.out.stride + q_offset, c.out.stride};
  Tiles::store(o, factor, out, at.first, at.length, c.head_dim);
}

template <class Tiles>
void forward(cudaStream_t s, const AttentionOverKeys& call) {
  using X = typename Tiles::X;
  const HeadLayout& l = call.layout;
  const X *q = static_cast<const X*>(call.q), *k = static_cast<const X*>(call.k), *v = static_cast<const X*>(call.v);
  const bool vectors = vectors_fit<X>(l.head_dim, q, k, v);
  const int window = call.window > 0 && call.window < call.longest ? call.window : 0;
  const ForwardCall<X> c{{q, call.q_row}, {k, call.kv_row}, {v, call.kv_row}, {static_cast<X*>(call.out), int64_t{l.heads} * l.head_dim}, call.lse,
                         call.tiles, call.queries, call.past, l.heads, l.heads / l.kv_heads, l.head_dim, call.scale * kLog2E, {window}, vectors};
  const int64_t blocks = int64_t{call.tile_count} * (kSequenceTile / Tiles::kRows) * l.heads;
  constexpr size_t kBytes = SharedTiles<Tiles>::bytes(1);
  static_assert(kBytes <= kSharedLimit);
  allow_shared(forward_kernel<Tiles>, kBytes);
  launch(s, "attention_forward", {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), kBytes}, forward_kernel<Tiles>, c);
}

// Columns of a step: what fits beside the queries.
template <class X>
void forward_fma(cudaStream_t s, const AttentionOverKeys& call) {
  if (call.layout.head_dim <= 64) return forward<FmaTiles<X, 64, 64, 32>>(s, call);
  if (call.layout.head_dim <= 128) return forward<FmaTiles<X, 128, 64, 32>>(s, call);
  forward<FmaTiles<X, 256, 64, 8>>(s, call);
}

void forward_mma(cudaStream_t s, const AttentionOverKeys& call) {
  with_mma_depth(call.layout.head_dim, [&](auto depth) {
    constexpr int kDepth = decltype(depth)::value;
    forward<MmaTiles<kDepth, kDepth <= 64 ? 64 : 32>>(s, call);
  });
}

}  // namespace
}  // namespace attention

void attention_over_keys(cudaStream_t s, const AttentionOverKeys& call) {
  attention::check_head_dim(call.layout.head_dim);
  if (call.type == DType::float32) return attention::forward_fma<float>(s, call);
  LLMTRAIN_ASSERT(call.type == DType::bfloat16, "attention: float32 or bfloat16");
  if (attention::mma_fits(call.layout.head_dim, call.q, call.k, call.v, call.out)) return attention::forward_mma(s, call);
  attention::forward_fma<bfloat16>(s, call);
}

void attention_forward(cudaStream_t s, TensorView qkv, const SequenceMap& sequences, HeadLayout layout, float scale, int window, TensorView out,
                       TensorView lse) {
  const auto* base = qkv.as<char>();
  const int64_t head = int64_t{layout.head_dim} * static_cast<int64_t>(size_of(qkv.dtype));
  AttentionOverKeys call{};
  call.type = qkv.dtype;
  call.q = base;
  call.k = base + layout.heads * head;
  call.v = base + (layout.heads + layout.kv_heads) * head;
  call.q_row = call.kv_row = layout.row();
  call.out = out.data;
  call.lse = lse ? lse.as<float>() : nullptr;
  call.layout = layout;
  call.scale = scale;
  call.window = window;
  call.tiles = sequences.tiles;
  call.tile_count = sequences.tile_count;
  call.longest = sequences.longest;
  attention_over_keys(s, call);
}

}  // namespace llmtrain::cuda
