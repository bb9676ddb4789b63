// The weights of a Hugging Face folder under the names of this program's canonical tensors: everything that config.json asks for is
// there with its shape before anything is read.
#pragma once

#include <string>
#include <vector>

#include "core/rank_group.h"
#include "hf/copy_tensors.h"
#include "hf/model_folder.h"
#include "model/model_config.h"

namespace llmtrain {

class ModelWeights : public TensorSource {
 public:
  // InputError listing what is missing or of another shape. Reads headers only. A folder of a tied model that holds the head
  // instead of the embedding is read as if it held the embedding.
  ModelWeights(const ModelConfig& config, const std::string& folder);

  const ModelFolder& folder() const { return folder_; }
  // What the folder holds and the model does not use, as transformers ignores it (rotary tables, the head of a tied model).
  const std::vector<std::string>& ignored() const { return ignored_; }

  // Where config.json ties the head to the embedding but the folder holds both: they must be equal, else InputError (transformers would untie
  // them, which config.json must then say). Each rank compares its part. Collective.
  void verify(RankGroup& group) const override;

  // In all_tensors() order.
  const std::vector<NamedShape>& tensors() const override { return tensors_; }
  DType dtype() const override;
  void read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const override;

 private:
  ModelConfig config_;
  ModelFolder folder_;
  std::vector<NamedShape> tensors_;
  std::vector<std::string> ignored_;
  bool embedding_is_head_ = false;
};

}  // namespace llmtrain
