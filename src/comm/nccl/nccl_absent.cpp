// A build without NCCL: several ranks use the communicator staged through host memory.
#include "comm/nccl/nccl_communicator.h"

namespace llmtrain::cuda {

std::unique_ptr<Communicator> make_nccl_communicator(RankGroup&, Device&, const std::string&, const NcclOptions&) { return nullptr; }
std::string nccl_version() { return ""; }

}  // namespace llmtrain::cuda
