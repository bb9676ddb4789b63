// The collectives of a GPU run through NCCL (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html).
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "device/cuda_backend.h"

namespace llmtrain::cuda {

// Collective over `group` (MPI), which carries the id and the host values. Null in a build without NCCL.
std::unique_ptr<Communicator> make_nccl_communicator(RankGroup& group, Device& device, const std::string& name, const NcclOptions& options);
// "NCCL 2.28.9", the version found at run time; "" in a build without NCCL.
std::string nccl_version();

}  // namespace llmtrain::cuda
