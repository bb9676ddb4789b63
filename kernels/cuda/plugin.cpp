// The plugin's one exported function (device/cuda_backend.h).
#include <cuda_runtime.h>

#include "comm/nccl/nccl_communicator.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda_backend.h"
#include "device/program_commit.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/versions.h"

extern "C" __attribute__((visibility("default"))) const llmtrain::CudaPlugin* llmtrain_cuda_plugin() {
  static const llmtrain::CudaPlugin plugin = {llmtrain::program_commit(),   llmtrain::cuda::library_versions, llmtrain::cuda::device_count,
                                              llmtrain::cuda::device_info,  llmtrain::cuda::make_device,      llmtrain::cuda::make_kernels,
                                              llmtrain::cuda::make_nccl_communicator};
  return &plugin;
}
