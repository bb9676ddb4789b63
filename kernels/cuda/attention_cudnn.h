// Attention through cuDNN's fused kernels, for packed sequences by ragged offsets. What a plan is: attention_cudnn_plan.h; sizes, layouts and refusals:
// attention_cudnn_shapes.h.
//
// Plans are compiled when a batch first needs them (0.4 to 2 s each) and kept, in memory and in files of <cache folder>/cudnn-<version>-sm<architecture>/,
// from where they load in milliseconds. A file that cannot be read or does not fit is compiled anew; one that cannot be written is logged.
// Deterministic: the forward pass always is. The backward pass is where cuDNN has an algorithm in linear memory (9.25 and newer on sm_90, any on sm_100);
// the price of the older one, slots x heads x longest^2 x 2 bytes, is 16 GiB for one sequence of 16k tokens and 32 heads, so the own kernel, whose
// memory is linear, takes the backward pass there, and the log says so.
// Errors: OperationError with cuDNN's message. Thread rules: as Kernels; one stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "device/cuda_backend.h"
#include "device/device.h"
#include "kernels/cuda/sequence_map.h"
#include "kernels/kernels.h"

namespace llmtrain::cuda {

// The arguments of Kernels::attention_forward (dout and dqkv absent) or attention_backward.
struct AttentionCall {
  TensorView qkv, out, lse, dout = {}, dqkv = {};
  const SequenceMap& sequences;
  HeadLayout layout;
  float scale = 0;
  int window = 0;
  bool backward() const { return static_cast<bool>(dqkv); }
};

class CudnnAttention {
 public:
  virtual ~CudnnAttention() = default;
  // Scratch memory for batches of up to these sizes; cuDNN's own need follows from the shapes (attention_cudnn_shapes.h). 0 where cuDNN does not run.
  virtual size_t workspace_bytes(const Kernels::Limits& limits) = 0;
  // Memory that keeps its contents between calls, from the arena: where sequences begin.
  virtual size_t kept_bytes(const Kernels::Limits& limits) const = 0;
  virtual void adopt(void* block, size_t bytes) = 0;
  // Whether cuDNN does this call: the scratch memory it needs, or nothing with the reason (shape, type, architecture, determinism; a plan that cuDNN
  // does not compile). Compiles or loads the plans that are missing.
  virtual std::optional<size_t> prepare(const AttentionCall& call, std::string& why) = 0;
  // After prepare() for the same call.
  virtual void run(cudaStream_t stream, void* workspace, const AttentionCall& call) = 0;
  virtual std::string describe() const = 0;
};

// Null, with the reason, where this build or this machine has no cuDNN that can be used.
std::unique_ptr<CudnnAttention> make_cudnn_attention(Device& device, const CudaKernelsOptions& options, std::string& why);

}  // namespace llmtrain::cuda
