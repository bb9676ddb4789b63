// The decoder: embedding, blocks, final norm, head and loss; forward and backward over packed batches, written by hand on the list of operations
// (kernels/kernels.h). One body serves all families: what differs between them is declared by ModelConfig and its tensor list.
//
//   block:  n1 = norm(x);  qkv = n1 Wqkv^T (+ b);  [qk norm];  rope;  a = attention(qkv);  x' = x + a Wo^T (+ b)
//           n2 = norm(x'); u = n2 Wgu^T (+ b);  m = silu(gate) * up;               x'' = x' + m Wd^T (+ b)
//
// Units of the ParameterManager: 0 the embedding, 1..L the blocks, L + 1 final norm and head (with tied weights the head uses unit 0 as well).
// Thread rules: one thread. Nothing is allocated after the constructor.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/arena.h"
#include "kernels/kernels.h"
#include "model/batch.h"
#include "model/model_config.h"
#include "zero/parameter_manager.h"

namespace llmtrain {

// What is kept for the backward pass and what is computed again. All give the same bits.
//   none   everything is kept                                     (per token and layer: h*5 + qkv + attention + 3F elements of X)
//   cheap  outputs of the norms and of SwiGLU are computed again  (h*3 + qkv + attention… + 2F)
//   full   only the block's input is kept                         (h)
enum class Recompute { none, cheap, full };

struct TransformerOptions {
  DType compute = DType::float32;
  Recompute recompute = Recompute::cheap;
  bool training = true;
  int64_t max_tokens = 0;          // T of the largest batch
  int64_t longest_sequence = 0;    // of any batch
  int64_t max_positions = 0;       // largest position + 1 of any batch (rope tables)
  int64_t loss_chunk_tokens = 0;   // tokens whose logits exist at once; 0: chosen so that logits take at most 64 MiB, at least 128 tokens
};

// The units of a model. `trained(name)` says whether a tensor is trained (null: all).
std::vector<UnitSpec> transformer_units(const ModelConfig& config, const std::function<bool(const std::string&)>& trained = nullptr);

class Transformer {
 public:
  // `manager` was made from transformer_units(config). Takes its memory from `arena`; a planning arena gives the plan.
  Transformer(const ModelConfig& config, const TransformerOptions& options, Device& device, Kernels& kernels, Stream& compute,
              ParameterManager& manager, Arena& arena);
  ~Transformer();

  // One micro-step: adds d(scale * sum of token losses) / d(weights) to the manager's gradients and returns the sum of token losses of this rank's
  // batch. An empty batch (T = 0) takes part in every gather and reduction and returns 0. Ends with manager.finish().
  double forward_backward(const Batch& batch, float scale);
  // Sum of token losses; no gradients. losses (optional, [T]) receives each token's loss.
  double forward_loss(const Batch& batch, std::span<float> losses = {});
  // Logits float32 [T, V] in host memory (tests, small models).
  void forward_logits(const Batch& batch, std::span<float> logits);

  // ---- generation for one sequence, with a key-value cache of `capacity` tokens (taken from `arena`, before seal()).
  void reserve_cache(int64_t capacity, Arena& arena);
  // Appends tokens to the cached sequence and gives the logits [V] after the last one. cache_length() tokens are cached already.
  void extend(std::span<const int32_t> tokens, std::span<float> logits);
  int64_t cache_length() const;
  void clear_cache();

  const ModelConfig& config() const;
  int64_t loss_chunk_tokens() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmtrain
