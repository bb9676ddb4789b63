#include "train/checkpointing.h"

#include <algorithm>
#include <map>

#include "checkpoint/reader.h"
#include "core/error.h"

namespace llmtrain {

CheckpointContent checkpoint_content(const ShardLayout& layout, DType compute) {
  CheckpointContent content;
  content.world = layout.world();
  for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
    const UnitSpec& spec = layout.units()[static_cast<size_t>(u)];
    StoredUnit unit;
    unit.name = spec.name;
    for (int p = 0; p < static_cast<int>(spec.parameters.size()); ++p) {
      const ParameterSpec& parameter = spec.parameters[static_cast<size_t>(p)];
      unit.tensors.push_back({parameter.name, parameter.shape, parameter.trained, layout.place(u, p).offset});
    }
    if (layout.elements(u, true) > 0) {
      for (const char* name : {"weight", "adam_m", "adam_v"}) unit.arrays.push_back({name, DType::float32, true, layout.shard_elements(u, true)});
    }
    if (layout.elements(u, false) > 0) unit.arrays.push_back({"frozen", compute, false, layout.shard_elements(u, false)});
    content.units.push_back(std::move(unit));
  }
  return content;
}

void fill_image(Engine& engine, ShardImage& image) {
  ParameterManager& manager = engine.manager();
  const ShardLayout& layout = manager.layout();
  for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
    const auto put = [&](const char* name, const TensorView& v) { image.put(u, name, 0, v.elements(), v.data); };
    if (layout.elements(u, true) > 0) {
      put("weight", manager.master(u));
      put("adam_m", engine.optimizer().first_moment(u));
      put("adam_v", engine.optimizer().second_moment(u));
    }
    if (layout.elements(u, false) > 0) put("frozen", manager.frozen(u));
  }
}

namespace {

struct Stored {
  const StoredUnit* unit;
  const StoredTensor* tensor;
};

std::map<std::string, Stored> by_name(const CheckpointContent& content) {
  std::map<std::string, Stored> found;
  for (const StoredUnit& u : content.units) {
    for (const StoredTensor& t : u.tensors) found[t.name] = {&u, &t};
  }
  return found;
}

}  // namespace

void check_fits(const ShardLayout& layout, const FoundCheckpoint& checkpoint) {
  const std::map<std::string, Stored> stored = by_name(checkpoint.manifest.content);
  const std::string& folder = checkpoint.folder;
  size_t parameters = 0;
  for (const UnitSpec& unit : layout.units()) {
    for (const ParameterSpec& p : unit.parameters) {
      ++parameters;
      const auto it = stored.find(p.name);
      if (it == stored.end()) throw InputError(folder, "this is the checkpoint of another model: it holds no " + p.name);
      if (!(it->second.tensor->shape == p.shape)) {
        throw InputError(folder, "this is the checkpoint of another model: " + p.name + " is " + it->second.tensor->shape.text() + " there and " + p.shape.text() + " here");
      }
      if (it->second.tensor->trained != p.trained) {
        throw InputError(folder, p.name + " was " + (it->second.tensor->trained ? "trained" : "frozen") + " in the run that wrote this checkpoint",
                         "resume with the same finetuning_type and freeze_* keys");
      }
    }
  }
  if (parameters != stored.size()) throw InputError(folder, "this is the checkpoint of another model: it holds " + std::to_string(stored.size()) + " tensors, this model has " + std::to_string(parameters));
}

void restore_engine(Engine& engine, RankGroup& group, const FoundCheckpoint& checkpoint, int64_t optimizer_steps) {
  ParameterManager& manager = engine.manager();
  const ShardLayout& layout = manager.layout();
  const std::map<std::string, Stored> stored = by_name(checkpoint.manifest.content);
  CheckpointReader reader(checkpoint.folder, checkpoint.manifest);
  const auto read = [&](const std::string& name, const std::string& array, int64_t begin, int64_t count, float* out) {
    const Stored& s = stored.at(name);
    const StoredArray* a = s.unit->find(array);
    if (!a) throw InputError(checkpoint.folder, "no " + array + " is stored for " + name);
    reader.read_tensor(*s.unit, *s.tensor, *a, begin, count, out);
  };
  engine.set_weights([&](const ParameterSpec& p, int64_t begin, int64_t count, float* out) { read(p.name, p.trained ? "weight" : "frozen", begin, count, out); });
  run_on_all_or_fail(group, [&] {  // a shard that is refused on one rank is refused on all
    for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
      for (const OwnedRange& r : layout.owned(u, true, manager.rank())) {
        const std::string& name = layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(r.parameter)].name;
        read(name, "adam_m", r.tensor_begin, r.count, engine.optimizer().first_moment(u).as<float>() + r.shard_begin);
        read(name, "adam_v", r.tensor_begin, r.count, engine.optimizer().second_moment(u).as<float>() + r.shard_begin);
      }
    }
  });
  engine.optimizer().set_steps_done(optimizer_steps);
}

}  // namespace llmtrain
