// RMSNorm of each query and key head (Qwen3), and its gradient.
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/qk_norm.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

#ifndef LLMTRAIN_KERNELS_CPU_QK_NORM_ONCE_
#define LLMTRAIN_KERNELS_CPU_QK_NORM_ONCE_
namespace llmtrain::cpu {
inline constexpr int64_t kQkNormBlock = 64;  // tokens per partial sum of the weights' gradients
}  // namespace llmtrain::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

template <class X>
float normalise_head(const X* x, const X* weight, float eps, X* y, int64_t n) {
  VF square = hn::Zero(df);
  for_vectors(0, n, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF v = load(x + j, lanes);
    square = hn::MulAdd(v, v, square);
  });
  const float r = 1.0f / std::sqrt(sum_lanes(square) / static_cast<float>(n) + eps);
  const VF factor = hn::Set(df, r);
  for_vectors(0, n,
              [&](int64_t j, auto lanes) HWY_ATTR { store(hn::Mul(load(weight + j, lanes), hn::Mul(load(x + j, lanes), factor)), y + j, lanes); });
  return r;
}

// d: the gradient of the result, replaced by the gradient of x.
template <class X>
void head_backward(X* d, const X* x, const X* weight, float r, float* dweight, int64_t n) {
  VF dot = hn::Zero(df);
  const VF rstd = hn::Set(df, r);
  for_vectors(0, n, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF product = hn::Mul(load(d + j, lanes), load(x + j, lanes));
    dot = hn::MulAdd(product, load(weight + j, lanes), dot);
    if (dweight) store(hn::MulAdd(product, rstd, load(dweight + j, lanes)), dweight + j, lanes);
  });
  const VF along_x = hn::Set(df, -r * r * r * (sum_lanes(dot) / static_cast<float>(n)));
  for_vectors(0, n, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF g = hn::Mul(load(d + j, lanes), load(weight + j, lanes));
    store(hn::MulAdd(load(x + j, lanes), along_x, hn::Mul(g, rstd)), d + j, lanes);
  });
}

void qk_norm_forward_kernel(TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out, TensorView rstd) {
  const int heads = layout.heads + layout.kv_heads;
  const int64_t size = layout.head_dim, row = layout.row();
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(qkv.dim(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const X* from = qkv.as<X>() + t * row;
        X* to = out.as<X>() + t * row;
        for (int head = 0; head < heads; ++head) {
          const X* weight = head < layout.heads ? q_weight.as<X>() : k_weight.as<X>();
          rstd.as<float>()[t * heads + head] = normalise_head(from + head * size, weight, eps, to + head * size, size);
        }
        std::memcpy(to + heads * size, from + heads * size, static_cast<size_t>(layout.kv_heads * size) * sizeof(X));
      }
    });
  });
}

// parts float32 [blocks, 2, D] (q, then k), or null.
void qk_norm_backward_kernel(TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd, HeadLayout layout,
                             float* parts) {
  const int heads = layout.heads + layout.kv_heads;
  const int64_t size = layout.head_dim, row = layout.row(), tokens = qkv.dim(0);
  with_compute_type(qkv.dtype, [&](auto type) {
    using X = decltype(type);
    parallel_tasks((tokens + kQkNormBlock - 1) / kQkNormBlock, [&](int64_t block, int) {
      float* part = parts ? parts + block * 2 * size : nullptr;
      if (part) std::fill_n(part, 2 * size, 0.0f);
      for (int64_t t = block * kQkNormBlock; t < std::min(tokens, (block + 1) * kQkNormBlock); ++t) {
        for (int head = 0; head < heads; ++head) {
          const bool is_q = head < layout.heads;
          head_backward(dqkv.as<X>() + t * row + head * size, qkv.as<X>() + t * row + head * size, is_q ? q_weight.as<X>() : k_weight.as<X>(),
                        rstd.as<float>()[t * heads + head], part ? part + (is_q ? 0 : size) : nullptr, size);
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

HWY_EXPORT(qk_norm_forward_kernel);
HWY_EXPORT(qk_norm_backward_kernel);

void qk_norm_forward(TensorView qkv, TensorView q_weight, TensorView k_weight, float eps, HeadLayout layout, TensorView out, TensorView rstd) {
  HWY_DYNAMIC_DISPATCH(qk_norm_forward_kernel)(qkv, q_weight, k_weight, eps, layout, out, rstd);
}

size_t qk_norm_backward_scratch(int64_t tokens, int64_t head_dim) {
  return padded(static_cast<size_t>((tokens + kQkNormBlock - 1) / kQkNormBlock * 2 * head_dim) * sizeof(float));
}

void qk_norm_backward(Workspace& workspace, TensorView dqkv, TensorView qkv, TensorView q_weight, TensorView k_weight, TensorView rstd,
                      HeadLayout layout, TensorView dq_weight, TensorView dk_weight) {
  const int64_t size = layout.head_dim, blocks = (qkv.dim(0) + kQkNormBlock - 1) / kQkNormBlock;
  float* parts = dq_weight ? reinterpret_cast<float*>(workspace.get(qk_norm_backward_scratch(qkv.dim(0), size))) : nullptr;
  HWY_DYNAMIC_DISPATCH(qk_norm_backward_kernel)(dqkv, qkv, q_weight, k_weight, rstd, layout, parts);
  if (!parts) return;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t j = 0; j < size; ++j) {
      dq_weight.as<float>()[j] += parts[block * 2 * size + j];
      dk_weight.as<float>()[j] += parts[(block * 2 + 1) * size + j];
    }
  }
}

}  // namespace llmtrain::cpu
#endif
