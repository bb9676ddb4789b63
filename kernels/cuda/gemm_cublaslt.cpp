// Matrix products through cuBLASLt (gemm.h). Row-major [R, C] is column-major C x R, so c = op(a) op(b) is asked for as c^T = op(b)^T op(a)^T.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "core/error.h"
#include "device/cuda/check.h"
#include "device/cuda/cuda_device.h"
#include "kernels/cuda/gemm.h"

namespace llmtrain::cuda {
namespace {

void check_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw OperationError(std::string(call) + ": " + cublasLtGetStatusName(status) + ", " + cublasLtGetStatusString(status));
}
#define LT_CHECK(call) check_lt((call), #call)

class CublasLtGemm final : public Gemm {
 public:
  CublasLtGemm(Device& device, const CudaKernelsOptions& options) : options_(options) {
    CUDA_CHECK(cudaSetDevice(device_index(device)));
    LT_CHECK(cublasLtCreate(&handle_));
  }
  ~CublasLtGemm() override { cublasLtDestroy(handle_); }
  size_t workspace_bytes() const override { return size_t{32} << 20; }
  void multiply(cudaStream_t stream, const GemmShape& shape, const void* a, const void* b, const void* bias, void* c, void* workspace) override;
  std::string describe() const override { return "matrix products: cuBLASLt " + std::to_string(cublasLtGetVersion()); }

 private:
  cublasLtHandle_t handle_ = nullptr;
  CudaKernelsOptions options_;
};

cudaDataType_t type_of(DType type) { return type == DType::float32 ? CUDA_R_32F : CUDA_R_16BF; }

void CublasLtGemm::multiply(cudaStream_t stream, const GemmShape& s, const void* a, const void* b, const void* bias, void* c, void* workspace) {
  LLMTRAIN_ASSERT(s.k > 0, "empty inner dimension");
  if (s.m == 0 || s.n == 0) return;
  const bool tf32 = options_.tf32 && s.inputs == DType::float32;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  LT_CHECK(cublasLtMatmulDescCreate(&desc, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t op_left = s.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, op_right = s.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_left, sizeof op_left));
  LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_right, sizeof op_right));
  if (s.bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t bias_type = type_of(s.inputs);
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type));
  }
  // b is stored [n, k] (transposed) or [k, n]: column-major k x n or n x k. a likewise.
  LT_CHECK(cublasLtMatrixLayoutCreate(&left, type_of(s.inputs), static_cast<uint64_t>(s.b_transposed ? s.k : s.n),
                                      static_cast<uint64_t>(s.b_transposed ? s.n : s.k), s.b_transposed ? s.k : s.n));
  LT_CHECK(cublasLtMatrixLayoutCreate(&right, type_of(s.inputs), static_cast<uint64_t>(s.a_transposed ? s.m : s.k),
                                      static_cast<uint64_t>(s.a_transposed ? s.k : s.m), s.a_transposed ? s.m : s.k));
  LT_CHECK(cublasLtMatrixLayoutCreate(&out, type_of(s.output), static_cast<uint64_t>(s.n), static_cast<uint64_t>(s.m), s.n));
  LT_CHECK(cublasLtMatmulPreferenceCreate(&preference));
  const size_t limit = workspace_bytes();
  LT_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof limit));
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  LT_CHECK(cublasLtMatmulAlgoGetHeuristic(handle_, desc, left, right, out, out, preference, 1, &result, &found));
  LLMTRAIN_ASSERT(found > 0, "cuBLASLt knows no algorithm");
  const float one = 1, beta = s.accumulate ? 1.0f : 0.0f;
  LT_CHECK(cublasLtMatmul(handle_, desc, &one, b, left, a, right, &beta, c, out, c, out, &result.algo, workspace, limit, stream));
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(out);
  cublasLtMatrixLayoutDestroy(right);
  cublasLtMatrixLayoutDestroy(left);
  cublasLtMatmulDescDestroy(desc);
}

}  // namespace

std::unique_ptr<Gemm> make_gemm(Device& device, const CudaKernelsOptions& options) { return std::make_unique<CublasLtGemm>(device, options); }

}  // namespace llmtrain::cuda
