// Embedding: rows of a table, and the gradient added back into it in the order of the tokens.
//
//   kernel            bytes moved                                         bound
//   gather            2 T h X                                             memory
//   sort_tiles        4 T read, 8 T written                               latency of the stages in shared memory (66 for 2048 keys)
//   merge             16 T, log2(T / 2048) times                          latency of the binary searches, in the L2 cache
//   add_runs          T h X read; 8 h for each distinct id                memory; the longest run of one id where a single id has most tokens
#include <bit>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/vector.h"

namespace llmtrain::cuda {
namespace {

constexpr int kWarps = 8;              // of a block, each with its own row
constexpr int64_t kTile = 2048;        // keys that one block sorts in shared memory
constexpr uint64_t kNoKey = ~0ull;     // sorts behind all others
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int64_t warp_index() { return int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; }

// An id outside the table is a broken invariant: it ends the kernel with an error rather than reading what lies beside the table.
__device__ __forceinline__ int64_t checked_id(int32_t id, int64_t vocabulary) {
  if (id < 0 || id >= vocabulary) __trap();
  return id;
}

// A warp copies a row, a word (16 bytes, or one element) at a time.
template <class Word>
__global__ void gather_kernel(const int32_t* __restrict__ ids, const Word* __restrict__ table, Word* __restrict__ out, int64_t tokens,
                              int64_t vocabulary, int64_t words) {
  const int64_t t = warp_index();
  if (t >= tokens) return;
  const Word* from = table + checked_id(ids[t], vocabulary) * words;
  Word* to = out + t * words;
#pragma unroll 4
  for (int64_t i = lane_index(); i < words; i += 32) to[i] = from[i];
}

// key = (id, t): all keys differ, and their order is that of the ids and, within one, that of the tokens. A block sorts two keys a thread with
// Batcher's bitonic network (Batcher 1968, https://doi.org/10.1145/1468075.1468121).
__global__ void sort_tiles_kernel(const int32_t* __restrict__ ids, int64_t tokens, int64_t vocabulary, uint64_t* __restrict__ keys) {
  uint64_t* tile = ptx::dynamic_shared<uint64_t>();
  const int me = static_cast<int>(threadIdx.x), size = 2 * static_cast<int>(blockDim.x);
  const int64_t first = int64_t{blockIdx.x} * size;
  for (int i = me; i < size; i += size / 2) {
    const int64_t t = first + i;
    tile[i] = t < tokens ? static_cast<uint64_t>(checked_id(ids[t], vocabulary)) << 32 | static_cast<uint64_t>(t) : kNoKey;
  }
  for (int span = 2; span <= size; span *= 2) {
    for (int stride = span / 2; stride > 0; stride /= 2) {
      __syncthreads();
      const int low = 2 * me - (me & (stride - 1)), high = low + stride;
      const uint64_t a = tile[low], b = tile[high];
      const bool ascending = (low & span) == 0;
      if ((a > b) == ascending) {
        tile[low] = b;
        tile[high] = a;
      }
    }
  }
  __syncthreads();
  for (int i = me; i < size; i += size / 2)
    if (first + i < tokens) keys[first + i] = tile[i];
}

// Makes sorted runs of 2 `run` keys from pairs of runs of `run` (a power of two): a key's new place is its place in its own run plus the number of smaller
// keys in the other one.
__global__ void merge_kernel(const uint64_t* __restrict__ from, uint64_t* __restrict__ to, int64_t tokens, int64_t run) {
  const int64_t i = first_item();
  if (i >= tokens) return;
  const uint64_t key = from[i];
  const int64_t own = i & ~(run - 1), pair = i & ~(2 * run - 1), other = own == pair ? pair + run : pair;
  int64_t low = other, high = min(other + run, tokens);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (from[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  to[pair + (i - own) + (low - other)] = key;
}

// Warp (i, c): if sorted key i is the first of its id, adds all rows of that id to the columns [32 W c, 32 W (c + 1)) of the table. Eight rows are under way
// at a time, as the additions of a column have to wait for each other.
template <class X, int W>
__global__ void __launch_bounds__(32 * kWarps)
    add_runs_kernel(const uint64_t* __restrict__ keys, const X* __restrict__ dout, float* __restrict__ dtable, int64_t tokens, int64_t hidden) {
  constexpr int kBatch = 8;
  const int64_t first = warp_index();
  if (first >= tokens) return;
  const uint64_t id = keys[first] >> 32;
  if (first > 0 && keys[first - 1] >> 32 == id) return;
  const int64_t column = (int64_t{blockIdx.y} * 32 + lane_index()) * W;
  const bool mine = column < hidden;
  float* to = dtable + static_cast<int64_t>(id) * hidden + column;
  float sum[W] = {};
  if (mine) load_elements(to, sum);
  int count = 32;
  for (int64_t begin = first; count == 32; begin += 32) {
    const uint64_t key = begin + lane_index() < tokens ? keys[begin + lane_index()] : kNoKey;
    count = __popc(__ballot_sync(kAllLanes, key >> 32 == id));
    for (int r = 0; r < count; r += kBatch) {
      Raw<X, W> rows[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int64_t t = __shfl_sync(kAllLanes, static_cast<uint32_t>(key), r + b);
        if (mine && r + b < count) rows[b] = load_raw<W>(dout + t * hidden + column);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (!mine || r + b >= count) continue;
        float row[W];
        widen_raw<X, W>(rows[b], row);
#pragma unroll
        for (int i = 0; i < W; ++i) sum[i] += row[i];
      }
    }
  }
  if (mine) store_elements(to, sum);
}

template <class Word>
void gather(cudaStream_t s, TensorView ids, TensorView table, TensorView out, int64_t words) {
  const int64_t tokens = ids.elements();
  launch(s, "embedding_forward", {dim3(static_cast<unsigned>(ceil_div(tokens, kWarps))), dim3(32 * kWarps)}, gather_kernel<Word>, ids.as<int32_t>(),
         table.as<Word>(), out.as<Word>(), tokens, table.dim(0), words);
}

// Sorted keys, in one of the two halves of the scratch memory.
const uint64_t* sort_tokens(cudaStream_t s, Workspace& workspace, TensorView ids, int64_t vocabulary) {
  const int64_t tokens = ids.elements();
  Carver carver(workspace.get(embedding_backward_scratch(tokens)));
  auto* keys = carver.take<uint64_t>(tokens);
  auto* other = carver.take<uint64_t>(tokens);
  const int64_t tile = std::min(kTile, std::max<int64_t>(64, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)))));
  launch(s, "embedding_backward sort", {dim3(static_cast<unsigned>(ceil_div(tokens, tile))), dim3(static_cast<unsigned>(tile / 2)),
         static_cast<size_t>(tile) * sizeof(uint64_t)}, sort_tiles_kernel, ids.as<int32_t>(), tokens, vocabulary, keys);
  for (int64_t run = tile; run < tokens; run *= 2) {
    launch(s, "embedding_backward merge", {dim3(static_cast<unsigned>(ceil_div(tokens, kElementwiseThreads))), dim3(kElementwiseThreads)}, merge_kernel,
           keys, other, tokens, run);
    std::swap(keys, other);
  }
  return keys;
}

}  // namespace

void embedding_forward(cudaStream_t s, TensorView ids, TensorView table, TensorView out) {
  const int64_t hidden = table.dim(1);
  with_compute_type(table.dtype, [&](auto type) {
    using X = decltype(type);
    if (vectors_fit<X>(hidden, table.as<X>(), out.as<X>())) return gather<uint4>(s, ids, table, out, hidden / kVector<X>);
    gather<X>(s, ids, table, out, hidden);
  });
}

size_t embedding_backward_scratch(int64_t tokens) { return 2 * padded(static_cast<size_t>(tokens) * sizeof(uint64_t)); }

void embedding_backward(cudaStream_t s, Workspace& workspace, TensorView ids, TensorView dout, TensorView dtable) {
  const int64_t tokens = ids.elements(), hidden = dtable.dim(1);
  if (tokens == 0) return;
  const uint64_t* keys = sort_tokens(s, workspace, ids, dtable.dim(0));
  with_compute_type(dout.dtype, [&](auto type) {
    using X = decltype(type);
    with_width<X>(vectors_fit<X>(hidden, dout.as<X>(), dtable.as<X>()), [&](auto width) {
      constexpr int W = decltype(width)::value;
      const dim3 blocks(static_cast<unsigned>(ceil_div(tokens, kWarps)), static_cast<unsigned>(ceil_div(hidden, 32 * W)));
      launch(s, "embedding_backward", {blocks, dim3(32 * kWarps)}, add_runs_kernel<X, W>, keys, dout.as<X>(), dtable.as<float>(), tokens, hidden);
    });
  });
}

}  // namespace llmtrain::cuda
