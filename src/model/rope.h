// Rotary frequencies, bit for bit (to an ulp of powf) as transformers' modeling_rope_utils computes them on a CPU: in float32 where it
// uses float32 tensors, in double where it uses Python numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_config.h"

namespace llmtrain {

struct RopeFrequencies {
  std::vector<float> inv_freq;      // [rotary_dim / 2]; the angle of position p and pair i is p * inv_freq[i]
  float attention_scaling = 1.0f;   // cos and sin are multiplied by it (yarn, longrope)
};

// sequence_length matters for dynamic (theta grows once it exceeds max_position_embeddings) and longrope (the long factors once it exceeds
// original_max_position_embeddings); 0 means "within the trained context". transformers chooses once per micro-batch by its
// longest (padded) row. Its dynamic kind also remembers: the frequencies of the longest batch so far stay until a batch is shorter than
// max_position_embeddings; a caller that follows it passes the longest length since then.
RopeFrequencies compute_inv_freq(const ModelConfig& config, int64_t sequence_length = 0);
// Whether compute_inv_freq depends on sequence_length.
bool rope_depends_on_length(const ModelConfig& config);

}  // namespace llmtrain
