// SwiGLU: silu(gate) * up and its gradient.
//
//   kernel             bytes moved                               bound
//   swiglu_forward     3 T F X                                   memory; in bfloat16 near the issue rate (an exponential and a quotient each)
//   swiglu_backward    5 T F X, 6 where out is written again     memory
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/vector.h"
#include "kernels/math/silu.h"

namespace llmtrain::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPieces = 2;  // times W elements for each thread, all loads of which are under way at once

// Row t and the pieces of it that this thread takes. Blocks (t parts + part): each does a part of a row.
struct Place {
  int64_t row, first, stride;  // in pieces of W elements
};
__device__ __forceinline__ Place place_of(unsigned parts) {
  const int64_t row = blockIdx.x / parts, part = blockIdx.x % parts;
  return {row, part * kPieces * blockDim.x + threadIdx.x, int64_t{blockDim.x}};
}

// Both passes take silu as a * sigmoid(a), so that the product which the backward pass computes again has the same bits.
template <class X, int W>
__global__ void __launch_bounds__(kThreads)
    swiglu_forward_kernel(const X* __restrict__ gate_up, X* __restrict__ out, int64_t features, unsigned parts) {
  const Place at = place_of(parts);
  const X* gate = gate_up + at.row * 2 * features;
  Raw<X, W> gates[kPieces], ups[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const int64_t j = (at.first + k * at.stride) * W;
    if (j >= features) continue;
    gates[k] = load_raw<W>(gate + j);
    ups[k] = load_raw<W>(gate + features + j);
  }
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const int64_t j = (at.first + k * at.stride) * W;
    if (j >= features) continue;
    float a[W], u[W];
    widen_raw<X, W>(gates[k], a);
    widen_raw<X, W>(ups[k], u);
#pragma unroll
    for (int i = 0; i < W; ++i) a[i] = math::silu(a[i]) * u[i];
    store_elements(out + at.row * features + j, a);
  }
}

// dgate_up may be gate_up; out may be null.
template <class X, int W>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(const X* __restrict__ dout, const X* gate_up, X* dgate_up, X* __restrict__ out, int64_t features, unsigned parts) {
  const Place at = place_of(parts);
  const int64_t row = at.row * 2 * features;
  Raw<X, W> gradients[kPieces], gates[kPieces], ups[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const int64_t j = (at.first + k * at.stride) * W;
    if (j >= features) continue;
    gradients[k] = load_raw<W>(dout + at.row * features + j);
    gates[k] = load_raw<W>(gate_up + row + j);
    ups[k] = load_raw<W>(gate_up + row + features + j);
  }
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const int64_t j = (at.first + k * at.stride) * W;
    if (j >= features) continue;
    float d[W], a[W], u[W], product[W];
    widen_raw<X, W>(gradients[k], d);
    widen_raw<X, W>(gates[k], a);
    widen_raw<X, W>(ups[k], u);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      const float gate = a[i], up = u[i], sigmoid = math::sigmoid(gate), silu = gate * sigmoid;
      a[i] = d[i] * up * (sigmoid * (1.0f + gate * (1.0f - sigmoid)));  // math::silu_derivative
      u[i] = d[i] * silu;
      product[i] = silu * up;
    }
    store_elements(dgate_up + row + j, a);
    store_elements(dgate_up + row + features + j, u);
    if (out) store_elements(out + at.row * features + j, product);
  }
}

// As few parts a row as a block can take, and as few threads as these parts then need.
struct RowParts {
  unsigned parts;
  Grid grid;
};
RowParts row_parts(int64_t tokens, int64_t pieces) {
  const int64_t parts = ceil_div(pieces, kPieces * kThreads), blocks = tokens * parts;
  LLMTRAIN_ASSERT(blocks < (int64_t{1} << 31), "swiglu: " + std::to_string(blocks) + " blocks");
  return {static_cast<unsigned>(parts), {dim3(static_cast<unsigned>(blocks)), dim3(whole_warps(ceil_div(pieces, parts * kPieces), kThreads))}};
}

}  // namespace

void swiglu_forward(cudaStream_t s, TensorView gate_up, TensorView out) {
  const int64_t features = out.dim(1);
  with_compute_type(out.dtype, [&](auto type) {
    using X = decltype(type);
    with_width<X>(vectors_fit<X>(features, gate_up.as<X>(), out.as<X>()), [&](auto width) {
      constexpr int W = decltype(width)::value;
      const auto [parts, grid] = row_parts(out.dim(0), features / W);
      launch(s, "swiglu_forward", grid, swiglu_forward_kernel<X, W>, gate_up.as<X>(), out.as<X>(), features, parts);
    });
  });
}

void swiglu_backward(cudaStream_t s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) {
  const int64_t features = dout.dim(1);
  with_compute_type(dout.dtype, [&](auto type) {
    using X = decltype(type);
    with_width<X>(vectors_fit<X>(features, dout.as<X>(), gate_up.as<X>(), dgate_up.as<X>(), out.as<X>()), [&](auto width) {
      constexpr int W = decltype(width)::value;
      const auto [parts, grid] = row_parts(dout.dim(0), features / W);
      launch(s, "swiglu_backward", grid, swiglu_backward_kernel<X, W>, dout.as<X>(), gate_up.as<X>(), dgate_up.as<X>(), out.as<X>(), features, parts);
    });
  });
}

}  // namespace llmtrain::cuda
