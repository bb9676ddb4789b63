// How the parameters of a model lie in memory, on disk and over ranks: units, flat arrays, shards. Independent of layer types and of MPI.
//
// A unit (embedding, block, head) has at most two flat arrays: what is trained, and what is frozen. In a flat array the tensors follow each other in
// the unit's canonical order without gaps, so that tensors that belong together (q, k, v) form one matrix. The array is padded at its end only, to
// world * shard_elements; rank r owns elements [r * shard_elements, (r + 1) * shard_elements).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace llmtrain {

struct ParameterSpec {
  std::string name;  // Hugging Face's name of the tensor
  Shape shape;
  bool trained = true;
  bool decay = true;  // weight decay applies (not on norms and biases)
};

struct UnitSpec {
  std::string name;
  std::vector<ParameterSpec> parameters;
};

// Where one parameter lies in its unit.
struct ParameterPlace {
  int unit = 0, parameter = 0;
  bool trained = true;
  int64_t offset = 0;  // first element in the flat array
};

// A piece of a parameter that this rank owns: elements [tensor_begin, tensor_begin + count) of the tensor (row-major) lie at
// [shard_begin, shard_begin + count) of the rank's shard of the flat array.
struct OwnedRange {
  int unit = 0, parameter = 0;
  int64_t tensor_begin = 0, shard_begin = 0, count = 0;
};

class ShardLayout {
 public:
  ShardLayout(std::vector<UnitSpec> units, int world);

  int world() const { return world_; }
  const std::vector<UnitSpec>& units() const { return units_; }
  // Elements of the flat array without padding; 0 when the unit has none of this kind.
  int64_t elements(int unit, bool trained) const;
  // Elements of every rank's shard: ceil(elements / world), rounded up to kShardAlign.
  int64_t shard_elements(int unit, bool trained) const;
  const ParameterPlace& place(int unit, int parameter) const;
  // All pieces of the trained (or frozen) array of `unit` that `rank` owns, in order.
  std::vector<OwnedRange> owned(int unit, bool trained, int rank) const;
  int64_t parameters_total() const;    // elements of all parameters
  int64_t parameters_trained() const;

  static constexpr int64_t kShardAlign = 64;

 private:
  std::vector<UnitSpec> units_;
  int world_;
  std::vector<std::vector<ParameterPlace>> places_;
  std::vector<int64_t> trained_, frozen_;
};

}  // namespace llmtrain
