// A build without cuDNN or cudnn-frontend's headers: the own kernels do all attention.
#include "kernels/cuda/attention_cudnn.h"

namespace llmtrain::cuda {

std::unique_ptr<CudnnAttention> make_cudnn_attention(Device&, const CudaKernelsOptions&, std::string& why) {
  why = "this build has no cuDNN attention";
  return nullptr;
}

}  // namespace llmtrain::cuda
