// The CUDA backend's Kernels.
#pragma once

#include <memory>

#include "device/cuda_backend.h"
#include "kernels/kernels.h"

namespace llmtrain::cuda {

// InputError where the options ask for an attention that cannot be had here.
std::unique_ptr<Kernels> make_kernels(Device& device, const CudaKernelsOptions& options);

}  // namespace llmtrain::cuda
