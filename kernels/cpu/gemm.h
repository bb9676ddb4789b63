// Matrix products through oneDNN (https://uxlfoundation.github.io/oneDNN/): dnnl_sgemm for float32, its matmul primitive for bfloat16 where the
// processor multiplies bfloat16 faster than float32 (matmul_plan.h), and float32 products of widened blocks where it does not.
//
// The same call on the same number of threads gives the same bits. Thread rules: as Kernels, one call at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/dtype.h"
#include "kernels/gemm_shape.h"
#include "kernels/workspace.h"

namespace llmtrain::cpu {

class MatmulPlans;

class Gemm {
 public:
  explicit Gemm(Workspace& workspace);
  ~Gemm();

  // Scratch memory that multiply() takes from the workspace. May create the primitives (part of a millisecond).
  size_t scratch_bytes(const GemmShape& shape);
  void multiply(const GemmShape& shape, const void* a, const void* b, const void* bias, void* c);
  // How bfloat16 is multiplied here, for the log.
  std::string describe() const;

 private:
  void multiply_float32(const GemmShape& s, const float* a, const float* b, const float* bias, float* c) const;
  void multiply_widened(const GemmShape& s, const bfloat16* a, const bfloat16* b, const bfloat16* bias, void* c);
  size_t widened_scratch(const GemmShape& s) const;
  Workspace& workspace_;
  bool native_bf16_;
  std::unique_ptr<MatmulPlans> plans_;
};

}  // namespace llmtrain::cpu
