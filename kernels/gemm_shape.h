// The matrix products of linear layers (kernels.h) as one shape, which every backend's library is asked for.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace llmtrain {

// c[m, n] (+)= op(a)[m, k] op(b)[k, n] + bias[n]; op transposes where the flag says so: a is stored [k, m], b is stored [n, k]. All matrices are
// dense.
struct GemmShape {
  int64_t m = 0, n = 0, k = 0;
  bool a_transposed = false, b_transposed = false;
  DType inputs = DType::float32;  // a, b and bias
  DType output = DType::float32;  // float32, or that of the inputs
  bool accumulate = false, bias = false;
  bool operator==(const GemmShape&) const = default;
};

// y = x w^T (+ bias):  a = x [T, K], b = w [N, K]
inline GemmShape forward_shape(int64_t tokens, int64_t in, int64_t out, DType type, bool bias, bool accumulate) {
  return {.m = tokens, .n = out, .k = in, .b_transposed = true, .inputs = type, .output = type, .accumulate = accumulate, .bias = bias};
}
// dx = dy w:  a = dy [T, N], b = w [N, K]
inline GemmShape backward_input_shape(int64_t tokens, int64_t in, int64_t out, DType type, bool accumulate) {
  return {.m = tokens, .n = in, .k = out, .inputs = type, .output = type, .accumulate = accumulate};
}
// dw += dy^T x:  a = dy [T, N], b = x [T, K]
inline GemmShape backward_weight_shape(int64_t tokens, int64_t in, int64_t out, DType type) {
  return {.m = out, .n = in, .k = tokens, .a_transposed = true, .inputs = type, .output = DType::float32, .accumulate = true};
}

}  // namespace llmtrain
