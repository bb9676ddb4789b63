// Matrix products of the CUDA backend through cuBLASLt (https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api). For each shape several algorithms
// that cuBLASLt proposes are timed on the device at start, and the fastest is kept, in memory and in a file keyed by GPU, driver and library
// version. Sums are float32; float32 inputs are never rounded to TF32 unless the options say so.
//
// The same shape always runs the same algorithm in a process: the same input gives the same bits.
// Errors: OperationError. Thread rules: as Kernels, one call at a time; one stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string>

#include "device/cuda_backend.h"
#include "device/device.h"
#include "kernels/gemm_shape.h"

namespace llmtrain::cuda {

class Gemm {
 public:
  virtual ~Gemm() = default;
  // Scratch memory for split sums; the caller hands it in with every call.
  virtual size_t workspace_bytes() const = 0;
  // c (+)= op(a) op(b) + bias. An empty inner dimension (k = 0) leaves c as it is where `accumulate`, zero (or bias) otherwise; empty m or n do nothing.
  virtual void multiply(cudaStream_t stream, const GemmShape& shape, const void* a, const void* b, const void* bias, void* c, void* workspace) = 0;
  // One line for the log.
  virtual std::string describe() const = 0;
  // Writes the algorithms chosen so far to the cache file, where there is one.
  virtual void save_choices() {}
};

std::unique_ptr<Gemm> make_gemm(Device& device, const CudaKernelsOptions& options);

}  // namespace llmtrain::cuda
