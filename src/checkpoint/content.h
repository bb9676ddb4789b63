// What a checkpoint holds: units with their flat arrays, cut into one shard a rank. A plain description: this room knows neither the model nor the
// engine; train/ fills it in from the ShardLayout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/tensor.h"

namespace llmtrain {

// One tensor in a flat array of its unit.
struct StoredTensor {
  std::string name;     // Hugging Face's name
  Shape shape;
  bool trained = true;  // which of the unit's two flat arrays it lies in
  int64_t offset = 0;   // first element in that array
};

// One array that is stored for a unit: the weights, a moment of the optimizer. Each rank holds `shard_elements` of it, rank by rank.
struct StoredArray {
  std::string name;     // "weight", "adam_m", "adam_v": of what is trained; "frozen": weights without states
  DType dtype = DType::float32;
  bool trained = true;
  int64_t shard_elements = 0;
};

struct StoredUnit {
  std::string name;
  std::vector<StoredTensor> tensors;
  std::vector<StoredArray> arrays;
  int64_t elements(bool trained) const {  // of the flat array, without its padding
    int64_t n = 0;
    for (const StoredTensor& t : tensors) n += t.trained == trained ? t.shape.elements() : 0;
    return n;
  }
  const StoredArray* find(const std::string& array) const {
    for (const StoredArray& a : arrays) {
      if (a.name == array) return &a;
    }
    return nullptr;
  }
};

struct CheckpointContent {
  int world = 1;
  std::vector<StoredUnit> units;
};

Json to_json(const CheckpointContent& content);
// InputError naming `where` when a number is negative, a tensor leaves its array, an array is too short for its tensors or of another type than this format
// writes, a name is none or there twice, two tensors share a place, or there is no tensor.
CheckpointContent content_from_json(const Json& json, const std::string& where);

// "shard-00002-of-00004.h5"
std::string shard_file_name(int rank, int world);

}  // namespace llmtrain
