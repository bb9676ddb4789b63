// AdamW over a part of a shard.
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

void adamw(TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& s) {
  const math::AdamWFactors f = math::adamw_factors(s.learning_rate, s.beta1, s.beta2, s.epsilon, s.weight_decay, s.step, s.grad_scale);
  HWY_DYNAMIC_DISPATCH(adamw_kernel)(f, master, grad, m, v, low);
}

}  // namespace llmtrain::cpu
#endif
