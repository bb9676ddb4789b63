// Rotary embedding of the query and key heads, in place.
//
//   kernel    bytes moved                                                   bound
//   rope      2 T (Hq + Hk) R X; 4 T R of the tables, read once a token     memory
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/vector.h"
#include "kernels/math/rope.h"

namespace llmtrain::cuda {
namespace {

constexpr int kThreads = 256;

// A block for each token. Thread (c, h) turns W pairs of each of the heads h, h + blockDim.y, …: their cosines and sines stay in registers.
template <class X, int W>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(X* __restrict__ qkv, const int32_t* __restrict__ positions, const float* __restrict__ cos, const float* __restrict__ sin,
                int64_t table_rows, int turned, int head_dim, int64_t row, int half, float direction) {
  const int64_t t = blockIdx.x, position = positions[t];
  if (position < 0 || position >= table_rows) __trap();  // a broken invariant, as on the CPU
  for (int i = static_cast<int>(threadIdx.x) * W; i < half; i += static_cast<int>(blockDim.x) * W) {
    float c[W], s[W];
    load_elements(cos + position * half + i, c);
    load_elements(sin + position * half + i, s);
#pragma unroll 2
    for (int head = static_cast<int>(threadIdx.y); head < turned; head += static_cast<int>(blockDim.y)) {
      X* x = qkv + t * row + int64_t{head} * head_dim + i;
      float a[W], b[W];
      load_elements(x, a);
      load_elements(x + half, b);
#pragma unroll
      for (int j = 0; j < W; ++j) math::rope_pair(a[j], b[j], c[j], direction * s[j]);
      store_elements(x, a);
      store_elements(x + half, b);
    }
  }
}

}  // namespace

void rope(cudaStream_t s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim, bool inverse) {
  const int half = rotary_dim / 2, turned = layout.heads + layout.kv_heads;
  if (half == 0) return;
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    const bool vectors = vectors_fit<X>(layout.head_dim, qkv.as<X>(), cos.as<float>(), sin.as<float>()) && half % kVector<X> == 0;
    with_width<X>(vectors, [&](auto width) {
      constexpr int W = decltype(width)::value;
      // Threads side by side cover half a head; above each other as many heads as fit, spread evenly over the turns that they take.
      const int64_t across = std::min<int64_t>(ceil_div(half, W), kThreads), turns = ceil_div(turned * across, kThreads), heads = ceil_div(turned, turns);
      const dim3 threads(static_cast<unsigned>(across), static_cast<unsigned>(std::min(heads, kThreads / across)));
      launch(s, "rope", {dim3(static_cast<unsigned>(qkv.dim(0))), threads}, rope_kernel<X, W>, qkv.as<X>(), positions.as<int32_t>(), cos.as<float>(),
             sin.as<float>(), cos.dim(0), turned, layout.head_dim, layout.row(), half, inverse ? -1.0f : 1.0f);
    });
  });
}

}  // namespace llmtrain::cuda
