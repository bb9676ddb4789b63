// The CPU operations as functions: one file per group of kernels.h, where shapes and formulas stand. kernels.cpp checks the shapes and calls them.
// X is float or bfloat16. Vector code is chosen at run time for the processor (Highway's dynamic dispatch).
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/workspace.h"
#include "kernels/kernels.h"

namespace llmtrain::cpu {

// Calls f with a value of the C++ type of a compute dtype.
template <class F>
void with_compute_type(DType dtype, const F& f) {
  if (dtype == DType::float32) return f(float{});
  LLMTRAIN_ASSERT(dtype == DType::bfloat16, "compute type " + std::string(name_of(dtype)));
  f(bfloat16{});
}

// A label that is not trained (torch.nn.CrossEntropyLoss's ignore_index).
inline constexpr int32_t kIgnoredLabel = -100;

// reduce.cpp
void zero(TensorView x);
void cast(TensorView from, TensorView to);
void add(TensorView x, TensorView y);
double sum_squares(TensorView x);
double sum(TensorView x);
void bias_backward(TensorView dy, TensorView db);

// embedding.cpp
void embedding_forward(TensorView ids, TensorView table, TensorView out);
void embedding_backward(TensorView ids, TensorView dout, TensorView dtable);

// rms_norm.cpp
void rms_norm_forward(TensorView x, TensorView delta, TensorView weight, float eps, TensorView sum, TensorView y, TensorView rstd);
size_t rms_norm_backward_scratch(int64_t tokens, int64_t hidden);
void rms_norm_backward(Workspace& workspace, TensorView dy, TensorView x, TensorView weight, TensorView rstd, TensorView dres, TensorView dx,
                       TensorView dweight);

// qk_norm.cpp
void qk_norm_forward(TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out, TensorView rstd);
size_t qk_norm_backward_scratch(int64_t tokens, int64_t head_dim);
void qk_norm_backward(Workspace& workspace, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                      HeadLayout layout, TensorView dq_weight, TensorView dk_weight);

// rope.cpp
void rope(TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim, bool inverse);

// swiglu.cpp
void swiglu_forward(TensorView gate_up, TensorView out);
void swiglu_backward(TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out);

// cross_entropy.cpp
size_t cross_entropy_scratch(int64_t vocabulary);
void cross_entropy(Workspace& workspace, TensorView logits, TensorView labels, float scale, bool gradient, TensorView losses);

// adamw.cpp
void adamw(TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step);

// attention.cpp.  `dot_bf16`: multiply bfloat16 tiles with the processor's bfloat16 dot product instead of widening them to float32.
size_t attention_forward_scratch(int64_t tokens, int64_t longest, HeadLayout layout);
size_t attention_backward_scratch(int64_t tokens, int64_t longest, HeadLayout layout);
void attention_forward(Workspace& workspace, bool dot_bf16, TensorView qkv, Sequences sequences, HeadLayout layout, float scale, int window,
                       TensorView out, TensorView lse);
void attention_backward(Workspace& workspace, bool dot_bf16, TensorView dout, TensorView qkv, TensorView out, TensorView lse, Sequences sequences,
                        HeadLayout layout, float scale, int window, TensorView dqkv);
// Queries of one sequence over longer keys: query i stands at `past` + i.  q [n, Hq * D] in rows of q_row elements, k and v [past + n, Hk * D]
// in rows of kv_row elements. out [n, Hq * D].
void attention_over_keys(Workspace& workspace, bool dot_bf16, DType type, const void* q, int64_t q_row, const void* k, const void* v, int64_t kv_row,
                         int64_t n, int64_t past, HeadLayout layout, float scale, int window, void* out);

// attention_cached.cpp
size_t attention_cached_scratch(int64_t tokens, HeadLayout layout);
void attention_cached(Workspace& workspace, bool dot_bf16, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout,
                      float scale, int window, TensorView out);

// linear.cpp: few rows (generation), at the speed at which w is read.
inline constexpr int64_t kSkinnyTokens = 8;
size_t linear_skinny_scratch(int64_t in_features);
void linear_skinny(Workspace& workspace, TensorView x, TensorView w, TensorView bias, TensorView y, bool accumulate);

// isa.cpp: limits the vector code (and the bfloat16 dot product) to LLMTRAIN_MAX_ISA (baseline, avx2, avx512) where it is set; InputError for another
// value.
void limit_instruction_set();
// Whether the bfloat16 dot product is there and pays: AMD runs it at twice the float32 rate, Intel's cores at half of it (they have AMX in its
// place).
bool bf16_dot_pays();
// "avx512 …": for the log.
std::string vector_isa();

}  // namespace llmtrain::cpu
