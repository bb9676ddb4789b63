// Attention plans of cuDNN: the graph of scaled dot-product attention that cudnn-frontend builds (its composite path,
// https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html), compiled, kept and run. This is all that sees cuDNN, which is
// opened when the first plan is wanted (libcudnn.so.9), never linked.
//
// Compiling needs no GPU: a description of one (JSON, as cuDNN itself writes it) and a loadable libcuda.so.1 do, so that tests compile plans anywhere.
//
// The graph: packed sequences by ragged offsets with a padding mask, causal (band [.., 0] of the top left diagonal; with a window W its left bound, which
// counts the token itself like Kernels::attention_forward's), views into qkv's rows, sums in float32. The padding mask also keeps clear of what cuDNN
// before 9.26 does with keys past the last whole tile (cudnn-frontend issue 628).
// Errors: OperationError with cuDNN's message. Thread rules: one thread at a time per handle.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "kernels/cuda/attention_cudnn_shapes.h"

namespace llmtrain::cuda {

// Opens cuDNN, once a process. False with the reason where there is none or it is a version that is refused.
bool open_cudnn(std::string& why);
size_t cudnn_version();  // after open_cudnn()

// Where plans are compiled for: a handle of the current GPU, or a GPU's description.
class CudnnTarget {
 public:
  static CudnnTarget current_device(int sm);
  static CudnnTarget described(const std::string& json, int sm);
  ~CudnnTarget();
  CudnnTarget(CudnnTarget&& other) noexcept;
  CudnnTarget& operator=(CudnnTarget&&) = delete;

  int sm() const { return sm_; }
  void set_stream(cudaStream_t stream);

 private:
  friend class AttentionPlan;
  struct Impl;
  CudnnTarget(std::unique_ptr<Impl> impl, int sm);
  std::unique_ptr<Impl> impl_;
  int sm_;
};

// Device memory of a call. Offsets in elements of the tensor they belong to, from its first element; those of a call that begins at slot i are the
// arrays from entry i on.
struct AttentionPointers {
  const void *q = nullptr, *k = nullptr, *v = nullptr;  // in the rows of qkv
  void* out = nullptr;                                  // backward: read
  float* lse = nullptr;                                 // backward: read. Token-major [T, Hq]
  const void* dout = nullptr;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
  const int64_t *qkv_offsets = nullptr, *out_offsets = nullptr, *lse_offsets = nullptr;
  const int64_t *dq_offsets = nullptr, *dkv_offsets = nullptr;
  const int32_t* lengths = nullptr;  // of the sequences: one for each slot
};

class AttentionPlan {
 public:
  static std::unique_ptr<AttentionPlan> compile(const CudnnTarget& target, const AttentionGraph& graph);
  // From what serialize() gave, on the same GPU architecture and cuDNN version.
  static std::unique_ptr<AttentionPlan> load(const CudnnTarget& target, const std::string& blob);
  ~AttentionPlan();

  size_t workspace_bytes() const { return workspace_bytes_; }
  std::string serialize() const;
  // On the target's stream.
  void run(const CudnnTarget& target, const AttentionPointers& pointers, void* workspace) const;

 private:
  struct Impl;
  explicit AttentionPlan(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  size_t workspace_bytes_ = 0;
};

}  // namespace llmtrain::cuda
