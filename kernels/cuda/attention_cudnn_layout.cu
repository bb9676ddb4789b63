// Offsets and gradient layout for cuDNN's attention (attention_cudnn_layout.h).
//
//   kernel            bytes moved                  bound
//   offsets           40 a sequence                launch; once a micro-batch
//   place_gradients   4 a gradient element         memory
#include <algorithm>

#include "kernels/cuda/attention_cudnn_layout.h"
#include "kernels/cuda/launch.h"

namespace llmtrain::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void offsets_kernel(const int32_t* __restrict__ cu_seqlens, int64_t count, int64_t entries, int64_t row, int64_t q_width, int64_t kv_width,
                               int64_t heads, OffsetArrays out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= entries) return;
  const int64_t begin = cu_seqlens[i < count ? i : count];
  out.qkv[i] = begin * row;
  out.q[i] = begin * q_width;
  out.kv[i] = begin * kv_width;
  out.heads[i] = begin * heads;
  out.length[i] = i < count ? static_cast<int32_t>(cu_seqlens[i + 1] - begin) : 0;
}

// A gradient of its own: `width` groups of 8 elements a row, which belong at group `column` of dqkv's row.
struct Part {
  const uint4* from;
  int64_t width, column;
};
struct Parts {
  Part part[3];
};

__global__ void place_kernel(Parts parts, int64_t tokens, int64_t row, uint4* __restrict__ to) {
  const Part part = parts.part[blockIdx.y];
  const int64_t n = tokens * part.width, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t t = i / part.width, j = i - t * part.width;
    to[t * row + part.column + j] = __ldcs(part.from + i);
  }
}

}  // namespace

void attention_offsets(cudaStream_t s, const int32_t* cu_seqlens, int64_t count, int64_t entries, HeadLayout layout, const OffsetArrays& out) {
  const int64_t d = layout.head_dim;
  launch(s, "attention_offsets", {dim3(static_cast<unsigned>(ceil_div(entries, kThreads))), dim3(kThreads)}, offsets_kernel, cu_seqlens, count, entries,
         layout.row(), layout.heads * d, layout.kv_heads * d, int64_t{layout.heads}, out);
}

void place_gradients(cudaStream_t s, const void* dq, const void* dk, const void* dv, HeadLayout layout, TensorView dqkv) {
  const int64_t q = int64_t{layout.heads} * layout.head_dim / 8, kv = int64_t{layout.kv_heads} * layout.head_dim / 8, tokens = dqkv.dim(0);
  Parts parts = {};
  unsigned count = 0;
  int64_t widest = 0;
  const auto add = [&](const void* from, int64_t width, int64_t column) {
    if (from == nullptr) return;
    parts.part[count++] = {static_cast<const uint4*>(from), width, column};
    widest = std::max(widest, width);
  };
  add(dq, q, 0);
  add(dk, kv, q);
  add(dv, kv, q + kv);
  const int64_t blocks = std::min<int64_t>(ceil_div(tokens * widest, kThreads), 1 << 16);
  launch(s, "place_gradients", {dim3(static_cast<unsigned>(blocks), count), dim3(kThreads)}, place_kernel, parts, tokens, q + 2 * kv,
         static_cast<uint4*>(dqkv.data));
}

}  // namespace llmtrain::cuda
