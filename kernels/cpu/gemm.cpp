#include "kernels/cpu/gemm.h"

#include <dnnl.hpp>

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/matmul_plan.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"

namespace llmtrain::cpu {

namespace {

void check(dnnl_status_t status, const char* call) {
  if (status != dnnl_success) throw OperationError(std::string(call) + ": oneDNN status " + std::to_string(static_cast<int>(status)));
}

// The instruction set that oneDNN uses (ONEDNN_MAX_CPU_ISA limits it).
bool has_isa(dnnl_cpu_isa_t wanted) { return (dnnl_get_effective_cpu_isa() & wanted) == wanted; }

// AMX multiplies bfloat16 an order of magnitude faster than float32 FMAs do; AVX512-BF16 twice as fast on AMD, at half their rate on Intel.
bool native_bf16_pays() { return has_isa(dnnl_cpu_isa_avx512_core_amx) || (has_isa(dnnl_cpu_isa_avx512_core_bf16) && bf16_dot_pays()); }

// Rows of op(a) and columns of op(b) that the widened product converts at a time.
constexpr int64_t kRowBlock = 512, kColumnBlock = 512;

}  // namespace

Gemm::Gemm(Workspace& workspace) : workspace_(workspace), native_bf16_(native_bf16_pays()), plans_(std::make_unique<MatmulPlans>()) {
  dnnl::set_primitive_cache_capacity(0);  // oneDNN's own cache would keep each primitive a second time
}

Gemm::~Gemm() = default;

std::string Gemm::describe() const {
  std::string isa = "sse4.1";
  if (has_isa(dnnl_cpu_isa_avx2)) isa = "avx2";
  if (has_isa(dnnl_cpu_isa_avx512_core)) isa = "avx512";
  if (has_isa(dnnl_cpu_isa_avx512_core_bf16)) isa = "avx512_bf16";
  if (has_isa(dnnl_cpu_isa_avx512_core_amx)) isa = "amx";
  const dnnl_version_t* version = dnnl_version();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch) + " (" + isa +
         "), bfloat16 products " + (native_bf16_ ? "native" : "widened to float32");
}

size_t Gemm::scratch_bytes(const GemmShape& shape) {
  if (shape.m == 0 || shape.n == 0 || shape.inputs == DType::float32) return 0;
  if (!native_bf16_) return widened_scratch(shape);
  try {
    return plans_->find(shape).scratch_bytes();
  } catch (const dnnl::error& e) {
    throw OperationError(std::string("oneDNN matmul: ") + e.what());
  }
}

void Gemm::multiply(const GemmShape& s, const void* a, const void* b, const void* bias, void* c) {
  if (s.m == 0 || s.n == 0) return;
  if (s.inputs == DType::float32) {
    LLMTRAIN_ASSERT(s.output == DType::float32, "float32 products have a float32 result");
    return multiply_float32(s, static_cast<const float*>(a), static_cast<const float*>(b), static_cast<const float*>(bias), static_cast<float*>(c));
  }
  if (!native_bf16_)
    return multiply_widened(s, static_cast<const bfloat16*>(a), static_cast<const bfloat16*>(b), static_cast<const bfloat16*>(bias), c);
  try {
    MatmulPlan& plan = plans_->find(s);
    plans_->execute(plan, a, b, bias, c, workspace_.get(plan.scratch_bytes()));
  } catch (const dnnl::error& e) {
    throw OperationError(std::string("oneDNN matmul: ") + e.what());
  }
}

void Gemm::multiply_float32(const GemmShape& s, const float* a, const float* b, const float* bias, float* c) const {
  bool accumulate = s.accumulate;
  if (s.bias) {  // the bias first, the product on top of it
    parallel_ranges(s.m, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* row = c + i * s.n;
        for (int64_t j = 0; j < s.n; ++j) row[j] = s.accumulate ? row[j] + bias[j] : bias[j];
      }
    });
    accumulate = true;
  }
  check(dnnl_sgemm(s.a_transposed ? 'T' : 'N', s.b_transposed ? 'T' : 'N', s.m, s.n, s.k, 1.0f, a, s.a_transposed ? s.m : s.k, b,
                   s.b_transposed ? s.k : s.n, accumulate ? 1.0f : 0.0f, c, s.n),
        "dnnl_sgemm");
}

// ---- bfloat16 on processors that multiply float32 faster: blocks of a and b are widened, the product is float32 and is rounded once at the end.

namespace {

// rows x columns of a matrix whose rows are `row` elements apart -> float32, dense.
void widen(const bfloat16* from, int64_t row, int64_t rows, int64_t columns, float* to) {
  parallel_ranges(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) cast(TensorView(const_cast<bfloat16*>(from) + i * row, {columns}), TensorView(to + i * columns, {columns}));
  });
}

// The part [row, row + rows) x [column, column + columns) of op(matrix), as it is stored.
void widen_part(const bfloat16* matrix, bool transposed, int64_t all_rows, int64_t all_columns, int64_t row, int64_t rows, int64_t column,
                int64_t columns, float* to) {
  if (transposed) {
    widen(matrix + column * all_rows + row, all_rows, columns, rows, to);
  } else {
    widen(matrix + row * all_columns + column, all_columns, rows, columns, to);
  }
}

constexpr int64_t kDepthBlock = 1024;  // of k

// What the sums of a block of c start from: the bias, and what is there. `low`: where c is bfloat16, its block; else c is `to` itself.
void start_sums(const GemmShape& s, const bfloat16* bias, const bfloat16* low, float* to, int64_t to_row, int64_t rows, int64_t columns) {
  parallel_ranges(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t q = 0; q < columns; ++q) {
        const float old = !s.accumulate ? 0.0f : low ? static_cast<float>(low[r * s.n + q]) : to[r * to_row + q];
        to[r * to_row + q] = old + (s.bias ? static_cast<float>(bias[q]) : 0.0f);
      }
    }
  });
}

}  // namespace

size_t Gemm::widened_scratch(const GemmShape& s) const {
  const size_t m = static_cast<size_t>(std::min(s.m, kRowBlock)), n = static_cast<size_t>(std::min(s.n, kColumnBlock)),
               k = static_cast<size_t>(std::min(s.k, kDepthBlock));
  return padded(m * k * 4) + padded(k * n * 4) + padded(m * n * 4);
}

void Gemm::multiply_widened(const GemmShape& s, const bfloat16* a, const bfloat16* b, const bfloat16* bias, void* c) {
  Carver scratch(workspace_.get(widened_scratch(s)));
  float* wide_a = scratch.take<float>(std::min(s.m, kRowBlock) * std::min(s.k, kDepthBlock));
  float* wide_b = scratch.take<float>(std::min(s.n, kColumnBlock) * std::min(s.k, kDepthBlock));
  float* tile = scratch.take<float>(std::min(s.m, kRowBlock) * std::min(s.n, kColumnBlock));
  const bool in_place = s.output == DType::float32;
  for (int64_t j = 0; j < s.n; j += kColumnBlock) {
    const int64_t columns = std::min(kColumnBlock, s.n - j);
    for (int64_t i = 0; i < s.m; i += kRowBlock) {
      const int64_t rows = std::min(kRowBlock, s.m - i);
      float* to = in_place ? static_cast<float*>(c) + i * s.n + j : tile;
      const int64_t to_row = in_place ? s.n : columns;
      bfloat16* low = in_place ? nullptr : static_cast<bfloat16*>(c) + i * s.n + j;
      start_sums(s, bias ? bias + j : nullptr, low, to, to_row, rows, columns);
      for (int64_t l = 0; l < s.k; l += kDepthBlock) {
        const int64_t depth = std::min(kDepthBlock, s.k - l);
        widen_part(a, s.a_transposed, s.m, s.k, i, rows, l, depth, wide_a);
        widen_part(b, s.b_transposed, s.k, s.n, l, depth, j, columns, wide_b);
        check(dnnl_sgemm(s.a_transposed ? 'T' : 'N', s.b_transposed ? 'T' : 'N', rows, columns, depth, 1.0f, wide_a, s.a_transposed ? rows : depth,
                         wide_b, s.b_transposed ? depth : columns, 1.0f, to, to_row),
              "dnnl_sgemm");
      }
      for (int64_t r = 0; !in_place && r < rows; ++r) cast(TensorView(to + r * columns, {columns}), TensorView(low + r * s.n, {columns}));
    }
  }
}

}  // namespace llmtrain::cpu
