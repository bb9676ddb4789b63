// A checkpoint's manifest.json, as it is and with a digest that fits: damage is found by the digest, malice must be found by the parser.
#include "checkpoint/digest.h"
#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/json.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {
namespace {

Manifest sample() {
  Manifest m;
  m.run_id = "run";
  m.step = 7;
  m.build = "llmtrain 0.1.0";
  m.state = Json{{"tokens", 12}, {"position", {{"epoch", 1}, {"index", 3}}}};
  m.content.world = 2;
  StoredUnit unit;
  unit.name = "layer 0";
  unit.tensors.push_back({"model.layers.0.a", {2, 3}, true, 0});
  unit.tensors.push_back({"model.layers.0.b", {4}, false, 0});
  unit.arrays.push_back({"weight", DType::float32, true, 3});
  unit.arrays.push_back({"frozen", DType::bfloat16, false, 2});
  m.content.units.push_back(unit);
  m.files.push_back({"shard-00001-of-00002.h5", 100, std::string(32, '0')});
  return m;
}

}  // namespace

const Target& target() {
  static const Target t{{dump_manifest(sample())},
                        json_words({"\"content\"", "\"units\"", "\"tensors\"", "\"arrays\"", "\"shape\"", "\"offset\"", "\"shard_elements\"", "\"world_size\"", "\"dtype\"",
                                    "\"trained\"", "\"files\"", "\"bytes\"", "\"xxh3_128\"", "\"step\"", "\"state\"", "70368744177664", "1048576", "\"bfloat16\"", "../"})};
  return t;
}

void take(std::string_view input) {
  try {
    put("manifest.json", input);
    read_manifest(scratch());
  } catch (const InputError&) {
  }
  Json json = parse_json(input, "manifest.json");
  if (!json.is_object()) return;
  json.erase("digest");
  json["digest"] = digest_of(dump_json(json, 1));
  put("manifest.json", dump_json(json, 1) + "\n");
  const Manifest m = read_manifest(scratch());
  for (const StoredUnit& u : m.content.units) u.elements(true);
  dump_manifest(m);
  SoloGroup group;
  verify_files(scratch(), m, group);
}

}  // namespace llmtrain::fuzz
