// Rotary embedding of the query and key heads, in place.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// math::rope_pair on vectors, for all heads of a token.
template <class X, bool kInverse>
void rotate_heads(X* row, const float* cos, const float* sin, int heads, int64_t head_dim, int64_t half) {
  for (int head = 0; head < heads; ++head) {
    X* a = row + head * head_dim;
    X* b = a + half;
    for_vectors(0, half, [&](int64_t i, auto lanes) HWY_ATTR {
      const VF c = load(cos + i, lanes), s = load(sin + i, lanes), x = load(a + i, lanes), y = load(b + i, lanes);
      if constexpr (kInverse) {
        store(hn::MulAdd(x, c, hn::Mul(y, s)), a + i, lanes);
        store(hn::NegMulAdd(x, s, hn::Mul(y, c)), b + i, lanes);
      } else {
        store(hn::NegMulAdd(y, s, hn::Mul(x, c)), a + i, lanes);
        store(hn::MulAdd(x, s, hn::Mul(y, c)), b + i, lanes);
      }
    });
  }
}

void rope_kernel(TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim, bool inverse) {
  const int64_t half = rotary_dim / 2;
  const int heads = layout.heads + layout.kv_heads;
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(qkv.dim(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        X* row = qkv.as<X>() + t * layout.row();
        const int64_t position = positions.as<int32_t>()[t];
        const float* c = cos.as<float>() + position * half;
        const float* s = sin.as<float>() + position * half;
        if (inverse) {
          rotate_heads<X, true>(row, c, s, heads, layout.head_dim, half);
        } else {
          rotate_heads<X, false>(row, c, s, heads, layout.head_dim, half);
        }
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(rope_kernel);

void rope(TensorView qkv, TensorView positions, TensorView cos, TensorView sin, HeadLayout layout, int rotary_dim, bool inverse) {
  for (int64_t t = 0; t < qkv.dim(0); ++t) {
    const int32_t position = positions.as<int32_t>()[t];
    LLMTRAIN_ASSERT(position >= 0 && position < cos.dim(0), "position " + std::to_string(position) + " outside the rotary tables");
  }
  HWY_DYNAMIC_DISPATCH(rope_kernel)(qkv, positions, cos, sin, layout, rotary_dim, inverse);
}

}  // namespace llmtrain::cpu
#endif
