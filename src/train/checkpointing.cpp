#include "train/checkpointing.h"

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/reader.h"
#include "core/error.h"

namespace llmtrain {

CheckpointContent checkpoint_content(const ShardLayout& layout, DType compute, const StateTypes& states) {
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
      unit.arrays.push_back({"weight", states.master, true, layout.shard_elements(u, true)});
      for (const char* name : {"adam_m", "adam_v"}) unit.arrays.push_back({name, states.moments, true, layout.shard_elements(u, true)});
    }
    if (layout.elements(u, false) > 0) unit.arrays.push_back({"frozen", compute, false, layout.shard_elements(u, false)});
    content.units.push_back(std::move(unit));
  }
  return content;
}

// A GPU's memory goes straight into the image, chunk by chunk, all copies in one stream; the CPU's is copied by the threads of a save.
void fill_image(Engine& engine, ShardImage& image) {
  ParameterManager& manager = engine.manager();
  const bool on_host = engine.device().kind() == DeviceKind::cpu;
  const ShardLayout& layout = manager.layout();
  for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
    const auto put = [&](const char* name, const TensorView& v) {
      if (on_host) return image.put(u, name, 0, v.elements(), v.data);
      image.each_chunk(u, name, [&](void* to, int64_t begin, size_t bytes) {
        engine.device().copy_to_host(engine.compute_stream(), to, v.as<char>() + static_cast<size_t>(begin) * size_of(v.dtype), bytes);
      });
    };
    if (layout.elements(u, true) > 0) {
      put("weight", manager.master(u));
      put("adam_m", engine.optimizer().first_moment(u));
      put("adam_v", engine.optimizer().second_moment(u));
    }
    if (layout.elements(u, false) > 0) put("frozen", manager.frozen(u));
  }
  if (!on_host) engine.compute_stream().synchronize();
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

void check_fits(const ShardLayout& layout, const StateTypes& states, const FoundCheckpoint& checkpoint) {
  for (const StoredUnit& unit : checkpoint.manifest.content.units) {
    const StoredArray *weight = unit.find("weight"), *moment = unit.find("adam_m");
    if (!weight || !moment) continue;
    const StateTypes stored{weight->dtype, moment->dtype};
    if (!(stored == states))
      throw InputError(checkpoint.folder, std::string("its optimizer states are ") + name_of(stored) + ", this run's are " + name_of(states),
                       std::string("resume with states: ") + name_of(stored));
  }
  const std::map<std::string, Stored> stored = by_name(checkpoint.manifest.content);
  const std::string& folder = checkpoint.folder;
  const auto other_model = [&folder](const std::string& what) -> InputError {
    return {folder, "this is the checkpoint of another model: " + what,
            "give model_name_or_path the model that this run began with; or start afresh: overwrite_output_dir: true, without a path in resume_from_checkpoint"};
  };
  std::set<std::string> ours;
  for (const UnitSpec& unit : layout.units()) {
    for (const ParameterSpec& p : unit.parameters) {
      ours.insert(p.name);
      const auto it = stored.find(p.name);
      if (it == stored.end()) throw other_model("it holds no " + p.name);
      if (!(it->second.tensor->shape == p.shape)) {
        throw other_model(p.name + " is " + it->second.tensor->shape.text() + " there and " + p.shape.text() + " here");
      }
      if (it->second.tensor->trained != p.trained) {
        throw InputError(folder, p.name + " was " + (it->second.tensor->trained ? "trained" : "frozen") + " in the run that wrote this checkpoint",
                         "resume with the same finetuning_type and freeze_* keys");
      }
    }
  }
  if (ours.size() == stored.size()) return;
  std::string surplus;
  for (const auto& [name, place] : stored) {
    if (!ours.contains(name)) {
      surplus = name;
      break;
    }
  }
  throw other_model("it holds " + std::to_string(stored.size()) + " tensors, this model has " + std::to_string(ours.size()) + " (none is " + surplus + ")");
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
  std::vector<float> values;
  std::vector<char> raw;
  const auto restore = [&](const std::string& name, const char* array, const OwnedRange& r, const TensorView& to) {
    constexpr int64_t kChunk = int64_t{1} << 20;
    for (int64_t at = 0; at < r.count; at += kChunk) {
      const int64_t n = std::min(kChunk, r.count - at);
      values.resize(static_cast<size_t>(n));
      raw.resize(static_cast<size_t>(n) * size_of(to.dtype));
      read(name, array, r.tensor_begin + at, n, values.data());
      convert_elements(values.data(), DType::float32, raw.data(), to.dtype, static_cast<size_t>(n));
      engine.device().copy_to_device(engine.compute_stream(), to.as<char>() + static_cast<size_t>(r.shard_begin + at) * size_of(to.dtype), raw.data(), raw.size());
      engine.compute_stream().synchronize();  // the buffers are used again
    }
  };
  run_on_all_or_fail(group, [&] {  // a shard that is refused on one rank is refused on all
    for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
      for (const OwnedRange& r : layout.owned(u, true, manager.rank())) {
        const std::string& name = layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(r.parameter)].name;
        restore(name, "adam_m", r, engine.optimizer().first_moment(u));
        restore(name, "adam_v", r, engine.optimizer().second_moment(u));
      }
    }
  });
  engine.optimizer().set_steps_done(optimizer_steps);
}

}  // namespace llmtrain
