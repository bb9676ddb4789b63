#include "kernels/cuda/versions.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

namespace llmtrain::cuda {

std::vector<std::string> library_versions() {
  const auto dotted = [](size_t v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const size_t lt = cublasLtGetVersion();  // 130100 is 13.1.0
  return {"CUDA runtime " + dotted(static_cast<size_t>(runtime)), driver ? "driver for CUDA " + dotted(static_cast<size_t>(driver)) : "no driver",
          "cuBLASLt " + std::to_string(lt / 10000) + "." + std::to_string(lt % 10000 / 100) + "." + std::to_string(lt % 100)};
}

}  // namespace llmtrain::cuda
