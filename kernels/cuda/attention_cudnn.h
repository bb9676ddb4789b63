// Attention through cuDNN's fused kernels (cudnn-frontend's composite graph of scaled dot-product attention,
// https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html), for packed sequences by ragged offsets.
//
// Plans are compiled per bucket of (number of sequences, longest sequence) and kept, in memory and in files keyed by GPU and cuDNN version.
// Errors: OperationError with cuDNN's message. Thread rules: as Kernels; one stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string>

#include "device/cuda_backend.h"
#include "device/device.h"
#include "kernels/cuda/sequence_map.h"
#include "kernels/kernels.h"

namespace llmtrain::cuda {

class CudnnAttention {
 public:
  virtual ~CudnnAttention() = default;
  // Whether these shapes run; else why not (head size, type, architecture, determinism).
  virtual bool supports(DType type, HeadLayout layout, bool backward, std::string& why) const = 0;
  // Scratch memory for batches of up to these sizes. Builds the plans of the largest bucket.
  virtual size_t workspace_bytes(const Kernels::Limits& limits) = 0;
  virtual void forward(cudaStream_t s, void* workspace, size_t workspace_bytes, TensorView qkv, const SequenceMap& sequences, HeadLayout layout,
                       float scale, int window, TensorView out, TensorView lse) = 0;
  virtual void backward(cudaStream_t s, void* workspace, size_t workspace_bytes, TensorView dout, TensorView qkv, TensorView out, TensorView lse,
                        const SequenceMap& sequences, HeadLayout layout, float scale, int window, TensorView dqkv) = 0;
  virtual std::string describe() const = 0;
};

// Null, with the reason, where this build or this machine has no cuDNN that can be used.
std::unique_ptr<CudnnAttention> make_cudnn_attention(Device& device, const CudaKernelsOptions& options, std::string& why);

}  // namespace llmtrain::cuda
