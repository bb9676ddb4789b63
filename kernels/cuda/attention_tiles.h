// The tiles that the attention kernels are made of (FlashAttention-2: Dao 2023, https://arxiv.org/abs/2307.08691).
//
// A block of four warps holds one or two tiles of rows (queries, or keys in the pass for dK and dV) and streams pairs of tiles of columns (keys and
// values, or queries and dout) past them. Two kinds of tiles do the products, with the same functions:
//   MmaTiles   bfloat16 in shared memory, tensor cores, weights rounded to bfloat16 once; columns are copied by cp.async, the next pair while this one
//              is worked on. Head sizes that are multiples of 8.
//   FmaTiles   float32 in shared memory, fused multiply-adds; float32, and bfloat16 of any head size.
// In both a warp owns a quarter of the rows, and a thread holds, of a tile of scores, kThreadRows rows by kThreadColumns columns: the other columns of
// these rows lie in the kRowLanes lanes that differ from it in the lowest bits.
// Sums run in an order given by the shape alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "core/error.h"
#include "kernels/cuda/ptx.h"
#include "kernels/cuda/sequence_map.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda::attention {

inline constexpr int kThreads = 128;
inline constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;
// Dynamic shared memory that every GPU from sm_80 on can give a block.
inline constexpr size_t kSharedLimit = 99 * 1024;
__device__ __forceinline__ float negative_infinity() { return __int_as_float(static_cast<int>(0xff800000u)); }

__device__ __forceinline__ int warp_number() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ int lane_number() { return static_cast<int>(threadIdx.x) % 32; }

// Rows of a matrix in device memory, `stride` elements apart.
template <class X>
struct Matrix {
  X* data;
  int64_t stride;
};

// Which keys a query sees, by their places in the sequence.
struct Visible {
  int window;  // 0: no window
  __device__ __forceinline__ bool operator()(int query, int key) const { return key <= query && (window <= 0 || key > query - window); }
  // Whether each of the queries sees each of the keys.
  __device__ __forceinline__ bool all(int query, int queries, int key, int keys) const {
    return key + keys - 1 <= query && (window <= 0 || key > query + queries - 1 - window);
  }
  // The first key that a query sees.
  __device__ __forceinline__ int first_key(int query) const { return window > 0 && query >= window ? query - window + 1 : 0; }
  // The end of the queries that see some of the keys before `end`.
  __device__ __forceinline__ int end_query(int end, int queries) const { return window > 0 && queries - end >= window ? end + window - 1 : queries; }
};

// The part of a sequence that a block works on. Without tiles there is one sequence; then tiles are counted off here.
struct Place {
  int64_t token;   // of the sequence's first row
  int length;      // rows of the sequence
  int first;       // first row of the block's tile within the sequence
};

// Tile `number` of those of kRows rows into which the map's tiles are cut. False: the sequence ends before it.
template <int kRows>
__device__ __forceinline__ bool place_of(const SequenceTile* tiles, int length, int number, Place& place) {
  constexpr int kParts = kSequenceTile / kRows;
  if (tiles == nullptr) {
    place = {0, length, number * kRows};
  } else {
    const SequenceTile tile = tiles[number / kParts];
    place = {tile.begin, tile.end - tile.begin, tile.first - tile.begin + number % kParts * kRows};
  }
  return place.first < place.length;
}

// ---- tensor cores

// kDepth: head size in shared memory. kStages: how many pairs of column tiles there is room for.
template <int kDepth_, int kColumns_>
struct MmaTiles {
  using X = bfloat16;
  using Element = bfloat16;
  static constexpr int kDepth = kDepth_, kRows = 64, kColumns = kColumns_, kStages = 2;
  static constexpr int kStride = kDepth + 8;  // 16 bytes more: eight rows of ldmatrix then lie in different banks
  static constexpr int kThreadRows = 2, kThreadColumns = kColumns / 4, kThreadDepth = kDepth / 4, kRowLanes = 4;
  static constexpr int kExchange = 0;
  static_assert(kDepth % 16 == 0 && kColumns % 16 == 0);

  // The accumulators of mma.m16n8k16, as rows and columns of this thread.
  template <int columns>
  struct Fragments {
    float d[columns / 2][4];
    __device__ __forceinline__ float& operator()(int i, int j) { return d[j / 2][2 * i + j % 2]; }
  };
  using Scores = Fragments<kThreadColumns>;
  using Result = Fragments<kThreadDepth>;

  __device__ static __forceinline__ int row(int i) { return warp_number() * 16 + lane_number() / 4 + 8 * i; }
  __device__ static __forceinline__ int column(int j) { return j / 2 * 8 + 2 * (lane_number() % 4) + j % 2; }

  // Rows [first, first + rows) of `from` into a tile; rows from `end` on and columns beyond the head are zero.
  __device__ static __forceinline__ void load(bfloat16* tile, int rows, Matrix<const bfloat16> from, int first, int end, int head_dim, bool) {
    constexpr int kChunks = kDepth / 8;
    for (int c = static_cast<int>(threadIdx.x); c < rows * kChunks; c += kThreads) {
      const int r = c / kChunks, column = c % kChunks * 8;
      const bool there = first + r < end && column < head_dim;
      const bfloat16* source = from.data + (there ? (first + r) * from.stride + column : 0);
      ptx::copy_async_16(tile + r * kStride + column, source, there ? 16 : 0);
    }
  }
  __device__ static __forceinline__ void commit() { ptx::copy_async_commit(); }
  __device__ static __forceinline__ void wait() { ptx::copy_async_wait<0>(); }

  // s = a b^T: the warp's rows of a, all of b.
  __device__ static __forceinline__ void multiply(const bfloat16* a, const bfloat16* b, int, Scores& s) {
#pragma unroll
    for (int j = 0; j < kThreadColumns / 2; ++j) s.d[j][0] = s.d[j][1] = s.d[j][2] = s.d[j][3] = 0;
    const int lane = lane_number(), matrix = lane / 8, in_matrix = lane % 8;
    const bfloat16* a_row = a + (warp_number() * 16 + matrix % 2 * 8 + in_matrix) * kStride + matrix / 2 * 8;
    const bfloat16* b_row = b + (matrix / 2 * 8 + in_matrix) * kStride + matrix % 2 * 8;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t left[4];
      ptx::load_matrix_x4(left, a_row + k);
#pragma unroll
      for (int n = 0; n < kColumns; n += 16) {
        uint32_t right[4];
        ptx::load_matrix_x4(right, b_row + n * kStride + k);
        ptx::multiply_16x8x16(s.d[n / 8], left, right[0], right[1]);
        ptx::multiply_16x8x16(s.d[n / 8 + 1], left, right[2], right[3]);
      }
    }
  }

  // o += w b, with w a tile of scores. The accumulators of one product are the left operand of the next as they lie.
  __device__ static __forceinline__ void accumulate(Scores& w, float*, const bfloat16* b, int, Result& o) {
    const int lane = lane_number(), matrix = lane / 8, in_matrix = lane % 8;
    const bfloat16* b_row = b + (matrix % 2 * 8 + in_matrix) * kStride + matrix / 2 * 8;
#pragma unroll
    for (int k = 0; k < kColumns; k += 16) {
      const float(&low)[4] = w.d[k / 8], (&high)[4] = w.d[k / 8 + 1];
      const uint32_t left[4] = {ptx::pack_bf16x2(low[0], low[1]), ptx::pack_bf16x2(low[2], low[3]), ptx::pack_bf16x2(high[0], high[1]),
                                ptx::pack_bf16x2(high[2], high[3])};
#pragma unroll
      for (int n = 0; n < kDepth; n += 16) {
        uint32_t right[4];
        ptx::load_matrix_x4_transposed(right, b_row + k * kStride + n);
        ptx::multiply_16x8x16(o.d[n / 8], left, right[0], right[1]);
        ptx::multiply_16x8x16(o.d[n / 8 + 1], left, right[2], right[3]);
      }
    }
  }

  // to[first + row(i), :] = o(i, :) * factor[i], rows below `end`.
  __device__ static __forceinline__ void store(Result& o, const float (&factor)[kThreadRows], Matrix<bfloat16> to, int first, int end, int head_dim) {
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int r = first + row(i);
      if (r >= end) continue;
#pragma unroll
      for (int j = 0; j < kThreadDepth; j += 2) {
        if (column(j) >= head_dim) continue;  // head_dim is even: both or none
        *reinterpret_cast<uint32_t*>(to.data + r * to.stride + column(j)) = ptx::pack_bf16x2(o(i, j) * factor[i], o(i, j + 1) * factor[i]);
      }
    }
  }
};

// ---- fused multiply-adds

// A warp's lanes stand 4 x 8: lane / 8 + 4 i are its rows, lane % 8 + 8 j the columns of scores, 4 (lane % 8) + 32 m the quads of a result.
template <class X_, int kDepth_, int kRows_, int kColumns_>
struct FmaTiles {
  using X = X_;
  using Element = float;
  static constexpr int kDepth = kDepth_, kRows = kRows_, kColumns = kColumns_, kStages = 1;
  static constexpr int kStride = kDepth + 4;  // 16 bytes more: eight rows read as float4 then lie in different banks
  static constexpr int kThreadRows = kRows / 16, kThreadColumns = kColumns / 8, kThreadDepth = kDepth / 8, kRowLanes = 8;
  static constexpr int kExchangeStride = kColumns + 4, kExchange = kRows * kExchangeStride;
  static_assert(kDepth % 32 == 0 && kColumns % 8 == 0 && kRows % 16 == 0);

  template <int columns>
  struct Fragments {
    float d[kThreadRows][columns];
    __device__ __forceinline__ float& operator()(int i, int j) { return d[i][j]; }
  };
  using Scores = Fragments<kThreadColumns>;
  using Result = Fragments<kThreadDepth>;

  __device__ static __forceinline__ int row(int i) { return warp_number() * (kRows / 4) + lane_number() / 8 + 4 * i; }
  __device__ static __forceinline__ int column(int j) { return lane_number() % 8 + 8 * j; }

  // `vectors`: rows can be read 16 bytes at a time.
  __device__ static __forceinline__ void load(float* tile, int rows, Matrix<const X> from, int first, int end, int head_dim, bool vectors) {
    constexpr int kQuads = kDepth / 4;
    for (int c = static_cast<int>(threadIdx.x); c < rows * kQuads; c += kThreads) {
      const int r = c / kQuads, column = c % kQuads * 4;
      float4 quad = make_float4(0, 0, 0, 0);
      if (first + r < end && column < head_dim) {
        const X* source = from.data + (first + r) * from.stride + column;
        if (sizeof(X) == 4 && vectors) {
          quad = *reinterpret_cast<const float4*>(source);
        } else {
          quad.x = widen(source[0]);
          if (column + 1 < head_dim) quad.y = widen(source[1]);
          if (column + 2 < head_dim) quad.z = widen(source[2]);
          if (column + 3 < head_dim) quad.w = widen(source[3]);
        }
      }
      *reinterpret_cast<float4*>(tile + r * kStride + column) = quad;
    }
  }
  __device__ static __forceinline__ void commit() {}
  __device__ static __forceinline__ void wait() {}

  __device__ static __forceinline__ void multiply(const float* a, const float* b, int head_dim, Scores& s) {
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) s.d[i][j] = 0;
    const float *a_row = a + row(0) * kStride, *b_row = b + column(0) * kStride;
#pragma unroll 2
    for (int k = 0; k < head_dim; k += 4) {  // columns beyond the head are zero
      float4 left[kThreadRows];
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) left[i] = *reinterpret_cast<const float4*>(a_row + 4 * i * kStride + k);
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        const float4 right = *reinterpret_cast<const float4*>(b_row + 8 * j * kStride + k);
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
          s.d[i][j] = __fmaf_rn(left[i].x, right.x, s.d[i][j]);
          s.d[i][j] = __fmaf_rn(left[i].y, right.y, s.d[i][j]);
          s.d[i][j] = __fmaf_rn(left[i].z, right.z, s.d[i][j]);
          s.d[i][j] = __fmaf_rn(left[i].w, right.w, s.d[i][j]);
        }
      }
    }
  }

  // `exchange` passes the weights of a warp's rows to all of its lanes.
  __device__ static __forceinline__ void accumulate(Scores& w, float* exchange, const float* b, int head_dim, Result& o) {
    __syncwarp();  // the warp has read what lay there before
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) exchange[row(i) * kExchangeStride + column(j)] = w.d[i][j];
    __syncwarp();
    const float *w_row = exchange + row(0) * kExchangeStride, *b_quad = b + 4 * (lane_number() % 8);
#pragma unroll 1
    for (int k = 0; k < kColumns; k += 4) {
      float weights[kThreadRows][4];
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
        const float4 quad = *reinterpret_cast<const float4*>(w_row + 4 * i * kExchangeStride + k);
        weights[i][0] = quad.x, weights[i][1] = quad.y, weights[i][2] = quad.z, weights[i][3] = quad.w;
      }
#pragma unroll
      for (int m = 0; m < kDepth / 32; ++m) {
        if (32 * m >= head_dim) break;
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
          const float4 value = *reinterpret_cast<const float4*>(b_quad + (k + kk) * kStride + 32 * m);
#pragma unroll
          for (int i = 0; i < kThreadRows; ++i) {
            float* to = o.d[i] + 4 * m;
            to[0] = __fmaf_rn(weights[i][kk], value.x, to[0]);
            to[1] = __fmaf_rn(weights[i][kk], value.y, to[1]);
            to[2] = __fmaf_rn(weights[i][kk], value.z, to[2]);
            to[3] = __fmaf_rn(weights[i][kk], value.w, to[3]);
          }
        }
      }
    }
  }

  __device__ static __forceinline__ void store(Result& o, const float (&factor)[kThreadRows], Matrix<X> to, int first, int end, int head_dim) {
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int r = first + row(i);
      if (r >= end) continue;
#pragma unroll
      for (int j = 0; j < kThreadDepth; ++j) {
        const int column = 32 * (j / 4) + 4 * (lane_number() % 8) + j % 4;
        if (column < head_dim) to.data[r * to.stride + column] = narrow<X>(o.d[i][j] * factor[i]);
      }
    }
  }
};

// ---- what both share

template <class Tiles>
__device__ __forceinline__ void clear(typename Tiles::Result& o) {
#pragma unroll
  for (int i = 0; i < Tiles::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Tiles::kThreadDepth; ++j) o(i, j) = 0;
}

// The sum and the largest over the lanes that hold a row.
template <class Tiles>
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int bits = Tiles::kRowLanes / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
  return x;
}
template <class Tiles>
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int bits = Tiles::kRowLanes / 2; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, bits));
  return x;
}

// A block's shared memory: one or two tiles of rows, kStages pairs of tiles of columns, and what a warp exchanges weights through.
template <class Tiles>
class SharedTiles {
 public:
  using Element = typename Tiles::Element;
  static constexpr size_t bytes(int row_tiles) {
    return (static_cast<size_t>(row_tiles) * kRowTile + 2 * Tiles::kStages * kColumnTile) * sizeof(Element) + Tiles::kExchange * sizeof(float);
  }
  __device__ __forceinline__ explicit SharedTiles(int row_tiles) : rows_(ptx::dynamic_shared<Element>()), columns_(rows_ + row_tiles * kRowTile) {}
  __device__ __forceinline__ Element* rows(int i) const { return rows_ + i * kRowTile; }
  __device__ __forceinline__ Element* columns(int stage, int i) const { return columns_ + (2 * stage + i) * kColumnTile; }
  __device__ __forceinline__ float* exchange() const { return reinterpret_cast<float*>(columns(Tiles::kStages, 0)); }

 private:
  static constexpr int kRowTile = Tiles::kRows * Tiles::kStride, kColumnTile = Tiles::kColumns * Tiles::kStride;
  Element *rows_, *columns_;
};

// Runs load(step, stage) and then compute(step, stage) for each step, all threads in step. With two stages the next pair of column tiles is on its way
// while one is worked on. Tiles of rows whose loading began before are there at the first compute().
template <class Tiles, class Load, class Compute>
__device__ __forceinline__ void stream_columns(int steps, const Load& load, const Compute& compute) {
  if constexpr (Tiles::kStages == 2) {
    if (steps > 0) load(0, 0);
    Tiles::commit();
    for (int step = 0; step < steps; ++step) {
      Tiles::wait();
      __syncthreads();  // the pair has come for every thread, and nobody reads the other one any more
      if (step + 1 < steps) load(step + 1, (step + 1) % 2);
      Tiles::commit();
      compute(step, step % 2);
    }
  } else {
    for (int step = 0; step < steps; ++step) {
      __syncthreads();
      load(step, 0);
      __syncthreads();
      compute(step, 0);
    }
  }
}

// ---- which tiles a call takes (host)

inline void check_head_dim(int head_dim) {
  if (head_dim > 256)
    throw InputError("attention", "head size " + std::to_string(head_dim) + " is more than the 256 that the GPU kernels take", "use the CPU backend");
}

// Rows of heads must be whole 16-byte words.
template <class... P>
bool mma_fits(int head_dim, const P*... pointers) {
  return head_dim % 8 == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls f with the head size in shared memory as a constant.
template <class F>
void with_mma_depth(int head_dim, const F& f) {
  if (head_dim <= 32) return f(std::integral_constant<int, 32>());
  if (head_dim <= 64) return f(std::integral_constant<int, 64>());
  if (head_dim <= 96) return f(std::integral_constant<int, 96>());
  if (head_dim <= 128) return f(std::integral_constant<int, 128>());
  if (head_dim <= 192) return f(std::integral_constant<int, 192>());
  f(std::integral_constant<int, 256>());
}

}  // namespace llmtrain::cuda::attention
