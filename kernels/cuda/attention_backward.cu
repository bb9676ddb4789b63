// Causal attention over packed sequences, backward (attention_tiles.h says how). Three passes, none of which adds into memory that others add to:
//   1. delta[t, head] = dout . out, and the log-sum-exp in base 2 beside it, head by head
//   2. dQ: a block for 64 queries of a head streams the keys and values they see
//   3. dK, dV: a block for 64 keys of a key-value head streams the queries that see them, the heads of its group one after the other
// With P = exp(scale Q K^T - lse) and dP = dO V^T: dS = P (dP - delta), dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO.
//
//   operations   6 D (dQ) and 8 D (dK, dV; above head size 128 in bfloat16: 10 D) for each query, head and visible key
//   bytes moved  all rows once for each tile of the other side that meets them (mostly from the level 2 cache), 8 T Hq of scratch
//   bound        tensor cores (bfloat16), fused multiply-adds (float32)
#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace llmtrain::cuda {
namespace attention {
namespace {

// Of a query and head.
struct QueryStatistics {
  float lse;  // in base 2
  float delta;
};

template <class X>
struct BackwardCall {
  Matrix<const X> q, k, v, dout;
  Matrix<X> dq, dk, dv;
  const QueryStatistics* statistics;  // [heads, tokens]
  int64_t tokens;
  const SequenceTile* tiles;
  int heads, kv_heads, head_dim;
  float scale, scale_log2;
  Visible visible;
  bool vectors;
};

// A warp for each query and head.
template <class X>
__global__ void __launch_bounds__(kThreads) statistics_kernel(const X* __restrict__ dout, const X* __restrict__ out, const float* __restrict__ lse,
                                                              int64_t tokens, int heads, int head_dim, bool vectors,
                                                              QueryStatistics* __restrict__ statistics) {
  const int64_t item = int64_t{blockIdx.x} * (kThreads / 32) + warp_number();
  if (item >= tokens * heads) return;
  const X *x = dout + item * head_dim, *y = out + item * head_dim;
  float sum = 0;
  if (vectors) {
    for (int d = lane_number() * kVector<X>; d < head_dim; d += 32 * kVector<X>) {
      const Vector<X> a = load(x + d), b = load(y + d);
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i) sum = __fmaf_rn(a.v[i], b.v[i], sum);
    }
  } else {
    for (int d = lane_number(); d < head_dim; d += 32) sum = __fmaf_rn(widen(x[d]), widen(y[d]), sum);
  }
  sum = warp_sum(sum);
  if (lane_number() == 0) statistics[item % heads * tokens + item / heads] = {lse[item] * kLog2E, sum};
}

// A query that is not there: no key has a weight for it.
__device__ __forceinline__ QueryStatistics no_query() { return {-negative_infinity(), 0}; }

template <class Tiles>
__global__ void __launch_bounds__(kThreads) dq_kernel(BackwardCall<typename Tiles::X> c) {
  using X = typename Tiles::X;
  const int head = static_cast<int>(blockIdx.x % static_cast<unsigned>(c.heads)), tiles = static_cast<int>(gridDim.x / static_cast<unsigned>(c.heads));
  // The last tiles of a sequence see the most keys: they begin first.
  const int tile = tiles - 1 - static_cast<int>(blockIdx.x / static_cast<unsigned>(c.heads));
  Place at;
  if (!place_of<Tiles::kRows>(c.tiles, 0, tile, at)) return;
  const int kv_offset = head / (c.heads / c.kv_heads) * c.head_dim, q_offset = head * c.head_dim;
  const Matrix<const X> q{c.q.data + at.token * c.q.stride + q_offset, c.q.stride};
  const Matrix<const X> dout{c.dout.data + at.token * c.dout.stride + q_offset, c.dout.stride};
  const Matrix<const X> k{c.k.data + at.token * c.k.stride + kv_offset, c.k.stride}, v{c.v.data + at.token * c.v.stride + kv_offset, c.v.stride};

  const int keys = min(at.first + Tiles::kRows, at.length), first_key = c.visible.first_key(at.first) / Tiles::kColumns * Tiles::kColumns;
  const SharedTiles<Tiles> shared(2);
  Tiles::load(shared.rows(0), Tiles::kRows, q, at.first, at.length, c.head_dim, c.vectors);
  Tiles::load(shared.rows(1), Tiles::kRows, dout, at.first, at.length, c.head_dim, c.vectors);
  const QueryStatistics* statistics = c.statistics + head * c.tokens + at.token;
  QueryStatistics mine[Tiles::kThreadRows];
  float factor[Tiles::kThreadRows];
  typename Tiles::Result dq;
  clear<Tiles>(dq);
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i) {
    const int r = at.first + Tiles::row(i);
    mine[i] = r < at.length ? statistics[r] : no_query();
    factor[i] = c.scale;
  }
  stream_columns<Tiles>(
      (keys - first_key + Tiles::kColumns - 1) / Tiles::kColumns,
      [&](int step, int stage) {
        const int key = first_key + step * Tiles::kColumns;
        Tiles::load(shared.columns(stage, 0), Tiles::kColumns, k, key, keys, c.head_dim, c.vectors);
        Tiles::load(shared.columns(stage, 1), Tiles::kColumns, v, key, keys, c.head_dim, c.vectors);
      },
      [&](int step, int stage) {
        const int key = first_key + step * Tiles::kColumns;
        const bool masked = !c.visible.all(at.first, Tiles::kRows, key, Tiles::kColumns);
        typename Tiles::Scores s, dp;
        Tiles::multiply(shared.rows(0), shared.columns(stage, 0), c.head_dim, s);
        Tiles::multiply(shared.rows(1), shared.columns(stage, 1), c.head_dim, dp);
#pragma unroll
        for (int i = 0; i < Tiles::kThreadRows; ++i) {
#pragma unroll
          for (int j = 0; j < Tiles::kThreadColumns; ++j) {
            const float p = ptx::exp2_approximate(__fmaf_rn(s(i, j), c.scale_log2, -mine[i].lse));
            const bool seen = !masked || c.visible(at.first + Tiles::row(i), key + Tiles::column(j));
            s(i, j) = seen ? p * (dp(i, j) - mine[i].delta) : 0.0f;
          }
        }
        Tiles::accumulate(s, shared.exchange(), shared.columns(stage, 0), c.head_dim, dq);
      });
  const Matrix<X> to{c.dq.data + at.token * c.dq.stride + q_offset, c.dq.stride};
  Tiles::store(dq, factor, to, at.first, at.length, c.head_dim);
}

// Scores are transposed here: rows are keys, columns queries. kDk, kDv: which of the two this launch does (both where the registers allow).
template <class Tiles, bool kDk, bool kDv>
__global__ void __launch_bounds__(kThreads) dkdv_kernel(BackwardCall<typename Tiles::X> c) {
  using X = typename Tiles::X;
  const int kv_head = static_cast<int>(blockIdx.x % static_cast<unsigned>(c.kv_heads)), group = c.heads / c.kv_heads;
  Place at;
  if (!place_of<Tiles::kRows>(c.tiles, 0, static_cast<int>(blockIdx.x / static_cast<unsigned>(c.kv_heads)), at)) return;
  const int kv_offset = kv_head * c.head_dim, key = at.first;
  const Matrix<const X> q{c.q.data + at.token * c.q.stride, c.q.stride}, dout{c.dout.data + at.token * c.dout.stride, c.dout.stride};
  const Matrix<const X> k{c.k.data + at.token * c.k.stride + kv_offset, c.k.stride}, v{c.v.data + at.token * c.v.stride + kv_offset, c.v.stride};

  // The queries that see these keys: from the first key on, as far as the window reaches.
  const int queries = c.visible.end_query(min(key + Tiles::kRows, at.length), at.length);
  const int steps_of_head = (queries - key + Tiles::kColumns - 1) / Tiles::kColumns;
  const SharedTiles<Tiles> shared(2);
  Tiles::load(shared.rows(0), Tiles::kRows, k, key, at.length, c.head_dim, c.vectors);
  if constexpr (kDk) Tiles::load(shared.rows(1), Tiles::kRows, v, key, at.length, c.head_dim, c.vectors);
  typename Tiles::Result dk, dv;
  if constexpr (kDk) clear<Tiles>(dk);
  if constexpr (kDv) clear<Tiles>(dv);
  stream_columns<Tiles>(
      group * steps_of_head,
      [&](int step, int stage) {
        const int query = key + step % steps_of_head * Tiles::kColumns, offset = (kv_head * group + step / steps_of_head) * c.head_dim;
        Tiles::load(shared.columns(stage, 0), Tiles::kColumns, {q.data + offset, q.stride}, query, at.length, c.head_dim, c.vectors);
        Tiles::load(shared.columns(stage, 1), Tiles::kColumns, {dout.data + offset, dout.stride}, query, at.length, c.head_dim, c.vectors);
      },
      [&](int step, int stage) {
        const int query = key + step % steps_of_head * Tiles::kColumns;
        const QueryStatistics* statistics = c.statistics + (kv_head * group + step / steps_of_head) * c.tokens + at.token;
        const bool masked = !c.visible.all(query, Tiles::kColumns, key, Tiles::kRows);
        typename Tiles::Scores p;
        Tiles::multiply(shared.rows(0), shared.columns(stage, 0), c.head_dim, p);
        float delta[Tiles::kThreadColumns];
#pragma unroll
        for (int j = 0; j < Tiles::kThreadColumns; ++j) {
          const int at_query = query + Tiles::column(j);
          const QueryStatistics of_query = at_query < at.length ? statistics[at_query] : no_query();
          delta[j] = of_query.delta;
#pragma unroll
          for (int i = 0; i < Tiles::kThreadRows; ++i) {
            const float weight = ptx::exp2_approximate(__fmaf_rn(p(i, j), c.scale_log2, -of_query.lse));
            p(i, j) = !masked || c.visible(at_query, key + Tiles::row(i)) ? weight : 0.0f;
          }
        }
        if constexpr (kDv) Tiles::accumulate(p, shared.exchange(), shared.columns(stage, 1), c.head_dim, dv);
        if constexpr (kDk) {
          typename Tiles::Scores ds;
          Tiles::multiply(shared.rows(1), shared.columns(stage, 1), c.head_dim, ds);
#pragma unroll
          for (int i = 0; i < Tiles::kThreadRows; ++i)
#pragma unroll
            for (int j = 0; j < Tiles::kThreadColumns; ++j) ds(i, j) = p(i, j) * (ds(i, j) - delta[j]);
          Tiles::accumulate(ds, shared.exchange(), shared.columns(stage, 0), c.head_dim, dk);
        }
      });
  float factor[Tiles::kThreadRows];
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i) factor[i] = 1.0f;
  const int64_t to = at.token * c.dk.stride + kv_offset;
  if constexpr (kDv) Tiles::store(dv, factor, {c.dv.data + to, c.dv.stride}, key, at.length, c.head_dim);
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i) factor[i] = c.scale;
  if constexpr (kDk) Tiles::store(dk, factor, {c.dk.data + to, c.dk.stride}, key, at.length, c.head_dim);
}

template <class Tiles, class Kernel>
void start(cudaStream_t s, const char* name, Kernel* kernel, int tile_count, int heads, const BackwardCall<typename Tiles::X>& c) {
  constexpr size_t kBytes = SharedTiles<Tiles>::bytes(2);
  static_assert(kBytes <= kSharedLimit);
  const int64_t blocks = int64_t{tile_count} * (kSequenceTile / Tiles::kRows) * heads;
  allow_shared(kernel, kBytes);
  launch(s, name, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), kBytes}, kernel, c);
}

// One launch for dK and dV, or one for each where both do not fit into the registers.
template <class Tiles, bool kTogether>
void backward(cudaStream_t s, int tile_count, const BackwardCall<typename Tiles::X>& c) {
  start<Tiles>(s, "attention_backward dq", dq_kernel<Tiles>, tile_count, c.heads, c);
  if constexpr (kTogether) {
    start<Tiles>(s, "attention_backward dk, dv", dkdv_kernel<Tiles, true, true>, tile_count, c.kv_heads, c);
  } else {
    start<Tiles>(s, "attention_backward dv", dkdv_kernel<Tiles, false, true>, tile_count, c.kv_heads, c);
    start<Tiles>(s, "attention_backward dk", dkdv_kernel<Tiles, true, false>, tile_count, c.kv_heads, c);
  }
}

// Rows of a block and columns of a step: what fits into shared memory and registers.
template <class X>
void backward_fma(cudaStream_t s, int tile_count, const BackwardCall<X>& c) {
  if (c.head_dim <= 64) return backward<FmaTiles<X, 64, 64, 32>, true>(s, tile_count, c);
  if (c.head_dim <= 128) return backward<FmaTiles<X, 128, 64, 16>, true>(s, tile_count, c);
  backward<FmaTiles<X, 256, 32, 8>, true>(s, tile_count, c);
}

void backward_mma(cudaStream_t s, int tile_count, const BackwardCall<bfloat16>& c) {
  with_mma_depth(c.head_dim, [&](auto depth) {
    constexpr int kDepth = decltype(depth)::value;
    backward<MmaTiles<kDepth, kDepth <= 64 ? 64 : kDepth <= 128 ? 32 : 16>, kDepth <= 128>(s, tile_count, c);
  });
}

}  // namespace
}  // namespace attention

size_t attention_backward_scratch(int64_t tokens, HeadLayout layout) {
  return padded(static_cast<size_t>(tokens) * static_cast<size_t>(layout.heads) * sizeof(attention::QueryStatistics));
}

void attention_backward(cudaStream_t s, Workspace& workspace, TensorView dout, TensorView qkv, TensorView out, TensorView lse,
                        const SequenceMap& sequences, HeadLayout layout, float scale, int window, TensorView dqkv) {
  attention::check_head_dim(layout.head_dim);
  const int64_t tokens = qkv.dim(0), items = tokens * layout.heads, size = layout.head_dim, row = layout.row();
  auto* statistics = reinterpret_cast<attention::QueryStatistics*>(workspace.get(attention_backward_scratch(tokens, layout)));
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    const bool vectors = vectors_fit<X>(size, dout.as<X>(), qkv.as<X>(), out.as<X>(), dqkv.as<X>());
    launch(s, "attention_backward delta", {dim3(static_cast<unsigned>(ceil_div(items, attention::kThreads / 32))), dim3(attention::kThreads)},
           attention::statistics_kernel<X>, dout.as<X>(), out.as<X>(), lse.as<float>(), tokens, layout.heads, layout.head_dim, vectors, statistics);
    const X* q = qkv.as<X>();
    X* dq = dqkv.as<X>();
    const int64_t k_at = layout.heads * size, v_at = k_at + layout.kv_heads * size;
    const int bounded = window > 0 && window < sequences.longest ? window : 0;
    const attention::BackwardCall<X> c{{q, row}, {q + k_at, row}, {q + v_at, row}, {dout.as<X>(), layout.heads * size},
                                       {dq, row}, {dq + k_at, row}, {dq + v_at, row}, statistics, tokens, sequences.tiles, layout.heads,
                                       layout.kv_heads, layout.head_dim, scale, scale * attention::kLog2E, {bounded}, vectors};
    if constexpr (sizeof(X) == 2) {
      if (vectors) return attention::backward_mma(s, sequences.tile_count, c);
    }
    attention::backward_fma<X>(s, sequences.tile_count, c);
  });
}

}  // namespace llmtrain::cuda
