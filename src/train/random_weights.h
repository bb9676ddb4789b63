// Random initial weights as transformers makes them: matrices normal with initializer_range, norms 1, biases 0. Counter-based: element e of a tensor
// depends on (seed, tensor name, e) only, so any rank can make any part and the model does not depend on the world size.
// Thread rules: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "model/model_config.h"

namespace llmtrain {

// Standard normal numbers times `deviation`: out[i] belongs to element begin + i of the named tensor.
void random_normal(uint64_t seed, const std::string& tensor, float deviation, int64_t begin, int64_t count, float* out);

class RandomWeights {
 public:
  RandomWeights(const ModelConfig& config, uint64_t seed);
  // Elements [begin, begin + count) of the tensor of that name (one of all_tensors(config)).
  void fill(const std::string& tensor, int64_t begin, int64_t count, float* out) const;

 private:
  uint64_t seed_;
  float deviation_;
  std::unordered_map<std::string, TensorRole> roles_;
};

}  // namespace llmtrain
