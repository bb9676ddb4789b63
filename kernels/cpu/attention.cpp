// Causal attention over packed sequences, forward and backward, in blocks (FlashAttention-2: Dao 2023, https://arxiv.org/abs/2307.08691).
//
// Scores are computed transposed, S^T = K Q^T [keys, queries]: a vector holds neighbouring queries, so that the softmax needs no sums across lanes
// and every product reads its operands as they lie (tile_multiply-inl.h). One task does the query heads of one key-value head one after the
// other, so the gradients of k and v are summed in a fixed order whatever the number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/tile_multiply-inl.h"

#ifndef LLMTRAIN_KERNELS_CPU_ATTENTION_ONCE_
#define LLMTRAIN_KERNELS_CPU_ATTENTION_ONCE_
namespace llmtrain::cpu {

inline constexpr int64_t kBlock = 64;  // queries and keys of a tile: S^T is 16 KiB, it stays in the first-level cache
inline constexpr int64_t kQueriesPerTask = 1024;
inline constexpr double kLog2E = 1.4426950408889634;

inline int64_t whole_blocks(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }
inline int64_t padded_head(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }  // whole vectors of any instruction set here

// The query heads of one key-value head of one sequence. All pointers are of type X; rows are distances in elements.
struct AttentionTask {
  const void* q;  // first query head; the others follow, head_dim apart
  const void* k;
  const void* v;
  int64_t q_row, kv_row;
  int64_t first_query, end_query;  // the queries to do
  int64_t past;                    // query i stands at position past + i of the keys
  int group;                       // query heads
  int64_t head_dim;
  float scale;
  int window;
  void* out;  // [queries, …] as q
  int64_t out_row;
  float* lse;  // lse[i * lse_row + head], or null
  int64_t lse_row;
  // backward only
  const void* dout = nullptr;  // in rows of out_row
  void* dq = nullptr;          // in rows of q_row
  void* dk = nullptr;          // in rows of kv_row
  void* dv = nullptr;

  int64_t keys() const { return past + end_query; }
  // The blocks of keys that some query of [begin, end) sees: positions [first, last).
  int64_t first_key(int64_t begin) const { return window > 0 ? std::max<int64_t>(0, past + begin - window + 1) / kBlock * kBlock : 0; }
  int64_t last_key(int64_t end) const { return past + end; }
};

// Bytes of the copies and tiles of a task over `keys` keys.
inline size_t forward_task_bytes(int64_t keys, int64_t head_dim) {
  const size_t head = static_cast<size_t>(padded_head(head_dim)), block = kBlock;
  return 2 * padded(static_cast<size_t>(whole_blocks(keys)) * head * 4) + 3 * padded(block * head * 4) + 2 * padded(block * block * 4) +
         3 * padded(block * 4);
}
inline size_t backward_task_bytes(int64_t keys, int64_t head_dim) {
  const size_t head = static_cast<size_t>(padded_head(head_dim)), block = kBlock;
  return 5 * padded(static_cast<size_t>(whole_blocks(keys)) * head * 4) + 6 * padded(block * head * 4) + 5 * padded(block * block * 4) +
         2 * padded(block * 4);
}

}  // namespace llmtrain::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// ---- packing. Rows beyond `count` (up to whole blocks) and columns beyond head_dim are zero.

// from [count, head_dim] -> to [rows, to_row] floats.
template <class X>
void pack_rows(const X* from, int64_t from_row, int64_t count, int64_t rows, int64_t head_dim, float* to, int64_t to_row) {
  for (int64_t i = 0; i < count; ++i) {
    for_vectors(0, head_dim, [&](int64_t j, auto lanes) HWY_ATTR { store(load(from + i * from_row + j, lanes), to + i * to_row + j, lanes); });
    std::fill(to + i * to_row + head_dim, to + (i + 1) * to_row, 0.0f);
  }
  std::fill(to + count * to_row, to + rows * to_row, 0.0f);
}

// The same as bfloat16, in pairs along a row.
inline void pack_rows(const bfloat16* from, int64_t from_row, int64_t count, int64_t rows, int64_t head_dim, uint32_t* to, int64_t to_row) {
  for (int64_t i = 0; i < count; ++i) {
    char* row = reinterpret_cast<char*>(to + i * to_row);
    const size_t bytes = static_cast<size_t>(head_dim) * 2;
    std::memcpy(row, from + i * from_row, bytes);
    std::memset(row + bytes, 0, static_cast<size_t>(to_row) * 4 - bytes);
  }
  std::fill(to + count * to_row, to + rows * to_row, 0u);
}

// Rows interleaved in pairs: to[i][j] = (from[2i][j], from[2i + 1][j]); to [rows / 2, to_row].
inline void interleave_rows(const bfloat16* from, int64_t from_row, int64_t count, int64_t rows, int64_t head_dim, uint32_t* to, int64_t to_row) {
  for (int64_t i = 0; i < rows; i += 2) {
    uint32_t* row = to + i / 2 * to_row;
    const bfloat16* even = from + i * from_row;
    if (i >= count) {
      std::fill_n(row, to_row, 0u);
      continue;
    }
    const bool has_odd = i + 1 < count;
    for_vectors(0, head_dim, [&](int64_t j, auto lanes) HWY_ATTR {
      const VU low = hn::ShiftRight<16>(hn::BitCast(du, load(even + j, lanes)));
      const VU high = has_odd ? hn::BitCast(du, load(even + from_row + j, lanes)) : hn::Zero(du);
      store(hn::BitCast(df, hn::Or(low, high)), reinterpret_cast<float*>(row) + j, lanes);
    });
    std::fill(row + head_dim, row + to_row, 0u);
  }
}

// to[j][i] = from[i][j] for kBlock rows of `columns` elements of 32 bits.
template <class Element>
void transpose_block(const Element* from, int64_t from_row, int64_t columns, Element* to) {
  const auto index = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(from_row)));
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      const auto column = hn::GatherIndex(di, reinterpret_cast<const int32_t*>(from) + i * from_row + j, index);
      hn::StoreU(column, di, reinterpret_cast<int32_t*>(to) + j * kBlock + i);
    }
  }
}

// ---- how a kind of tile stores its operands

template <class Tile>
struct Layout {
  using Element = typename Tile::Element;
  int64_t steps;     // elements along head_dim in a product over it
  int64_t head;      // columns of operands and results that are n wide
  int64_t rows_row;  // distance of rows in packed rows
  explicit Layout(int64_t head_dim)
      : steps((head_dim + Tile::kPair - 1) / Tile::kPair), head(padded_head(head_dim)), rows_row(Tile::kPair == 1 ? head : steps) {}
};

template <class Tile>
inline constexpr int64_t kBlockSteps = kBlock / Tile::kPair;

template <class X>
void pack_pairs(const X* from, int64_t from_row, int64_t count, int64_t rows, int64_t head_dim, float* to, int64_t to_row) {
  pack_rows(from, from_row, count, rows, head_dim, to, to_row);
}
inline void pack_pairs(const bfloat16* from, int64_t from_row, int64_t count, int64_t rows, int64_t head_dim, uint32_t* to, int64_t to_row) {
  interleave_rows(from, from_row, count, rows, head_dim, to, to_row);
}

// Neighbouring keys' weights of the same queries, as the tile multiplies them.  even, odd: rows 2i and 2i + 1.
HWY_INLINE VU interleave_rounded(VF even, VF odd) { return hn::Or(round_to_bf16(even), hn::ShiftLeft<16>(round_to_bf16(odd))); }

// ---- masks

// Which scores of a tile count. Queries [query, query + kBlock) by position, keys [key, key + kBlock).
struct Visible {
  int64_t query, key;
  int window;
  bool all() const { return key + kBlock - 1 <= query && (window <= 0 || key > query + kBlock - 1 - window); }
  // For the key `key + j` and the queries from lane i on.
  HWY_INLINE hn::Mask<DF> lanes(int64_t j, int64_t i) const {
    const auto distance = hn::Add(hn::Iota(di, static_cast<int32_t>(i)), hn::Set(di, static_cast<int32_t>(query - key - j)));
    auto seen = hn::Gt(distance, hn::Set(di, -1));
    if (window > 0) seen = hn::And(seen, hn::Lt(distance, hn::Set(di, window)));
    return hn::RebindMask(df, seen);
  }
};

// ---- forward

struct Softmax {
  float* largest;  // of the scaled scores in base 2, per query
  float* sum;
  float* factor;  // what the earlier weights have to be multiplied with now
};

// scores [keys, queries] -> weights exp2(scores c - largest), as the tile reads them; brings the running sums up to date. True if some factor is
// not 1.
template <class Tile>
bool softmax_tile(float* scores, typename Tile::Element* weights, const Softmax& run, float c, const Visible& visible) {
  const VF infinity = hn::Set(df, std::numeric_limits<float>::infinity()), factor_to_base2 = hn::Set(df, c);
  const bool masked = !visible.all();
  bool rescale = false;
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    VF top0 = hn::Neg(infinity), top1 = top0;
    for (int64_t j = 0; j < kBlock; j += 2) {
      VF even = hn::LoadU(df, scores + j * kBlock + i), odd = hn::LoadU(df, scores + (j + 1) * kBlock + i);
      if (masked) {
        even = hn::IfThenElse(visible.lanes(j, i), even, hn::Neg(infinity));
        odd = hn::IfThenElse(visible.lanes(j + 1, i), odd, hn::Neg(infinity));
        hn::StoreU(even, df, scores + j * kBlock + i);
        hn::StoreU(odd, df, scores + (j + 1) * kBlock + i);
      }
      top0 = hn::Max(top0, even);
      top1 = hn::Max(top1, odd);
    }
    const VF before = hn::LoadU(df, run.largest + i);
    const VF now = hn::Max(before, hn::Mul(hn::Max(top0, top1), factor_to_base2));
    // A query that has seen no key yet: any finite shift will do, all its weights are 0.
    const VF shift = hn::IfThenElse(hn::Eq(now, hn::Neg(infinity)), hn::Zero(df), now);
    const VF factor = exp2_small(hn::Sub(before, shift));
    rescale |= !hn::AllTrue(df, hn::Eq(factor, hn::Set(df, 1.0f)));
    VF sum0 = hn::Zero(df), sum1 = sum0;
    for (int64_t j = 0; j < kBlock; j += 2) {
      const VF even = exp2_small(hn::MulSub(hn::LoadU(df, scores + j * kBlock + i), factor_to_base2, shift));
      const VF odd = exp2_small(hn::MulSub(hn::LoadU(df, scores + (j + 1) * kBlock + i), factor_to_base2, shift));
      sum0 = hn::Add(sum0, even);
      sum1 = hn::Add(sum1, odd);
      if constexpr (Tile::kPair == 1) {
        hn::StoreU(even, df, weights + j * kBlock + i);
        hn::StoreU(odd, df, weights + (j + 1) * kBlock + i);
      } else {
        hn::StoreU(interleave_rounded(even, odd), du, weights + j / 2 * kBlock + i);
      }
    }
    hn::StoreU(hn::MulAdd(hn::LoadU(df, run.sum + i), factor, hn::Add(sum0, sum1)), df, run.sum + i);
    hn::StoreU(now, df, run.largest + i);
    hn::StoreU(factor, df, run.factor + i);
  }
  return rescale;
}

inline void scale_rows(float* rows, int64_t columns, const float* factor) {
  for (int64_t i = 0; i < kBlock; ++i) {
    const VF f = hn::Set(df, factor[i]);
    for (int64_t j = 0; j < columns; j += kLanes) hn::StoreU(hn::Mul(hn::LoadU(df, rows + i * columns + j), f), df, rows + i * columns + j);
  }
}

template <class Tile>
struct ForwardBuffers {
  using Element = typename Tile::Element;
  Element *k, *v, *q, *q_transposed, *weights;
  float *scores, *result;
  Softmax run;
  ForwardBuffers(char* scratch, const AttentionTask& t, const Layout<Tile>& l) {
    Carver c(scratch);
    const int64_t keys = whole_blocks(t.keys());
    k = c.take<Element>(keys * l.head);
    v = c.take<Element>(keys * l.head);
    q = c.take<Element>(kBlock * l.head);
    q_transposed = c.take<Element>(kBlock * l.head);
    result = c.take<float>(kBlock * l.head);
    scores = c.take<float>(kBlock * kBlock);
    weights = Tile::kPair == 1 ? reinterpret_cast<Element*>(scores) : c.take<Element>(kBlock * kBlock / 2);
    run = {c.take<float>(kBlock), c.take<float>(kBlock), c.take<float>(kBlock)};
  }
};

// One block of queries of one head.
template <class X, class Tile>
void forward_block(const AttentionTask& t, const Layout<Tile>& l, const ForwardBuffers<Tile>& b, int64_t base, int head, int64_t begin) {
  const int64_t end = std::min(begin + kBlock, t.end_query), count = end - begin;
  pack_rows(static_cast<const X*>(t.q) + begin * t.q_row + head * t.head_dim, t.q_row, count, kBlock, t.head_dim, b.q, l.rows_row);
  transpose_block(b.q, l.rows_row, l.steps, b.q_transposed);
  std::fill_n(b.run.largest, kBlock, -std::numeric_limits<float>::infinity());
  std::fill_n(b.run.sum, kBlock, 0.0f);
  std::fill_n(b.result, kBlock * l.head, 0.0f);
  const float c = static_cast<float>(static_cast<double>(t.scale) * kLog2E);
  for (int64_t key = t.first_key(begin); key < t.last_key(end); key += kBlock) {
    const int64_t at = key - base;
    Tile::multiply(b.k + at * l.rows_row, l.rows_row, 1, b.q_transposed, kBlock, b.scores, kBlock, kBlock, kBlock, l.steps, false);
    if (softmax_tile<Tile>(b.scores, b.weights, b.run, c, Visible{t.past + begin, key, t.window})) scale_rows(b.result, l.head, b.run.factor);
    Tile::multiply(b.weights, 1, kBlock, b.v + at / Tile::kPair * l.head, l.head, b.result, l.head, kBlock, l.head, kBlockSteps<Tile>, true);
  }
  for (int64_t i = 0; i < count; ++i) {
    const VF factor = hn::Set(df, 1.0f / b.run.sum[i]);
    X* out = static_cast<X*>(t.out) + (begin + i) * t.out_row + head * t.head_dim;
    const float* from = b.result + i * l.head;
    for_vectors(0, t.head_dim, [&](int64_t j, auto lanes) HWY_ATTR { store(hn::Mul(load(from + j, lanes), factor), out + j, lanes); });
    if (t.lse) {
      const double sum = static_cast<double>(b.run.sum[i]), largest = static_cast<double>(b.run.largest[i]);
      t.lse[(begin + i) * t.lse_row + head] = static_cast<float>(largest / kLog2E + std::log(sum));
    }
  }
}

template <class X, class Tile>
void forward_task(const AttentionTask& t, char* scratch) {
  const Layout<Tile> l(t.head_dim);
  const ForwardBuffers<Tile> b(scratch, t, l);
  const int64_t base = t.first_key(t.first_query), count = t.keys() - base, rows = whole_blocks(count);
  pack_rows(static_cast<const X*>(t.k) + base * t.kv_row, t.kv_row, count, rows, t.head_dim, b.k, l.rows_row);
  pack_pairs(static_cast<const X*>(t.v) + base * t.kv_row, t.kv_row, count, rows, t.head_dim, b.v, l.head);
  for (int head = 0; head < t.group; ++head) {
    for (int64_t begin = t.first_query; begin < t.end_query; begin += kBlock) forward_block<X, Tile>(t, l, b, base, head, begin);
  }
}

// ---- backward

template <class Tile>
struct BackwardBuffers {
  using Element = typename Tile::Element;
  Element *k, *v, *k_pairs;                                               // all keys: rows, rows, interleaved rows
  float *dk, *dv;                                                         // [keys, head]
  Element *rows, *q_transposed, *dout_transposed, *q_pairs, *dout_pairs;  // a block of queries
  float *dq, *scores, *dscores, *lse, *delta;
  Element *weights, *ds_rows, *ds_pairs;  // P^T in rows; dS^T in rows and interleaved
  BackwardBuffers(char* scratch, const AttentionTask& t, const Layout<Tile>& l) {
    Carver c(scratch);
    const int64_t keys = whole_blocks(t.keys()), tile = kBlock * l.head;
    k = c.take<Element>(keys * l.head);
    v = c.take<Element>(keys * l.head);
    k_pairs = Tile::kPair == 1 ? k : c.take<Element>(keys / 2 * l.head);
    dk = c.take<float>(keys * l.head);
    dv = c.take<float>(keys * l.head);
    rows = c.take<Element>(tile);
    q_transposed = c.take<Element>(tile);
    dout_transposed = c.take<Element>(tile);
    q_pairs = c.take<Element>(tile);
    dout_pairs = c.take<Element>(tile);
    dq = c.take<float>(tile);
    scores = c.take<float>(kBlock * kBlock);
    dscores = c.take<float>(kBlock * kBlock);
    lse = c.take<float>(kBlock);
    delta = c.take<float>(kBlock);
    if constexpr (Tile::kPair == 1) {
      weights = scores;
      ds_rows = ds_pairs = dscores;
    } else {
      weights = c.take<Element>(kBlock * kBlock / 2);
      ds_rows = c.take<Element>(kBlock * kBlock / 2);
      ds_pairs = c.take<Element>(kBlock * kBlock / 2);
    }
  }
};

// P^T = exp2(S^T c - lse) and dS^T = P^T (dP^T - delta) scale, from S^T in b.scores and dP^T in b.dscores, as the products read them.
template <class Tile>
void gradient_tile(const BackwardBuffers<Tile>& b, float c, float scale, const Visible& visible) {
  const bool masked = !visible.all();
  const VF factor_to_base2 = hn::Set(df, c), factor = hn::Set(df, scale);
  const auto pair = [&](int64_t at, int64_t j, int64_t i, VF lse, VF delta, VF & p, VF & ds) HWY_ATTR __attribute__((always_inline)) {
    p = exp2_small(hn::MulSub(hn::LoadU(df, b.scores + at), factor_to_base2, lse));
    if (masked) p = hn::IfThenElseZero(visible.lanes(j, i), p);
    ds = hn::Mul(hn::Mul(p, factor), hn::Sub(hn::LoadU(df, b.dscores + at), delta));
  };
  for (int64_t j = 0; j < kBlock; j += 2) {
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      const VF lse = hn::LoadU(df, b.lse + i), delta = hn::LoadU(df, b.delta + i);
      const int64_t even = j * kBlock + i, odd = even + kBlock;
      VF p0, p1, ds0, ds1;
      pair(even, j, i, lse, delta, p0, ds0);
      pair(odd, j + 1, i, lse, delta, p1, ds1);
      if constexpr (Tile::kPair == 1) {
        hn::StoreU(p0, df, b.weights + even);
        hn::StoreU(p1, df, b.weights + odd);
        hn::StoreU(ds0, df, b.ds_rows + even);
        hn::StoreU(ds1, df, b.ds_rows + odd);
      } else {
        store(p0, reinterpret_cast<bfloat16*>(b.weights) + even);
        store(p1, reinterpret_cast<bfloat16*>(b.weights) + odd);
        store(ds0, reinterpret_cast<bfloat16*>(b.ds_rows) + even);
        store(ds1, reinterpret_cast<bfloat16*>(b.ds_rows) + odd);
        hn::StoreU(interleave_rounded(ds0, ds1), du, b.ds_pairs + j / 2 * kBlock + i);
      }
    }
  }
}

// The operands of a block of queries: q and dout, transposed and interleaved; lse in base 2; delta[i] = sum_j dout[i, j] out[i, j].
template <class X, class Tile>
void load_queries(const AttentionTask& t, const Layout<Tile>& l, const BackwardBuffers<Tile>& b, int head, int64_t begin, int64_t count) {
  const X* q = static_cast<const X*>(t.q) + begin * t.q_row + head * t.head_dim;
  const X* dout = static_cast<const X*>(t.dout) + begin * t.out_row + head * t.head_dim;
  const X* out = static_cast<const X*>(t.out) + begin * t.out_row + head * t.head_dim;
  pack_rows(q, t.q_row, count, kBlock, t.head_dim, b.rows, l.rows_row);
  transpose_block(b.rows, l.rows_row, l.steps, b.q_transposed);
  pack_rows(dout, t.out_row, count, kBlock, t.head_dim, b.rows, l.rows_row);
  transpose_block(b.rows, l.rows_row, l.steps, b.dout_transposed);
  pack_pairs(q, t.q_row, count, kBlock, t.head_dim, b.q_pairs, l.head);
  pack_pairs(dout, t.out_row, count, kBlock, t.head_dim, b.dout_pairs, l.head);
  std::fill_n(b.lse, kBlock, std::numeric_limits<float>::infinity());  // queries that are not there get no weights
  std::fill_n(b.delta, kBlock, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    VF sum = hn::Zero(df);
    for_vectors(0, t.head_dim, [&](int64_t j, auto lanes) HWY_ATTR {
      sum = hn::MulAdd(load(dout + i * t.out_row + j, lanes), load(out + i * t.out_row + j, lanes), sum);
    });
    b.delta[i] = sum_lanes(sum);
    b.lse[i] = static_cast<float>(static_cast<double>(t.lse[(begin + i) * t.lse_row + head]) * kLog2E);
  }
}

template <class X>
void store_rows(const float* from, int64_t from_row, X* to, int64_t to_row, int64_t count, int64_t head_dim) {
  for (int64_t i = 0; i < count; ++i) {
    for_vectors(0, head_dim, [&](int64_t j, auto lanes) HWY_ATTR { store(load(from + i * from_row + j, lanes), to + i * to_row + j, lanes); });
  }
}

template <class X, class Tile>
void backward_block(const AttentionTask& t, const Layout<Tile>& l, const BackwardBuffers<Tile>& b, int head, int64_t begin) {
  const int64_t end = std::min(begin + kBlock, t.end_query), count = end - begin;
  load_queries<X, Tile>(t, l, b, head, begin, count);
  std::fill_n(b.dq, kBlock * l.head, 0.0f);
  const float c = static_cast<float>(static_cast<double>(t.scale) * kLog2E);
  constexpr int64_t steps = kBlockSteps<Tile>;
  for (int64_t key = t.first_key(begin); key < t.last_key(end); key += kBlock) {
    Tile::multiply(b.k + key * l.rows_row, l.rows_row, 1, b.q_transposed, kBlock, b.scores, kBlock, kBlock, kBlock, l.steps, false);
    Tile::multiply(b.v + key * l.rows_row, l.rows_row, 1, b.dout_transposed, kBlock, b.dscores, kBlock, kBlock, kBlock, l.steps, false);
    gradient_tile<Tile>(b, c, t.scale, Visible{begin, key, t.window});
    Tile::multiply(b.weights, steps, 1, b.dout_pairs, l.head, b.dv + key * l.head, l.head, kBlock, l.head, steps, true);
    Tile::multiply(b.ds_rows, steps, 1, b.q_pairs, l.head, b.dk + key * l.head, l.head, kBlock, l.head, steps, true);
    Tile::multiply(b.ds_pairs, 1, kBlock, b.k_pairs + key / Tile::kPair * l.head, l.head, b.dq, l.head, kBlock, l.head, steps, true);
  }
  store_rows(b.dq, l.head, static_cast<X*>(t.dq) + begin * t.q_row + head * t.head_dim, t.q_row, count, t.head_dim);
}

template <class X, class Tile>
void backward_task(const AttentionTask& t, char* scratch) {
  const Layout<Tile> l(t.head_dim);
  const BackwardBuffers<Tile> b(scratch, t, l);
  const int64_t count = t.end_query, rows = whole_blocks(count);
  pack_rows(static_cast<const X*>(t.k), t.kv_row, count, rows, t.head_dim, b.k, l.rows_row);
  pack_rows(static_cast<const X*>(t.v), t.kv_row, count, rows, t.head_dim, b.v, l.rows_row);
  if constexpr (Tile::kPair == 2) pack_pairs(static_cast<const X*>(t.k), t.kv_row, count, rows, t.head_dim, b.k_pairs, l.head);
  std::fill_n(b.dk, rows * l.head, 0.0f);
  std::fill_n(b.dv, rows * l.head, 0.0f);
  for (int head = 0; head < t.group; ++head) {
    for (int64_t begin = 0; begin < t.end_query; begin += kBlock) backward_block<X, Tile>(t, l, b, head, begin);
  }
  store_rows(b.dk, l.head, static_cast<X*>(t.dk), t.kv_row, count, t.head_dim);
  store_rows(b.dv, l.head, static_cast<X*>(t.dv), t.kv_row, count, t.head_dim);
}

void attention_task_kernel(const AttentionTask& task, DType type, bool dot_bf16, bool backward, char* scratch) {
  if (type == DType::float32) return backward ? backward_task<float, FloatTile>(task, scratch) : forward_task<float, FloatTile>(task, scratch);
#if LLMTRAIN_DOT_TILES
  if (dot_bf16) return backward ? backward_task<bfloat16, DotTile>(task, scratch) : forward_task<bfloat16, DotTile>(task, scratch);
#endif
  return backward ? backward_task<bfloat16, FloatTile>(task, scratch) : forward_task<bfloat16, FloatTile>(task, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(attention_task_kernel);

namespace {

// Element `index` of an array of X.
void* at(const void* base, DType type, int64_t index) {
  return const_cast<char*>(static_cast<const char*>(base)) + index * static_cast<int64_t>(size_of(type));
}

struct Packed {  // what the tasks of a packed batch share
  TensorView qkv, out, lse;
  HeadLayout layout;
  float scale;
  int window;

  AttentionTask task(int64_t first, int64_t end, int kv_head) const {
    const int group = layout.heads / layout.kv_heads;
    const int64_t size = layout.head_dim, row = layout.row(), out_row = layout.heads * size;
    AttentionTask t{};
    t.q = at(qkv.data, qkv.dtype, first * row + kv_head * group * size);
    t.k = at(qkv.data, qkv.dtype, first * row + (layout.heads + kv_head) * size);
    t.v = at(qkv.data, qkv.dtype, first * row + (layout.heads + layout.kv_heads + kv_head) * size);
    t.q_row = t.kv_row = row;
    t.end_query = end - first;
    t.group = group;
    t.head_dim = size;
    t.scale = scale;
    t.window = window;
    t.out = at(out.data, out.dtype, first * out_row + kv_head * group * size);
    t.out_row = out_row;
    t.lse = lse ? lse.as<float>() + first * layout.heads + kv_head * group : nullptr;
    t.lse_row = layout.heads;
    return t;
  }
};

}  // namespace

size_t attention_forward_scratch(int64_t, int64_t longest, HeadLayout layout) {
  return static_cast<size_t>(thread_count()) * forward_task_bytes(longest, layout.head_dim);
}
size_t attention_backward_scratch(int64_t, int64_t longest, HeadLayout layout) {
  return static_cast<size_t>(thread_count()) * backward_task_bytes(longest, layout.head_dim);
}

void attention_forward(Workspace& workspace, bool dot_bf16, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window,
                       TensorView out, TensorView lse) {
  const int64_t count = static_cast<int64_t>(sequences.cu_seqlens.size()) - 1, chunks = (sequences.longest + kQueriesPerTask - 1) / kQueriesPerTask;
  const size_t bytes = forward_task_bytes(sequences.longest, layout.head_dim);
  char* scratch = workspace.get(bytes * static_cast<size_t>(thread_count()));
  const Packed packed{qkv, out, lse, layout, scale, window};
  parallel_tasks(chunks * count * layout.kv_heads, [&](int64_t i, int thread) {
    const int64_t sequence = i / layout.kv_heads % count, chunk = chunks - 1 - i / layout.kv_heads / count;  // the longest tasks first
    const int64_t first = sequences.cu_seqlens[static_cast<size_t>(sequence)], end = sequences.cu_seqlens[static_cast<size_t>(sequence + 1)];
    AttentionTask t = packed.task(first, end, static_cast<int>(i % layout.kv_heads));
    t.first_query = chunk * kQueriesPerTask;
    t.end_query = std::min(t.end_query, t.first_query + kQueriesPerTask);
    if (t.first_query < t.end_query)
      HWY_DYNAMIC_DISPATCH(attention_task_kernel)(t, qkv.dtype, dot_bf16, false, scratch + bytes * static_cast<size_t>(thread));
  });
}

void attention_backward(Workspace& workspace, bool dot_bf16, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences,
                        HeadLayout layout, float scale, int window, TensorView dqkv) {
  const int64_t count = static_cast<int64_t>(sequences.cu_seqlens.size()) - 1;
  const size_t bytes = backward_task_bytes(sequences.longest, layout.head_dim);
  char* scratch = workspace.get(bytes * static_cast<size_t>(thread_count()));
  const Packed packed{qkv, out, lse, layout, scale, window}, gradients{dqkv, dout, TensorView(), layout, scale, window};
  parallel_tasks(count * layout.kv_heads, [&](int64_t i, int thread) {
    const int64_t sequence = i / layout.kv_heads;
    const int64_t first = sequences.cu_seqlens[static_cast<size_t>(sequence)], end = sequences.cu_seqlens[static_cast<size_t>(sequence + 1)];
    const int kv_head = static_cast<int>(i % layout.kv_heads);
    AttentionTask t = packed.task(first, end, kv_head);
    const AttentionTask g = gradients.task(first, end, kv_head);
    t.dout = g.out;
    t.dq = const_cast<void*>(g.q);
    t.dk = const_cast<void*>(g.k);
    t.dv = const_cast<void*>(g.v);
    if (t.end_query > 0) HWY_DYNAMIC_DISPATCH(attention_task_kernel)(t, qkv.dtype, dot_bf16, true, scratch + bytes * static_cast<size_t>(thread));
  });
}

void attention_over_keys(Workspace& workspace, bool dot_bf16, DType type, const void* q, int64_t q_row, const void* k, const void* v, int64_t kv_row,
                         int64_t n, int64_t past, HeadLayout layout, float scale, int window, void* out) {
  const int64_t size = layout.head_dim, chunks = (n + kQueriesPerTask - 1) / kQueriesPerTask;
  const size_t bytes = forward_task_bytes(past + n, size);
  char* scratch = workspace.get(bytes * static_cast<size_t>(thread_count()));
  const int group = layout.heads / layout.kv_heads;
  parallel_tasks(chunks * layout.kv_heads, [&](int64_t i, int thread) {
    const int64_t kv_head = i % layout.kv_heads, chunk = chunks - 1 - i / layout.kv_heads;
    AttentionTask t{};
    t.q = at(q, type, kv_head * group * size);
    t.k = at(k, type, kv_head * size);
    t.v = at(v, type, kv_head * size);
    t.q_row = q_row;
    t.kv_row = kv_row;
    t.first_query = chunk * kQueriesPerTask;
    t.end_query = std::min(n, t.first_query + kQueriesPerTask);
    t.past = past;
    t.group = group;
    t.head_dim = size;
    t.scale = scale;
    t.window = window;
    t.out = at(out, type, kv_head * group * size);
    t.out_row = layout.heads * size;
    HWY_DYNAMIC_DISPATCH(attention_task_kernel)(t, type, dot_bf16, false, scratch + bytes * static_cast<size_t>(thread));
  });
}

}  // namespace llmtrain::cpu
#endif
