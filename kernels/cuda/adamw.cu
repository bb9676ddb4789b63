// AdamW over a part of a shard.
//
//   kernel    bytes moved, an element                                             bound
//   adamw     4 read of the gradient; 2 or 4 read and written of each of          memory; with bfloat16 states near the issue rate
//             master, m, v; 2 or 4 written of the low copy                        (ten rounds of Philox for two elements)
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/vector.h"
#include "kernels/math/adamw.h"

namespace llmtrain::cuda {
namespace {

// What the random bits of the stochastic rounding are a function of, with the element's place.
struct Rounding {
  uint64_t seed;
  int64_t step, first_element;
  uint32_t stream;
};

// A state's next value as it is stored: rounded stochastically where that is bfloat16.
__device__ __forceinline__ float stored(float x, uint32_t, float) { return x; }
__device__ __forceinline__ float stored(float x, uint32_t random, bfloat16) { return math::float_from_bf16(math::stochastic_bf16(x, random)); }

// Elements i .. i + W. first_element + i is even where W is.
template <class P, class M, class Low, int W>
__device__ __forceinline__ void update(const math::AdamWFactors& f, P* master, const float* grad, M* m, M* v, Low* low, const Rounding& rounding,
                                       int64_t i) {
  float p[W], g[W], first[W], second[W];
  load_elements(grad + i, g);
  load_elements(master + i, p);
  load_elements(m + i, first);
  load_elements(v + i, second);
  math::RoundingPair random = {};
#pragma unroll
  for (int j = 0; j < W; ++j) {
    if constexpr (sizeof(P) == 2 || sizeof(M) == 2) {
      const int64_t element = rounding.first_element + i + j;
      if (j % 2 == 0) random = math::rounding_pair(rounding.seed, rounding.stream, rounding.step, element);
    }
    const math::RoundingBits bits = random.of(W == 1 ? rounding.first_element + i : j);
    math::adamw_update(f, g[j], p[j], first[j], second[j]);
    p[j] = stored(p[j], bits.p, P{});
    first[j] = stored(first[j], bits.m, M{});
    second[j] = stored(second[j], bits.v, M{});
  }
  store_elements(master + i, p);
  store_elements(m + i, first);
  store_elements(v + i, second);
  if (low) store_elements(low + i, p);
}

// `groups` times W elements first, the rest one by one.
template <class P, class M, class Low, int W>
__global__ void __launch_bounds__(kElementwiseThreads)
    adamw_kernel(math::AdamWFactors f, P* __restrict__ master, const float* __restrict__ grad, M* __restrict__ m, M* __restrict__ v,
                 Low* __restrict__ low, Rounding rounding, int64_t groups, int64_t n) {
  for (int64_t g = first_item(); g < groups; g += item_stride()) update<P, M, Low, W>(f, master, grad, m, v, low, rounding, g * W);
  for (int64_t i = groups * W + first_item(); i < n; i += item_stride()) update<P, M, Low, 1>(f, master, grad, m, v, low, rounding, i);
}

struct Call {
  cudaStream_t stream;
  TensorView master, grad, m, v, low;
  const AdamWStep& step;
};

template <class P, class M, class Low>
void launch_adamw(const Call& c) {
  // 16 bytes of the smallest type that takes part.
  constexpr int W = std::max({kVector<P>, kVector<M>, kVector<Low>});
  const AdamWStep& s = c.step;
  const math::AdamWFactors f = math::adamw_factors(s.learning_rate, s.beta1, s.beta2, s.epsilon, s.weight_decay, s.step, s.grad_scale);
  const int64_t n = c.master.elements();
  const bool vectors =
      vectors_fit<float>(0, c.master.as<P>(), c.grad.as<float>(), c.m.as<M>(), c.v.as<M>(), c.low.as<Low>()) && s.first_element % 2 == 0;
  launch(c.stream, "adamw", elementwise_grid(vectors ? ceil_div(n, W) : n), adamw_kernel<P, M, Low, W>, f, c.master.as<P>(), c.grad.as<float>(),
         c.m.as<M>(), c.v.as<M>(), c.low.as<Low>(), Rounding{s.seed, s.step, s.first_element, s.stream}, vectors ? n / W : 0, n);
}

}  // namespace

void adamw(cudaStream_t s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& step) {
  const Call call{s, master, grad, m, v, low, step};
  with_compute_type(m.dtype, [&](auto moment) {
    using M = decltype(moment);
    if (master.dtype == DType::bfloat16) return launch_adamw<bfloat16, M, float>(call);  // without a low copy
    with_compute_type(low ? low.dtype : DType::float32, [&](auto copy) { launch_adamw<float, M, decltype(copy)>(call); });
  });
}

}  // namespace llmtrain::cuda
