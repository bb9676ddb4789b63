// The plugin's one exported function (device/cuda_backend.h).
#include <cuda_runtime.h>

#include "comm/nccl/nccl_communicator.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda_backend.h"
#include "device/program_commit.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/versions.h"

namespace {

std::vector<std::string> versions() {
  std::vector<std::string> all = llmtrain::cuda::library_versions();
  if (const std::string nccl = llmtrain::cuda::nccl_version(); !nccl.empty()) all.push_back(nccl);
  return all;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const llmtrain::CudaPlugin* llmtrain_cuda_plugin() {
  static const llmtrain::CudaPlugin plugin = {llmtrain::program_commit(),   versions,                       llmtrain::cuda::device_count,
                                              llmtrain::cuda::device_info,  llmtrain::cuda::make_device,      llmtrain::cuda::make_kernels,
                                              llmtrain::cuda::make_nccl_communicator};
  return &plugin;
}
