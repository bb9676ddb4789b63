#include "app/checkpoint_source.h"

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {

bool is_checkpoint_folder(const std::string& folder) {
  return is_regular_file(folder + "/manifest.json") || (is_regular_file(folder + "/index.h5") && !is_regular_file(folder + "/model.safetensors"));
}

CheckpointSource::CheckpointSource(const std::string& folder, RankGroup& group) : found_(open_checkpoint(folder, group)) {
  for (const StoredUnit& unit : found_.manifest.content.units) {
    for (const StoredTensor& tensor : unit.tensors) {
      const StoredArray* array = unit.find(tensor.trained ? "weight" : "frozen");
      if (!array) throw InputError(folder + "/manifest.json", "no weights are stored for " + tensor.name);
      tensors_.push_back({tensor.name, tensor.shape});
      places_[tensor.name] = {&unit, &tensor, array};
    }
  }
  reader_ = std::make_unique<CheckpointReader>(found_.folder, found_.manifest);
}

void CheckpointSource::read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const {
  const auto it = places_.find(name);
  LLMTRAIN_ASSERT(it != places_.end(), "no tensor " + name);
  const Place& p = it->second;
  if (out_type == DType::float32) return reader_->read_tensor(*p.unit, *p.tensor, *p.array, element_begin, count, static_cast<float*>(out));
  std::vector<float> values(static_cast<size_t>(count));
  reader_->read_tensor(*p.unit, *p.tensor, *p.array, element_begin, count, values.data());
  convert_elements(values.data(), DType::float32, out, out_type, values.size());
}

}  // namespace llmtrain
