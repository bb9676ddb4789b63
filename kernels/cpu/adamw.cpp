// AdamW over a part of a shard: on vectors where all states are float32, element by element where some are bfloat16 (random bits and the stochastic
// rounding are the formulas shared with the GPU, so both round alike).
#include "kernels/math/adamw.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/adamw.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// math::adamw_update on vectors. X is the type of `low`, which may be null.
template <class X>
void adamw_range(const math::AdamWFactors& f, float* master, const float* grad, float* m, float* v, X* low, int64_t begin, int64_t end) {
  const VF scale = hn::Set(df, f.grad_scale), keep = hn::Set(df, f.keep), beta1 = hn::Set(df, f.beta1), gain1 = hn::Set(df, f.one_minus_beta1);
  const VF beta2 = hn::Set(df, f.beta2), gain2 = hn::Set(df, f.one_minus_beta2), rate = hn::Set(df, f.rate);
  const VF correction = hn::Set(df, f.inv_sqrt_correction2), epsilon = hn::Set(df, f.epsilon);
  for_vectors(begin, end, [&](int64_t i, auto lanes) HWY_ATTR {
    const VF g = hn::Mul(load(grad + i, lanes), scale);
    const VF first = hn::MulAdd(load(m + i, lanes), beta1, hn::Mul(g, gain1));
    const VF second = hn::MulAdd(load(v + i, lanes), beta2, hn::Mul(hn::Mul(g, g), gain2));
    const VF step = hn::Div(hn::Mul(rate, first), hn::MulAdd(hn::Sqrt(second), correction, epsilon));
    const VF p = hn::Sub(hn::Mul(load(master + i, lanes), keep), step);
    store(first, m + i, lanes);
    store(second, v + i, lanes);
    store(p, master + i, lanes);
    if (low) store(p, low + i, lanes);
  });
}

void adamw_kernel(const math::AdamWFactors& f, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low) {
  with_compute_type(low ? low.dtype : DType::float32, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(master.elements(), 1024, [&](int64_t begin, int64_t end) {
      adamw_range(f, master.as<float>(), grad.as<float>(), m.as<float>(), v.as<float>(), low.as<X>(), begin, end);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(adamw_kernel);

namespace {

template <class X>
X stored(float x, uint32_t random) {
  if constexpr (sizeof(X) == 4) {
    return x;
  } else {
    X y;
    y.bits = math::stochastic_bf16(x, random);
    return y;
  }
}

// P is the type of the master weights, M of the moments, X of `low`, which may be null.
template <class P, class M, class X>
void rounded_range(const math::AdamWFactors& f, const AdamWStep& s, P* master, const float* grad, M* m, M* v, X* low, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const math::RoundingBits random = math::rounding_bits(s.seed, s.stream, s.step, s.first_element + i);
    float p = static_cast<float>(master[i]), first = static_cast<float>(m[i]), second = static_cast<float>(v[i]);
    math::adamw_update(f, grad[i], p, first, second);
    master[i] = stored<P>(p, random.p);
    m[i] = stored<M>(first, random.m);
    v[i] = stored<M>(second, random.v);
    if (low) low[i] = X(p);
  }
}

void rounded_adamw(const math::AdamWFactors& f, const AdamWStep& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low) {
  with_compute_type(master.dtype, [&](auto state) {
    with_compute_type(m.dtype, [&](auto moment) {
      with_compute_type(low ? low.dtype : DType::float32, [&](auto copy) {
        using P = decltype(state);
        using M = decltype(moment);
        using X = decltype(copy);
        parallel_ranges(master.elements(), 1024, [&](int64_t begin, int64_t end) {
          rounded_range(f, s, master.as<P>(), grad.as<float>(), m.as<M>(), v.as<M>(), low.as<X>(), begin, end);
        });
      });
    });
  });
}

}  // namespace

void adamw(TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& s) {
  const math::AdamWFactors f = math::adamw_factors(s.learning_rate, s.beta1, s.beta2, s.epsilon, s.weight_decay, s.step, s.grad_scale);
  if (master.dtype != DType::float32 || m.dtype != DType::float32) return rounded_adamw(f, s, master, grad, m, v, low);
  HWY_DYNAMIC_DISPATCH(adamw_kernel)(f, master, grad, m, v, low);
}

}  // namespace llmtrain::cpu
#endif
