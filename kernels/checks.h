// The shapes and dtypes that each operation of kernels.h takes, checked alike by every backend. A call that does not fit is a broken invariant.
#pragma once

#include <string>

#include "core/error.h"
#include "kernels/kernels.h"

namespace llmtrain::checks {

inline void shape(const TensorView& x, const Shape& shape, DType dtype, const char* name) {
  LLMTRAIN_ASSERT(x.dtype == dtype, std::string(name) + ": " + name_of(x.dtype) + " where " + name_of(dtype) + " belongs");
  LLMTRAIN_ASSERT(x.shape == shape, std::string(name) + ": " + x.shape.text() + " where " + shape.text() + " belongs");
}

inline void optional(const TensorView& x, const Shape& s, DType dtype, const char* name) {
  if (x) shape(x, s, dtype, name);
}

inline void heads(HeadLayout layout) {
  LLMTRAIN_ASSERT(layout.heads > 0 && layout.kv_heads > 0 && layout.heads % layout.kv_heads == 0 && layout.head_dim > 0, "head layout");
}

inline void sequences(Sequences sequences, int64_t tokens) {
  const auto& ends = sequences.cu_seqlens;
  LLMTRAIN_ASSERT(!ends.empty() && ends.front() == 0 && ends.back() == tokens, "cu_seqlens does not cover the tokens");
  for (size_t i = 1; i < ends.size(); ++i) {
    LLMTRAIN_ASSERT(ends[i] >= ends[i - 1] && ends[i] - ends[i - 1] <= sequences.longest,
                    "cu_seqlens decreases, or a sequence is longer than the longest");
  }
}

inline void cast(const TensorView& from, const TensorView& to) {
  const auto compute = [](DType t) { return t == DType::float32 || t == DType::bfloat16; };
  LLMTRAIN_ASSERT(from.elements() == to.elements(), "cast: " + from.shape.text() + " to " + to.shape.text());
  LLMTRAIN_ASSERT(from.dtype == to.dtype || (compute(from.dtype) && compute(to.dtype)),
                  std::string("cast: ") + name_of(from.dtype) + " to " + name_of(to.dtype));
}

inline void add(const TensorView& x, const TensorView& y) {
  LLMTRAIN_ASSERT(x.elements() == y.elements() && x.dtype == y.dtype, "add: operands differ");
}

inline void embedding_forward(const TensorView& ids, const TensorView& table, const TensorView& out) {
  shape(ids, {out.dim(0)}, DType::int32, "ids");
  shape(out, {ids.dim(0), table.dim(1)}, table.dtype, "out");
}

inline void embedding_backward(const TensorView& ids, const TensorView& dout, const TensorView& dtable) {
  shape(ids, {dout.dim(0)}, DType::int32, "ids");
  shape(dtable, {dtable.dim(0), dout.dim(1)}, DType::float32, "dtable");
}

inline void rms_norm_forward(const TensorView& x, const TensorView& delta, const TensorView& weight, const TensorView& sum, const TensorView& y,
                             const TensorView& rstd) {
  optional(delta, x.shape, x.dtype, "delta");
  optional(sum, x.shape, x.dtype, "sum");
  shape(weight, {x.dim(1)}, x.dtype, "weight");
  shape(y, x.shape, x.dtype, "y");
  optional(rstd, {x.dim(0)}, DType::float32, "rstd");
  LLMTRAIN_ASSERT(sum || !delta, "rms_norm_forward: a delta needs a place for the sum");
}

inline void rms_norm_backward(const TensorView& dy, const TensorView& x, const TensorView& weight, const TensorView& rstd, const TensorView& dres,
                              const TensorView& dx, const TensorView& dweight) {
  shape(dy, x.shape, x.dtype, "dy");
  shape(weight, {x.dim(1)}, x.dtype, "weight");
  shape(rstd, {x.dim(0)}, DType::float32, "rstd");
  optional(dres, x.shape, x.dtype, "dres");
  shape(dx, x.shape, x.dtype, "dx");
  optional(dweight, {x.dim(1)}, DType::float32, "dweight");
}

inline void qk_norm(const TensorView& qkv, const TensorView& q_weight, const TensorView& k_weight, HeadLayout layout, const TensorView& rstd) {
  heads(layout);
  shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
  shape(q_weight, {layout.head_dim}, qkv.dtype, "q_weight");
  shape(k_weight, {layout.head_dim}, qkv.dtype, "k_weight");
  shape(rstd, {qkv.dim(0), layout.heads + layout.kv_heads}, DType::float32, "rstd");
}

inline void qk_norm_forward(const TensorView& qkv, const TensorView& q_weight, const TensorView& k_weight, HeadLayout layout, const TensorView& out,
                            const TensorView& rstd) {
  qk_norm(qkv, q_weight, k_weight, layout, rstd);
  shape(out, qkv.shape, qkv.dtype, "out");
  LLMTRAIN_ASSERT(out.data != qkv.data, "qk_norm_forward: out may not be qkv");
}

inline void qk_norm_backward(const TensorView& dqkv, const TensorView& qkv, const TensorView& q_weight, const TensorView& k_weight,
                             const TensorView& rstd, HeadLayout layout, const TensorView& dq_weight, const TensorView& dk_weight) {
  qk_norm(qkv, q_weight, k_weight, layout, rstd);
  shape(dqkv, qkv.shape, qkv.dtype, "dqkv");
  LLMTRAIN_ASSERT(!dq_weight == !dk_weight, "qk_norm_backward: both weight gradients or none");
  optional(dq_weight, {layout.head_dim}, DType::float32, "dq_weight");
  optional(dk_weight, {layout.head_dim}, DType::float32, "dk_weight");
}

inline void rope(const TensorView& qkv, const TensorView& positions, const TensorView& cos, const TensorView& sin, HeadLayout layout,
                 int rotary_dim) {
  heads(layout);
  shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
  shape(positions, {qkv.dim(0)}, DType::int32, "positions");
  LLMTRAIN_ASSERT(rotary_dim % 2 == 0 && rotary_dim <= layout.head_dim, "rotary_dim");
  shape(cos, {cos.dim(0), rotary_dim / 2}, DType::float32, "cos");
  shape(sin, cos.shape, DType::float32, "sin");
}

inline void attention(const TensorView& qkv, Sequences s, HeadLayout layout, float scale, const TensorView& out) {
  heads(layout);
  sequences(s, qkv.dim(0));
  shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
  shape(out, {qkv.dim(0), int64_t{layout.heads} * layout.head_dim}, qkv.dtype, "out");
  LLMTRAIN_ASSERT(scale > 0, "attention: the scale is positive");
}

inline void attention_forward(const TensorView& qkv, Sequences s, HeadLayout layout, float scale, const TensorView& out, const TensorView& lse) {
  attention(qkv, s, layout, scale, out);
  optional(lse, {qkv.dim(0), layout.heads}, DType::float32, "lse");
}

inline void attention_backward(const TensorView& dout, const TensorView& qkv, const TensorView& out, const TensorView& lse, Sequences s,
                               HeadLayout layout, float scale, const TensorView& dqkv) {
  attention(qkv, s, layout, scale, out);
  shape(lse, {qkv.dim(0), layout.heads}, DType::float32, "lse");
  shape(dout, out.shape, out.dtype, "dout");
  shape(dqkv, qkv.shape, qkv.dtype, "dqkv");
  LLMTRAIN_ASSERT(dqkv.data != qkv.data, "attention_backward: dqkv may not be qkv");
}

inline void attention_cached(const TensorView& qkv, const TensorView& k_cache, const TensorView& v_cache, int64_t past, HeadLayout layout,
                             const TensorView& out) {
  heads(layout);
  shape(qkv, {qkv.dim(0), layout.row()}, qkv.dtype, "qkv");
  shape(out, {qkv.dim(0), int64_t{layout.heads} * layout.head_dim}, qkv.dtype, "out");
  shape(k_cache, {k_cache.dim(0), int64_t{layout.kv_heads} * layout.head_dim}, qkv.dtype, "k_cache");
  shape(v_cache, k_cache.shape, qkv.dtype, "v_cache");
  LLMTRAIN_ASSERT(past >= 0 && past + qkv.dim(0) <= k_cache.dim(0), "attention_cached: the cache is full");
}

inline void swiglu_forward(const TensorView& gate_up, const TensorView& out) {
  shape(gate_up, {out.dim(0), 2 * out.dim(1)}, out.dtype, "gate_up");
}

inline void swiglu_backward(const TensorView& dout, const TensorView& gate_up, const TensorView& dgate_up, const TensorView& out) {
  shape(gate_up, {dout.dim(0), 2 * dout.dim(1)}, dout.dtype, "gate_up");
  shape(dgate_up, gate_up.shape, dout.dtype, "dgate_up");
  optional(out, dout.shape, dout.dtype, "out");
}

inline void linear_forward(const TensorView& x, const TensorView& w, const TensorView& bias, const TensorView& y) {
  shape(x, {x.dim(0), w.dim(1)}, w.dtype, "x");
  shape(y, {x.dim(0), w.dim(0)}, w.dtype, "y");
  optional(bias, {w.dim(0)}, w.dtype, "bias");
}

inline void linear_backward_input(const TensorView& dy, const TensorView& w, const TensorView& dx) {
  shape(dy, {dy.dim(0), w.dim(0)}, w.dtype, "dy");
  shape(dx, {dy.dim(0), w.dim(1)}, w.dtype, "dx");
}

inline void linear_backward_weight(const TensorView& dy, const TensorView& x, const TensorView& dw) {
  shape(x, {dy.dim(0), x.dim(1)}, dy.dtype, "x");
  shape(dw, {dy.dim(1), x.dim(1)}, DType::float32, "dw");
}

inline void bias_backward(const TensorView& dy, const TensorView& db) { shape(db, {dy.dim(1)}, DType::float32, "db"); }

inline void cross_entropy(const TensorView& logits, const TensorView& labels, const TensorView& losses) {
  shape(labels, {logits.dim(0)}, DType::int32, "labels");
  shape(losses, {logits.dim(0)}, DType::float32, "losses");
}

inline void adamw(const TensorView& master, const TensorView& grad, const TensorView& m, const TensorView& v, const TensorView& low,
                  const AdamWStep& step) {
  const int64_t n = master.elements();
  for (const TensorView* x : {&master, &grad, &m, &v}) LLMTRAIN_ASSERT(x->elements() == n, "adamw: states are equally long");
  for (const TensorView* x : {&master, &m, &v})
    LLMTRAIN_ASSERT(x->dtype == DType::float32 || x->dtype == DType::bfloat16, "adamw: states are float32 or bfloat16");
  LLMTRAIN_ASSERT(grad.dtype == DType::float32 && m.dtype == v.dtype, "adamw: the gradient is float32, the moments are of one type");
  LLMTRAIN_ASSERT(!low || (low.elements() == n && master.dtype == DType::float32), "adamw: low");
  LLMTRAIN_ASSERT(step.step >= 1, "adamw: steps count from 1");
}

inline void sum(const TensorView& x) { LLMTRAIN_ASSERT(x.dtype == DType::float32, "sums are taken of float32"); }

}  // namespace llmtrain::checks
