// Checkpoints written by N ranks and restored by the M ranks of this run, for N in {1, 2, 3, 4, 6, 8}: weights and both moments of AdamW bit for bit, through
// the engine and back to a checkpoint of M ranks. CTest runs this at M = 1, 2, 3, 4, 6 and 8. No size of the model divides by the rank counts.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "checkpoint/digest.h"
#include "checkpoint/reader.h"
#include "checkpoint/saver.h"
#include "comm/context.h"
#include "core/error.h"
#include "support/shared.h"
#include "train/checkpointing.h"
#include "train/engine.h"

namespace llmtrain {
namespace {

constexpr int kWriters[] = {1, 2, 3, 4, 6, 8};

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr, true);
  return runtime;
}

ModelConfig odd_model() {
  return parse_model_config(nlohmann::ordered_json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 37,
    "hidden_size": 22, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false})"),
                            "model of this test");
}

// A value that no other element of any tensor has, with all bits of the mantissa in use. Frozen weights are stored in bfloat16, whose 7 bits
// they keep to.
float value_of(const std::string& tensor, const std::string& array, int64_t i) {
  const std::string key = tensor + "/" + array + "/" + std::to_string(i);
  const uint64_t hash = std::stoull(digest_of(key).substr(0, 12), nullptr, 16);
  if (array == "frozen") return 1.0f + static_cast<float>(hash % 128) / 128.0f;
  return static_cast<float>(1.0 + static_cast<double>(hash) / 281474976710656.0);  // in [1, 2]
}

void fill_shard(ShardImage& image, const ShardLayout& layout, const CheckpointContent& content, int rank) {
  for (int u = 0; u < static_cast<int>(content.units.size()); ++u) {
    for (const StoredArray& a : content.units[static_cast<size_t>(u)].arrays) {
      std::vector<float> values(static_cast<size_t>(a.shard_elements));
      for (const OwnedRange& r : layout.owned(u, a.trained, rank)) {
        const std::string& name = layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(r.parameter)].name;
        for (int64_t i = 0; i < r.count; ++i) values[static_cast<size_t>(r.shard_begin + i)] = value_of(name, a.name, r.tensor_begin + i);
      }
      std::vector<char> raw(values.size() * size_of(a.dtype));
      convert_elements(values.data(), DType::float32, raw.data(), a.dtype, values.size());
      image.put(u, a.name, 0, a.shard_elements, raw.data());
    }
  }
}

// As `world` ranks would write it.
void write_checkpoint(const std::string& folder, const std::vector<UnitSpec>& units, int world, DType compute) {
  std::filesystem::create_directories(folder);
  const ShardLayout layout(units, world);
  Manifest m;
  m.content = checkpoint_content(layout, compute);
  m.state = Json::object();
  for (int rank = 0; rank < world; ++rank) {
    ShardImage image(m.content);
    fill_shard(image, layout, m.content, rank);
    const std::string name = shard_file_name(rank, world), digest = image.write(folder + "/" + name).digest;
    m.files.push_back({name, image.bytes(), digest});
  }
  std::ofstream(folder + "/manifest.json", std::ios::binary) << dump_manifest(m);
}

// Elements that are not bitwise what they should be, of all tensors of a checkpoint.
int64_t wrong_elements(const FoundCheckpoint& checkpoint, int64_t& compared) {
  int64_t wrong = 0;
  CheckpointReader reader(checkpoint.folder, checkpoint.manifest);
  for (const StoredUnit& unit : checkpoint.manifest.content.units) {
    for (const StoredArray& a : unit.arrays) {
      for (const StoredTensor& t : unit.tensors) {
        if (t.trained != a.trained) continue;
        std::vector<float> values(static_cast<size_t>(t.shape.elements()));
        reader.read_tensor(unit, t, a, 0, t.shape.elements(), values.data());
        for (size_t i = 0; i < values.size(); ++i) {
          const float expected = value_of(t.name, a.name, static_cast<int64_t>(i));
          const bool differs = std::memcmp(&values[i], &expected, sizeof expected) != 0;
          if (differs && wrong++ == 0) ADD_FAILURE() << t.name << " " << a.name << " element " << i << " is " << values[i] << ", not " << expected;
        }
        compared += t.shape.elements();
      }
    }
  }
  return wrong;
}

// This rank's elements in the engine.
int64_t wrong_in_engine(Engine& engine, int64_t& compared) {
  const ShardLayout& layout = engine.manager().layout();
  int64_t wrong = 0;
  for (int u = 0; u < static_cast<int>(layout.units().size()); ++u) {
    for (const OwnedRange& r : layout.owned(u, true, engine.manager().rank())) {
      const std::string& name = layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(r.parameter)].name;
      const std::pair<const char*, const float*> arrays[] = {{"weight", engine.manager().master(u).as<float>()},
                                                             {"adam_m", engine.optimizer().first_moment(u).as<float>()},
                                                             {"adam_v", engine.optimizer().second_moment(u).as<float>()}};
      for (const auto& [array, values] : arrays) {
        for (int64_t i = 0; i < r.count; ++i) {
          const float expected = value_of(name, array, r.tensor_begin + i);
          wrong += std::memcmp(&values[r.shard_begin + i], &expected, sizeof expected) != 0;
        }
        compared += r.count;
      }
    }
  }
  return wrong;
}

void reshard(const std::function<bool(const std::string&)>& trained) {
  const auto group = make_rank_group(mpi());
  Log log{group->rank(), false};
  EngineOptions options;
  options.compute = DType::bfloat16;
  options.max_tokens = options.longest_sequence = options.max_positions = 16;
  options.checkpoints = true;
  options.trained = trained;
  Engine engine(mpi(), *group, odd_model(), options, log);
  std::optional<testing_support::ScratchFolder> scratch;
  if (group->rank() == 0) scratch.emplace();
  const std::string folder = broadcast_string(*group, scratch ? scratch->path() : "", 0);
  int64_t compared = 0;
  for (const int writers : kWriters) {
    const std::string from = folder + "/from" + std::to_string(writers), to = folder + "/to" + std::to_string(writers);
    if (group->rank() == 0) {
      write_checkpoint(from, engine.manager().layout().units(), writers, options.compute);
      std::filesystem::create_directories(to);
    }
    group->barrier();
    const FoundCheckpoint written = open_checkpoint(from, *group);
    ASSERT_EQ(written.manifest.content.world, writers);
    restore_engine(engine, *group, written, 3);
    EXPECT_EQ(wrong_in_engine(engine, compared), 0) << writers << " -> " << group->size();
    CheckpointSaver saver({to, "run", "build", false, 0}, checkpoint_content(engine.manager().layout(), options.compute), *group, log);
    saver.start(1, [&](ShardImage& image) { fill_image(engine, image); }, Json::object(), {});
    const FoundCheckpoint again = open_checkpoint(to + "/checkpoint-1", *group);
    if (group->rank() == 0) {
      EXPECT_EQ(wrong_elements(again, compared), 0) << writers << " -> " << group->size();
    }
    group->barrier();
  }
  if (group->rank() == 0) {
    std::printf("%d ranks restored and saved again what 1, 2, 3, 4, 6 and 8 ranks had written: %lld weights and moments compared bit for bit on rank 0\n",
                group->size(), static_cast<long long>(compared));
  }
}

TEST(Reshard, EveryElementComesBackBitwiseWhateverNumberOfRanksWroteIt) { reshard(nullptr); }

TEST(Reshard, TheSameWithFrozenTensorsInBfloat16) {
  reshard([](const std::string& name) { return name.find("layers.1") != std::string::npos || name.find("norm") != std::string::npos; });
}

}  // namespace
}  // namespace llmtrain
