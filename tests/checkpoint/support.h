// A small made-up model for the tests of the checkpoint room: every element has a value of its own, so that a wrong place shows.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "checkpoint/content.h"
#include "checkpoint/digest.h"
#include "checkpoint/index_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_image.h"

namespace llmtrain::testing_support {

inline int64_t shard_of(int64_t elements, int world) {
  const int64_t n = (elements + world - 1) / world;
  return (n + 15) / 16 * 16;
}

// `scale`: how many times as many rows each matrix has.
inline CheckpointContent small_content(int world, int64_t scale = 1) {
  CheckpointContent content;
  content.world = world;
  const auto add = [&](const std::string& name, std::vector<StoredTensor> tensors) {
    StoredUnit u;
    u.name = name;
    u.tensors = std::move(tensors);
    int64_t trained = 0, frozen = 0;
    for (StoredTensor& t : u.tensors) {
      int64_t& n = t.trained ? trained : frozen;
      t.offset = n;
      n += t.shape.elements();
    }
    if (trained > 0) {
      for (const char* a : {"weight", "adam_m", "adam_v"}) u.arrays.push_back({a, DType::float32, true, shard_of(trained, world)});
    }
    if (frozen > 0) u.arrays.push_back({"frozen", DType::bfloat16, false, shard_of(frozen, world)});
    content.units.push_back(std::move(u));
  };
  add("embedding", {{"model.embed_tokens.weight", {37 * scale, 11}, true, 0}});
  add("layer 0", {{"model.layers.0.input_layernorm.weight", {11}, true, 0}, {"model.layers.0.mlp.up_proj.weight", {23 * scale, 11}, false, 0},
                  {"model.layers.0.self_attn.q_proj.weight", {13 * scale, 11}, true, 0}});
  add("head", {{"model.norm.weight", {11}, true, 0}, {"lm_head.weight", {37 * scale, 11}, true, 0}});
  return content;
}

// The value of element i of an array: unlike any other place. Frozen values are small whole numbers, exact in bfloat16.
inline float value_of(int unit, const std::string& array, int64_t i, int64_t step) {
  if (array == "frozen") return static_cast<float>((i * 7 + unit) % 200 - 100);
  return static_cast<float>(unit * 1000 + step * 100) + static_cast<float>(i) * 0.001f +
         (array == "adam_m"   ? 0.25f
          : array == "adam_v" ? 0.5f
                              : 0.0f);
}

inline void fill_image(ShardImage& image, const CheckpointContent& content, int rank, int64_t step) {
  for (int u = 0; u < static_cast<int>(content.units.size()); ++u) {
    for (const StoredArray& a : content.units[static_cast<size_t>(u)].arrays) {
      std::vector<float> values(static_cast<size_t>(a.shard_elements));
      for (int64_t i = 0; i < a.shard_elements; ++i) values[static_cast<size_t>(i)] = value_of(u, a.name, rank * a.shard_elements + i, step);
      std::vector<char> raw(values.size() * size_of(a.dtype));
      convert_elements(values.data(), DType::float32, raw.data(), a.dtype, values.size());
      image.put(u, a.name, 0, a.shard_elements, raw.data());
    }
  }
}

inline void write_text(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

// Lists a file as it is now.
inline void list_file(Manifest& manifest, const std::string& folder, const std::string& name) {
  const ManifestFile entry{name, std::filesystem::file_size(folder + "/" + name), digest_of_file(folder + "/" + name)};
  for (ManifestFile& f : manifest.files) {
    if (f.name == name) {
      f = entry;
      return;
    }
  }
  manifest.files.push_back(entry);
}

// A whole checkpoint as `content.world` ranks would write it, by one process. `mark` goes into the values.
inline Manifest write_checkpoint(const std::string& folder, const CheckpointContent& content, int64_t mark) {
  std::filesystem::create_directories(folder);
  Manifest m;
  m.run_id = "run";
  m.step = mark;
  m.state = Json{{"mark", mark}};
  m.build = "build";
  m.content = content;
  for (int rank = 0; rank < content.world; ++rank) {
    ShardImage image(content);
    fill_image(image, content, rank, mark);
    image.write(folder + "/" + shard_file_name(rank, content.world));
    list_file(m, folder, shard_file_name(rank, content.world));
  }
  const std::pair<const char*, std::string> sides[] = {
      {"index.h5", build_index_file(content)}, {"trainer_state.json", "{\"log_history\": []}\n"}, {"config.json", "{\"model_type\": \"llama\"}\n"}};
  for (const auto& [name, text] : sides) {
    write_text(folder + "/" + name, text);
    list_file(m, folder, name);
  }
  write_text(folder + "/manifest.json", dump_manifest(m));
  return m;
}

}  // namespace llmtrain::testing_support
