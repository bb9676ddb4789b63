// Attention of a few new tokens over cached keys and values (generation): each cached row is read once per key-value head.
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_cached.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

#ifndef LLMTRAIN_KERNELS_CPU_ATTENTION_CACHED_ONCE_
#define LLMTRAIN_KERNELS_CPU_ATTENTION_CACHED_ONCE_
namespace llmtrain::cpu {

inline constexpr int64_t kFewQueries = 4;  // more queries than this amortise the packing of the keys: attention.cpp
inline constexpr int64_t kCachedKeys = 128;

// One query position, the query heads of one key-value head. X arrays.
struct CachedTask {
  const void* q;  // first query head; the others follow
  const void* k;  // [position, …] of this key-value head
  const void* v;
  int64_t kv_row;
  int64_t first, last;  // the keys that are seen
  int group;
  int64_t head_dim;
  float scale;
  void* out;
};

inline size_t cached_task_bytes(int group, int64_t head_dim) {
  return padded(static_cast<size_t>(2 * group * head_dim) * 4) + padded(static_cast<size_t>(kCachedKeys) * 4) +
         padded(static_cast<size_t>(2 * group) * 4);
}

}  // namespace llmtrain::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// scores[j] = scale q . k[j]
template <class X>
void score_keys(const float* q, const X* k, int64_t row, int64_t count, int64_t size, float scale, float* scores) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    VF s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
    const X* key = k + j * row;
    for_vectors(0, size, [&](int64_t d, auto lanes) HWY_ATTR {
      const VF value = load(q + d, lanes);
      s0 = hn::MulAdd(value, load(key + d, lanes), s0);
      s1 = hn::MulAdd(value, load(key + row + d, lanes), s1);
      s2 = hn::MulAdd(value, load(key + 2 * row + d, lanes), s2);
      s3 = hn::MulAdd(value, load(key + 3 * row + d, lanes), s3);
    });
    scores[j] = sum_lanes(s0) * scale;
    scores[j + 1] = sum_lanes(s1) * scale;
    scores[j + 2] = sum_lanes(s2) * scale;
    scores[j + 3] = sum_lanes(s3) * scale;
  }
  for (; j < count; ++j) {
    VF sum = hn::Zero(df);
    for_vectors(0, size, [&](int64_t d, auto lanes) HWY_ATTR { sum = hn::MulAdd(load(q + d, lanes), load(k + j * row + d, lanes), sum); });
    scores[j] = sum_lanes(sum) * scale;
  }
}

// scores -> exp(scores - largest); returns their sum.
inline float exponentials(float* scores, int64_t count, float largest) {
  const VF shift = hn::Set(df, largest);
  int64_t j = 0;
  VF sum = hn::Zero(df);
  for (; j + static_cast<int64_t>(kLanes) <= count; j += kLanes) {
    const VF e = exp(hn::Sub(hn::LoadU(df, scores + j), shift));
    hn::StoreU(e, df, scores + j);
    sum = hn::Add(sum, e);
  }
  float total = sum_lanes(sum);
  for (; j < count; ++j) total += scores[j] = std::exp(scores[j] - largest);
  return total;
}

// result = result * factor + sum_j weights[j] v[j]
template <class X>
void add_values(const float* weights, const X* v, int64_t row, int64_t count, int64_t size, float factor, float* result) {
  const VF keep = hn::Set(df, factor);
  for_vectors(0, size, [&](int64_t d, auto lanes) HWY_ATTR {
    VF even = hn::Mul(load(result + d, lanes), keep), odd = hn::Zero(df);
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
      even = hn::MulAdd(hn::Set(df, weights[j]), load(v + j * row + d, lanes), even);
      odd = hn::MulAdd(hn::Set(df, weights[j + 1]), load(v + (j + 1) * row + d, lanes), odd);
    }
    if (j < count) even = hn::MulAdd(hn::Set(df, weights[j]), load(v + j * row + d, lanes), even);
    store(hn::Add(even, odd), result + d, lanes);
  });
}

template <class X>
void cached_task(const CachedTask& t, char* scratch) {
  Carver c(scratch);
  float* q = c.take<float>(2 * t.group * t.head_dim);
  float* result = q + t.group * t.head_dim;
  float* scores = c.take<float>(kCachedKeys);
  float* largest = c.take<float>(2 * t.group);
  float* sum = largest + t.group;
  for_vectors(0, t.group * t.head_dim, [&](int64_t j, auto lanes) HWY_ATTR { store(load(static_cast<const X*>(t.q) + j, lanes), q + j, lanes); });
  std::fill_n(result, t.group * t.head_dim, 0.0f);
  std::fill_n(largest, t.group, -std::numeric_limits<float>::infinity());
  std::fill_n(sum, t.group, 0.0f);
  for (int64_t key = t.first; key < t.last; key += kCachedKeys) {
    const int64_t count = std::min(kCachedKeys, t.last - key);
    for (int head = 0; head < t.group; ++head) {
      score_keys(q + head * t.head_dim, static_cast<const X*>(t.k) + key * t.kv_row, t.kv_row, count, t.head_dim, t.scale, scores);
      const float now = std::max(largest[head], *std::max_element(scores, scores + count)), factor = std::exp(largest[head] - now);
      sum[head] = sum[head] * factor + exponentials(scores, count, now);
      largest[head] = now;
      add_values(scores, static_cast<const X*>(t.v) + key * t.kv_row, t.kv_row, count, t.head_dim, factor, result + head * t.head_dim);
    }
  }
  for (int head = 0; head < t.group; ++head) {
    const VF factor = hn::Set(df, 1.0f / sum[head]);
    const int64_t begin = head * t.head_dim;
    for_vectors(begin, begin + t.head_dim,
                [&](int64_t j, auto lanes) HWY_ATTR { store(hn::Mul(load(result + j, lanes), factor), static_cast<X*>(t.out) + j, lanes); });
  }
}

void cached_task_kernel(const CachedTask& t, DType type, char* scratch) {
  with_compute_type(type, [&](auto x) { cached_task<decltype(x)>(t, scratch); });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(cached_task_kernel);

size_t attention_cached_scratch(int64_t tokens, HeadLayout layout) {
  const size_t few = static_cast<size_t>(thread_count()) * cached_task_bytes(layout.heads / layout.kv_heads, layout.head_dim);
  return std::max(few, attention_forward_scratch(tokens, tokens, layout));
}

void attention_cached(Workspace& workspace, bool dot_bf16, TensorView qkv, TensorView k_cache, TensorView v_cache, int64_t past, HeadLayout layout,
                      float scale, int window, TensorView out) {
  const int64_t n = qkv.dim(0), size = layout.head_dim, row = layout.row(), kv_row = layout.kv_heads * size;
  const int64_t element = static_cast<int64_t>(size_of(qkv.dtype));
  for (int64_t i = 0; i < n; ++i) {
    const char* k = qkv.as<char>() + (i * row + layout.heads * size) * element;
    std::memcpy(k_cache.as<char>() + (past + i) * kv_row * element, k, static_cast<size_t>(kv_row * element));
    std::memcpy(v_cache.as<char>() + (past + i) * kv_row * element, k + kv_row * element, static_cast<size_t>(kv_row * element));
  }
  if (n > kFewQueries) {
    return attention_over_keys(workspace, dot_bf16, qkv.dtype, qkv.data, row, k_cache.data, v_cache.data, kv_row, n, past, layout, scale, window,
                               out.data);
  }
  const int group = layout.heads / layout.kv_heads;
  const size_t bytes = cached_task_bytes(group, size);
  char* scratch = workspace.get(bytes * static_cast<size_t>(thread_count()));
  parallel_tasks(n * layout.kv_heads, [&](int64_t task, int thread) {
    const int64_t i = task / layout.kv_heads, kv_head = task % layout.kv_heads;
    CachedTask t{};
    t.q = qkv.as<char>() + (i * row + kv_head * group * size) * element;
    t.k = k_cache.as<char>() + kv_head * size * element;
    t.v = v_cache.as<char>() + kv_head * size * element;
    t.kv_row = kv_row;
    t.last = past + i + 1;
    t.first = window > 0 ? std::max<int64_t>(0, t.last - window) : 0;
    t.group = group;
    t.head_dim = size;
    t.scale = scale;
    t.out = out.as<char>() + (i * layout.heads + kv_head * group) * size * element;
    HWY_DYNAMIC_DISPATCH(cached_task_kernel)(t, qkv.dtype, scratch + bytes * static_cast<size_t>(thread));
  });
}

}  // namespace llmtrain::cpu
#endif
