// Vector helpers of the CPU kernels, translated once per instruction set (Highway's foreach_target.h): loads of X as float32, stores with
// rounding, partial vectors, exp.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "kernels/cpu/targets.h"

#include "hwy/highway.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(LLMTRAIN_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LLMTRAIN_KERNELS_CPU_SIMD_INL_H_
#undef LLMTRAIN_KERNELS_CPU_SIMD_INL_H_
#else
#define LLMTRAIN_KERNELS_CPU_SIMD_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using DH = hn::Rebind<uint16_t, DF>;  // as many 16-bit lanes as a vector has floats
using DD = hn::ScalableTag<double>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using VD = hn::Vec<DD>;

inline constexpr DF df{};
inline constexpr DU du{};
inline constexpr DI di{};
inline constexpr DH dh{};
inline constexpr DD dd{};
inline constexpr size_t kLanes = HWY_LANES(float);

// A whole vector, as a type, so that one loop body serves whole and partial vectors and the whole ones pay nothing.
struct WholeVector {
  constexpr operator size_t() const { return kLanes; }
};

// float32 -> the 16 bits of a bfloat16 in the lower half of each lane, round to nearest even, NaN stays quiet.
HWY_INLINE VU round_to_bf16(VF v) {
  const VU bits = hn::BitCast(du, v), upper = hn::ShiftRight<16>(bits);
  const VU odd = hn::And(upper, hn::Set(du, 1u));
  const VU rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Or(upper, hn::Set(du, 0x40u)), rounded);
}

HWY_INLINE VF load(const float* p, WholeVector) { return hn::LoadU(df, p); }
HWY_INLINE VF load(const bfloat16* p, WholeVector) {
  const auto half = hn::LoadU(dh, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, half)));
}
HWY_INLINE void store(VF v, float* p, WholeVector) { hn::StoreU(v, df, p); }
HWY_INLINE void store(VF v, bfloat16* p, WholeVector) { hn::StoreU(hn::TruncateTo(dh, round_to_bf16(v)), dh, reinterpret_cast<uint16_t*>(p)); }

// The first n < kLanes elements; the other lanes are 0.
template <class T>
HWY_INLINE VF load(const T* p, size_t n) {
  T part[kLanes] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load(part, WholeVector());
}
template <class T>
HWY_INLINE void store(VF v, T* p, size_t n) {
  T part[kLanes];
  store(v, part, WholeVector());
  std::memcpy(p, part, n * sizeof(T));
}
template <class T>
HWY_INLINE VF load(const T* p) {
  return load(p, WholeVector());
}
template <class T>
HWY_INLINE void store(VF v, T* p) {
  store(v, p, WholeVector());
}
// x rounded to T and back.
HWY_INLINE VF round_to(VF v, float) { return v; }
HWY_INLINE VF round_to(VF v, bfloat16) { return hn::BitCast(df, hn::ShiftLeft<16>(round_to_bf16(v))); }

// body(i, lanes) for i = begin, begin + kLanes, …: lanes is WholeVector, and a size_t for what is left at the end.
template <class Body>
HWY_INLINE void for_vectors(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + static_cast<int64_t>(kLanes) <= end; i += kLanes) body(i, WholeVector());
  if (i < end) body(i, static_cast<size_t>(end - i));
}

// e^r = 1 + r + r^2 q(r) for |r| <= ln(2) / 2 (1 + 5e-4): relative error below 3.1e-9 (least maximum of the relative error, by
// reweighted least squares), far below the rounding of float32.
HWY_INLINE VF exp_reduced(VF r) {
  const VF one = hn::Set(df, 1.0f);
  VF q = hn::Set(df, 0x1.6a23cep-10f);
  q = hn::MulAdd(q, r, hn::Set(df, 0x1.123a20p-7f));
  q = hn::MulAdd(q, r, hn::Set(df, 0x1.5558f2p-5f));
  q = hn::MulAdd(q, r, hn::Set(df, 0x1.555492p-3f));
  q = hn::MulAdd(q, r, hn::Set(df, 0x1.fffffcp-2f));
  return hn::MulAdd(hn::MulAdd(q, r, one), r, one);
}

// p * 2^n for whole n in [-127, 127] and p near 1; 0 where n = -127.
HWY_INLINE VF scale_by_power(VF p, VF n) {
#if HWY_TARGET == HWY_AVX3
  return VF{_mm512_scalef_ps(p.raw, n.raw)};
#else
  return hn::Mul(p, hn::BitCast(df, hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)))));
#endif
}

// In [low, high]; NaN stays NaN: x is the second operand, which x86 returns when one of the two is NaN.
HWY_INLINE VF clamp_keeping_nan(VF x, float low, float high) { return hn::Min(hn::Set(df, high), hn::Max(hn::Set(df, low), x)); }

// e^x for x clamped to [-87.5, 88]: below, where float32's normal numbers end, results are 1e-38 or less; above, 1.65e38. The callers' formulas
// (softmax, silu) go on smoothly there. NaN stays. Error below 1.5 ulp: the reduction leaves |error| < 2^-25 in r (n ln2_hi is exact for |n| < 2^9,
// n ln2_lo is one rounding of a small number), the last two operations of the polynomial 0.9 ulp.
HWY_INLINE VF exp(VF x) {
  x = clamp_keeping_nan(x, -87.5f, 88.0f);
  const VF n = hn::Round(hn::Mul(x, hn::Set(df, 1.44269504f)));
  VF r = hn::NegMulAdd(n, hn::Set(df, 0x1.62e400p-1f), x);  // ln 2 = 0x1.62e4p-1 + 0x1.7f7d1cp-20
  r = hn::NegMulAdd(n, hn::Set(df, 0x1.7f7d1cp-20f), r);
  return scale_by_power(exp_reduced(r), n);
}

// 2^x for x <= 1 (softmax subtracts the largest score first): 2^-127 and less may come out as 0. Error below 1.5 ulp. NaN stays.
HWY_INLINE VF exp2_small(VF x) {
  x = hn::Max(hn::Set(df, -127.0f), x);
  const VF n = hn::Round(x);
  return scale_by_power(exp_reduced(hn::Mul(hn::Sub(x, n), hn::Set(df, 0.69314718f))), n);
}

HWY_INLINE float sum_lanes(VF v) { return hn::GetLane(hn::SumOfLanes(df, v)); }
HWY_INLINE float max_lanes(VF v) { return hn::GetLane(hn::MaxOfLanes(df, v)); }
HWY_INLINE double sum_lanes(VD v) { return hn::GetLane(hn::SumOfLanes(dd, v)); }

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
