// The CUDA operations as functions, one file for each group of kernels.h (where shapes and formulas stand), named as in kernels/cpu. Each submits its
// kernels to `s` and returns; kernels.cpp has checked the shapes. Where a Workspace is taken, `…_scratch` says how much of it.
//
// Conventions of the kernels
//   16-byte accesses wherever a row's length and address allow it, element by element otherwise (vector.h).
//   Sums are float32, in an order that follows from the shape alone: no floating-point atomics. The same input gives the same bits on any GPU.
//   Each file says of its kernels: bytes moved, what bounds it, and (once measured, docs/gpu/) what it reaches.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"
#include "kernels/cuda/sequence_map.h"
#include "kernels/kernels.h"
#include "kernels/workspace.h"

namespace llmtrain::cuda {

// A label that is not trained (torch.nn.CrossEntropyLoss's ignore_index).
inline constexpr int32_t kIgnoredLabel = -100;

// Calls f with a value of the storage type of a compute dtype: float or bfloat16.
template <class F>
void with_compute_type(DType dtype, const F& f) {
  if (dtype == DType::float32) return f(float{});
  LLMTRAIN_ASSERT(dtype == DType::bfloat16, "compute type " + std::string(name_of(dtype)));
  f(bfloat16{});
}

// reduce.cu.  The sums leave one double in `result` (device or pinned memory).
void cast(cudaStream_t s, TensorView from, TensorView to);
void add(cudaStream_t s, TensorView x, TensorView y);
size_t sum_scratch();
void sum(cudaStream_t s, void* scratch, TensorView x, bool squares, double* result);
size_t bias_backward_scratch(int64_t features);
void bias_backward(cudaStream_t s, Workspace& workspace, TensorView dy, TensorView db);

// embedding.cu
void embedding_forward(cudaStream_t s, TensorView ids, TensorView table, TensorView out);
size_t embedding_backward_scratch(int64_t tokens);
void embedding_backward(cudaStream_t s, Workspace& workspace, TensorView ids, TensorView dout, TensorView dtable);

// rms_norm.cu
void rms_norm_forward(cudaStream_t s, TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y, TensorView rstd);
size_t rms_norm_backward_scratch(int64_t hidden);
void rms_norm_backward(cudaStream_t s, Workspace& workspace, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres,
                       TensorView dx, TensorView dweight);

// qk_norm.cu
void qk_norm_forward(cudaStream_t s, TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out,
                     TensorView rstd);
size_t qk_norm_backward_scratch(int64_t head_dim);
void qk_norm_backward(cudaStream_t s, Workspace& workspace, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                      HeadLayout layout, TensorView dq_weight, TensorView dk_weight);

// rope.cu
void rope(cudaStream_t s, TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim, bool inverse);

// swiglu.cu
void swiglu_forward(cudaStream_t s, TensorView gate_up, TensorView out);
void swiglu_backward(cudaStream_t s, TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out);

// cross_entropy.cu
void cross_entropy(cudaStream_t s, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses);

// adamw.cu
void adamw(cudaStream_t s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step);

// attention.cu: the own flash-attention kernels (Dao 2023, https://arxiv.org/abs/2307.08691), for every head size up to 256, both compute types,
// deterministic.
void attention_forward(cudaStream_t s, TensorView qkv, const SequenceMap& sequences, HeadLayout layout, float scale, int window, TensorView out,
                       TensorView lse);
size_t attention_backward_scratch(int64_t tokens, HeadLayout layout);
void attention_backward(cudaStream_t s, Workspace& workspace, TensorView dout, TensorView qkv, TensorView out, TensorView lse,
                        const SequenceMap& sequences, HeadLayout layout, float scale, int window, TensorView dqkv);

// attention_cached.cu
size_t attention_cached_scratch(int64_t tokens, HeadLayout layout);
void attention_cached(cudaStream_t s, Workspace& workspace, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout,
                      float scale, int window, TensorView out);

}  // namespace llmtrain::cuda
