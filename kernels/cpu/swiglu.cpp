// SwiGLU: silu(gate) * up and its gradient.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/swiglu.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// Both passes take the sigmoid from here: silu is a * sigmoid(a) in both, so that the product which the backward pass computes again has the same
// bits.
HWY_INLINE VF sigmoid_of(VF a) {
  const VF one = hn::Set(df, 1.0f);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(a))));
}

template <class X>
void swiglu_rows(const X* gate_up, X* out, int64_t features, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const X* gate = gate_up + t * 2 * features;
    const X* up = gate + features;
    X* to = out + t * features;
    for_vectors(0, features, [&](int64_t j, auto lanes) HWY_ATTR {
      const VF a = load(gate + j, lanes);
      store(hn::Mul(hn::Mul(a, sigmoid_of(a)), load(up + j, lanes)), to + j, lanes);
    });
  }
}

// math::silu and math::silu_derivative on vectors.
template <class X, bool kOut>
void swiglu_backward_rows(const X* dout, const X* gate_up, X* dgate_up, X* out, int64_t features, int64_t begin, int64_t end) {
  const VF one = hn::Set(df, 1.0f);
  for (int64_t t = begin; t < end; ++t) {
    const X* gate = gate_up + t * 2 * features;
    const X* up = gate + features;
    X* dgate = dgate_up + t * 2 * features;
    X* dup = dgate + features;
    const X* d = dout + t * features;
    X* to = kOut ? out + t * features : nullptr;
    for_vectors(0, features, [&](int64_t j, auto lanes) HWY_ATTR {
      const VF a = load(gate + j, lanes), u = load(up + j, lanes), g = load(d + j, lanes);
      const VF sigmoid = sigmoid_of(a), silu = hn::Mul(a, sigmoid);
      const VF derivative = hn::Mul(sigmoid, hn::MulAdd(a, hn::Sub(one, sigmoid), one));
      store(hn::Mul(hn::Mul(g, u), derivative), dgate + j, lanes);
      store(hn::Mul(g, silu), dup + j, lanes);
      if constexpr (kOut) store(hn::Mul(silu, u), to + j, lanes);
    });
  }
}

void swiglu_forward_kernel(TensorView gate_up, TensorView out) {
  with_compute_type(out.dtype, [&](auto x) {
    using X = decltype(x);
    parallel_ranges(out.dim(0), 1, [&](int64_t begin, int64_t end) { swiglu_rows(gate_up.as<X>(), out.as<X>(), out.dim(1), begin, end); });
  });
}

void swiglu_backward_kernel(TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) {
  with_compute_type(dout.dtype, [&](auto x) {
    using X = decltype(x);
    parallel_ranges(dout.dim(0), 1, [&](int64_t begin, int64_t end) {
      if (out) {
        swiglu_backward_rows<X, true>(dout.as<X>(), gate_up.as<X>(), dgate_up.as<X>(), out.as<X>(), dout.dim(1), begin, end);
      } else {
        swiglu_backward_rows<X, false>(dout.as<X>(), gate_up.as<X>(), dgate_up.as<X>(), nullptr, dout.dim(1), begin, end);
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(swiglu_forward_kernel);
HWY_EXPORT(swiglu_backward_kernel);

void swiglu_forward(TensorView gate_up, TensorView out) { HWY_DYNAMIC_DISPATCH(swiglu_forward_kernel)(gate_up, out); }
void swiglu_backward(TensorView dout, TensorView gate_up, TensorView dgate_up, TensorView out) {
  HWY_DYNAMIC_DISPATCH(swiglu_backward_kernel)(dout, gate_up, dgate_up, out);
}

}  // namespace llmtrain::cpu
#endif
