// Matrix products of the CUDA backend through cuBLASLt (https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api). Sums are float32, also those of
// split-k partials; float32 inputs are never rounded to TF32 unless the options say so.
//
// Which algorithm: for the shapes that announce() names, up to twelve that cuBLASLt proposes are timed before the run's memory is taken, with a cold L2
// cache; others borrow the choice of a neighbouring number of tokens, or are timed when they first come (not those that accumulate, whose output
// must not be written twice: they get cuBLASLt's first proposal). Choices are kept in memory and in a file of the cache folder, keyed by GPU, driver, library
// version and workspace (gemm_choices.h). The same shape runs the same algorithm throughout a process; a run that must repeat another's bits
// exactly (options.deterministic) always takes the first proposal, as timings are not reproducible.
// What cuBLASLt has no algorithm for (rows that are no multiple of its vectors), and k = 0, run on an own kernel (gemm_fallback.h); the log says so.
// Errors: OperationError. Thread rules: as Kernels, one call at a time; one stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <span>
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
  // Shapes that will come: finds their algorithms now, on memory that it takes and gives back. Known shapes cost nothing. Where memory is too scarce for
  // that, says so in the log.
  virtual void announce(std::span<const GemmShape>) {}
  // c (+)= op(a) op(b) + bias. An empty inner dimension (k = 0) leaves c as it is where `accumulate`, zero (or bias) otherwise; empty m or n do nothing.
  virtual void multiply(cudaStream_t stream, const GemmShape& shape, const void* a, const void* b, const void* bias, void* c, void* workspace) = 0;
  // One line for the log.
  virtual std::string describe() const = 0;
  // Writes the algorithms chosen so far to the cache file, where there is one.
  virtual void save_choices() {}
};

std::unique_ptr<Gemm> make_gemm(Device& device, const CudaKernelsOptions& options);

}  // namespace llmtrain::cuda
