// A checkpoint as something that `convert` can read: its weights, under their Hugging Face names, range by range.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/resume.h"
#include "hf/copy_tensors.h"

namespace llmtrain {

class CheckpointSource : public TensorSource {
 public:
  // Verifies every byte first. InputError naming what is wrong. Collective.
  CheckpointSource(const std::string& folder, RankGroup& group);
  const Manifest& manifest() const { return found_.manifest; }

  const std::vector<NamedShape>& tensors() const override { return tensors_; }
  DType dtype() const override { return DType::float32; }  // masters; frozen weights are widened
  void verify(RankGroup&) const override {}                // done in the constructor
  void read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const override;

 private:
  struct Place {
    const StoredUnit* unit;
    const StoredTensor* tensor;
    const StoredArray* array;
  };
  FoundCheckpoint found_;
  std::vector<NamedShape> tensors_;
  std::map<std::string, Place> places_;
  std::unique_ptr<CheckpointReader> reader_;
};

// Whether a folder is a checkpoint of this program (by its manifest), whatever state it is in.
bool is_checkpoint_folder(const std::string& folder);

}  // namespace llmtrain
