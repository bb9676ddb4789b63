// model.safetensors.index.json beside two sound shards.
#include "core/file.h"
#include "hf/model_folder.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {
namespace {

std::string make_folder() {
  make_directories(scratch() + "/model");
  std::vector<SafetensorsEntry> a(1), b(1);
  a[0].name = "a";
  b[0].name = "b";
  a[0].shape = b[0].shape = {2};
  put("model/one.safetensors", make_safetensors_header(a) + std::string(8, '\0'));
  put("model/two.safetensors", make_safetensors_header(b) + std::string(8, '\0'));
  return scratch() + "/model";
}

}  // namespace

const Target& target() {
  static const Target t{{json("{'metadata':{'total_size':16},'weight_map':{'a':'one.safetensors','b':'two.safetensors'}}"),
                         json("{'weight_map':{'a':'../model/one.safetensors'}}"), json("{'weight_map':{'a':'/dev/zero'}}"), json("{'weight_map':{'a':'.'}}"),
                         json("{'weight_map':{'a':'two.safetensors','c':'missing.safetensors'}}")},
                        json_words({"\"weight_map\"", "\"metadata\"", "\"one.safetensors\"", "\"two.safetensors\"", "../", "/", "\"..\"", "\\u0000", "\"a\"", "\"b\""})};
  return t;
}

void take(std::string_view input) {
  static const std::string folder = make_folder();
  put("model/model.safetensors.index.json", input);
  const ModelFolder model = ModelFolder::open(folder);
  float value[2];
  for (const std::string& name : model.names()) model.read_range(name, 0, 2, value, DType::float32);
  model.check({{"a", {2}}});
}

}  // namespace llmtrain::fuzz
