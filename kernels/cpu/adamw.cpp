// AdamW over a part of a shard, on vectors. Where states are bfloat16 they are rounded stochastically by the random bits of kernels/math/adamw.h, which
// the GPU's kernel takes too.
#include "kernels/math/adamw.h"

#include <algorithm>

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

// math::adamw_update on vectors.
struct VectorStep {
  explicit VectorStep(const math::AdamWFactors& f)
      : scale(hn::Set(df, f.grad_scale)), keep(hn::Set(df, f.keep)), beta1(hn::Set(df, f.beta1)), gain1(hn::Set(df, f.one_minus_beta1)),
        beta2(hn::Set(df, f.beta2)), gain2(hn::Set(df, f.one_minus_beta2)), rate(hn::Set(df, f.rate)), correction(hn::Set(df, f.inv_sqrt_correction2)),
        epsilon(hn::Set(df, f.epsilon)) {}
  HWY_INLINE void update(VF grad, VF& p, VF& m, VF& v) const {
    const VF g = hn::Mul(grad, scale);
    m = hn::MulAdd(m, beta1, hn::Mul(g, gain1));
    v = hn::MulAdd(v, beta2, hn::Mul(hn::Mul(g, g), gain2));
    p = hn::Sub(hn::Mul(p, keep), hn::Div(hn::Mul(rate, m), hn::MulAdd(hn::Sqrt(v), correction, epsilon)));
  }
  VF scale, keep, beta1, gain1, beta2, gain2, rate, correction, epsilon;
};

// All states float32. X is the type of `low`, which may be null.
template <class X>
void adamw_range(const math::AdamWFactors& f, float* master, const float* grad, float* m, float* v, X* low, int64_t begin, int64_t end) {
  const VectorStep step(f);
  for_vectors(begin, end, [&](int64_t i, auto lanes) HWY_ATTR {
    VF p = load(master + i, lanes), first = load(m + i, lanes), second = load(v + i, lanes);
    step.update(load(grad + i, lanes), p, first, second);
    store(first, m + i, lanes);
    store(second, v + i, lanes);
    store(p, master + i, lanes);
    if (low) store(p, low + i, lanes);
  });
}

// ---- states in bfloat16

// The 64-bit products of a's lanes with `factor`: their upper and lower halves.
HWY_INLINE void multiply_wide(VU a, uint32_t factor, VU& high, VU& low) {
#if HWY_TARGET == HWY_SCALAR
  const uint64_t product = static_cast<uint64_t>(hn::GetLane(a)) * factor;
  high = hn::Set(du, static_cast<uint32_t>(product >> 32));
  low = hn::Set(du, static_cast<uint32_t>(product));
#else
  const hn::Repartition<uint64_t, DU> dw;
  const VU f = hn::Set(du, factor);
  const auto even = hn::MulEven(a, f), odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(dw, a))), f);
  high = hn::OddEven(hn::BitCast(du, odd), hn::BitCast(du, hn::ShiftRight<32>(even)));
  low = hn::OddEven(hn::BitCast(du, hn::ShiftLeft<32>(odd)), hn::BitCast(du, even));
#endif
}

// math::philox4x32 on vectors.
HWY_INLINE void philox(VU x[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    VU high0, low0, high1, low1;
    multiply_wide(x[0], 0xD2511F53u, high0, low0);
    multiply_wide(x[2], 0xCD9E8D57u, high1, low1);
    x[0] = hn::Xor(hn::Xor(high1, x[1]), hn::Set(du, key0));
    x[1] = low1;
    x[2] = hn::Xor(hn::Xor(high0, x[3]), hn::Set(du, key1));
    x[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// math::rounding_pair of the elements from an even one on.
struct RandomBits {
  static constexpr int64_t kElements = 256;
  uint32_t p[kElements], m[kElements], v[kElements];

  void fill(const AdamWStep& s, int64_t first_element, int64_t count) {
    constexpr int64_t kStep = 2 * static_cast<int64_t>(kLanes);
    static_assert(kElements % kStep == 0);
    const VU half = hn::Set(du, 0xffffu);
    for (int64_t at = 0; at < count; at += kStep) {
      const uint64_t pair = static_cast<uint64_t>(first_element + at) >> 1;
      const VU low = hn::Add(hn::Set(du, static_cast<uint32_t>(pair)), hn::Iota(du, 0));
      const VU carry = hn::VecFromMask(du, hn::Lt(low, hn::Set(du, static_cast<uint32_t>(pair))));  // 2^32 - 1 where the lower half ran over
      VU x[4] = {low, hn::Sub(hn::Set(du, static_cast<uint32_t>(pair >> 32)), carry), hn::Set(du, static_cast<uint32_t>(s.step)), hn::Set(du, s.stream)};
      philox(x, static_cast<uint32_t>(s.seed), static_cast<uint32_t>(s.seed >> 32));
      hn::StoreInterleaved2(hn::And(x[0], half), hn::And(x[2], half), du, p + at);
      hn::StoreInterleaved2(hn::ShiftRight<16>(x[0]), hn::ShiftRight<16>(x[2]), du, m + at);
      hn::StoreInterleaved2(hn::And(x[1], half), hn::And(x[3], half), du, v + at);
    }
  }
};

// x as T keeps it. bfloat16: math::stochastic_bf16, as the float32 of the same value; infinity and NaN are left to the rounding of the store.
HWY_INLINE VF stored(VF x, VU, float) { return x; }
HWY_INLINE VF stored(VF x, VU random, bfloat16) {
  const VU bits = hn::BitCast(du, x), exponent = hn::Set(du, 0x7f800000u);
  const VU rounded = hn::And(hn::Add(bits, random), hn::Set(du, 0xffff0000u));
  return hn::BitCast(df, hn::IfThenElse(hn::Eq(hn::And(bits, exponent), exponent), bits, rounded));
}

HWY_INLINE VU load_bits(const uint32_t* p, WholeVector) { return hn::LoadU(du, p); }
HWY_INLINE VU load_bits(const uint32_t* p, size_t n) {
  uint32_t part[kLanes] = {};
  std::memcpy(part, p, n * sizeof(uint32_t));
  return hn::LoadU(du, part);
}

// P is the type of the master weights, M of the moments, X of `low`, which may be null.
template <class P, class M, class X>
void rounded_range(const math::AdamWFactors& f, const AdamWStep& s, P* master, const float* grad, M* m, M* v, X* low, int64_t begin, int64_t end) {
  const VectorStep step(f);
  RandomBits random;
  while (begin < end) {
    const int64_t odd = (s.first_element + begin) & 1, stop = std::min(end, begin + RandomBits::kElements - odd);
    random.fill(s, s.first_element + begin - odd, stop - begin + odd);
    for_vectors(begin, stop, [&](int64_t i, auto lanes) HWY_ATTR {
      const int64_t r = i - begin + odd;
      VF p = load(master + i, lanes), first = load(m + i, lanes), second = load(v + i, lanes);
      step.update(load(grad + i, lanes), p, first, second);
      store(stored(first, load_bits(random.m + r, lanes), M()), m + i, lanes);
      store(stored(second, load_bits(random.v + r, lanes), M()), v + i, lanes);
      store(stored(p, load_bits(random.p + r, lanes), P()), master + i, lanes);
      if (low) store(p, low + i, lanes);
    });
    begin = stop;
  }
}

void adamw_kernel(const math::AdamWFactors& f, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low) {
  with_compute_type(low ? low.dtype : DType::float32, [&](auto type) {
    using X = decltype(type);
    parallel_ranges(master.elements(), 1024, [&](int64_t begin, int64_t end) {
      adamw_range(f, master.as<float>(), grad.as<float>(), m.as<float>(), v.as<float>(), low.as<X>(), begin, end);
    });
  });
}

void rounded_adamw_kernel(const math::AdamWFactors& f, const AdamWStep& s, TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low) {
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

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(adamw_kernel);
HWY_EXPORT(rounded_adamw_kernel);

void adamw(TensorView master, TensorView grad, TensorView m, TensorView v, TensorView low, const AdamWStep& s) {
  const math::AdamWFactors f = math::adamw_factors(s.learning_rate, s.beta1, s.beta2, s.epsilon, s.weight_decay, s.step, s.grad_scale);
  if (master.dtype != DType::float32 || m.dtype != DType::float32) return HWY_DYNAMIC_DISPATCH(rounded_adamw_kernel)(f, s, master, grad, m, v, low);
  HWY_DYNAMIC_DISPATCH(adamw_kernel)(f, master, grad, m, v, low);
}

}  // namespace llmtrain::cpu
#endif
