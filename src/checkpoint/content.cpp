#include "checkpoint/content.h"

#include <cstdio>
#include <limits>

#include "core/error.h"

namespace llmtrain {

std::string shard_file_name(int rank, int world) {
  char name[64];
  std::snprintf(name, sizeof name, "shard-%05d-of-%05d.h5", rank, world);
  return name;
}

Json to_json(const CheckpointContent& content) {
  Json units = Json::array();
  for (const StoredUnit& u : content.units) {
    Json tensors = Json::array(), arrays = Json::array();
    for (const StoredTensor& t : u.tensors) {
      Json shape = Json::array();
      for (int i = 0; i < t.shape.rank; ++i) shape.push_back(t.shape[i]);
      tensors.push_back({{"name", t.name}, {"shape", shape}, {"trained", t.trained}, {"offset", t.offset}});
    }
    for (const StoredArray& a : u.arrays) {
      arrays.push_back({{"name", a.name}, {"dtype", name_of(a.dtype)}, {"trained", a.trained}, {"shard_elements", a.shard_elements}});
    }
    units.push_back({{"name", u.name}, {"tensors", tensors}, {"arrays", arrays}});
  }
  return {{"world_size", content.world}, {"units", units}};
}

namespace {

constexpr int64_t kMostElements = int64_t{1} << 46;  // far above any model, far below overflow

int64_t number(const Json& object, const char* key, int64_t low, int64_t high, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) throw InputError(where, std::string("\"") + key + "\" is missing or not a whole number");
  const int64_t v = it->is_number_unsigned() && it->get<uint64_t>() > static_cast<uint64_t>(high) ? high + 1 : it->get<int64_t>();
  if (v < low || v > high) throw InputError(where, std::string("\"") + key + "\" is out of range");
  return v;
}

std::string text(const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) throw InputError(where, std::string("\"") + key + "\" is missing or not a text");
  return it->get<std::string>();
}

bool truth(const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_boolean()) throw InputError(where, std::string("\"") + key + "\" is missing or not true / false");
  return it->get<bool>();
}

const Json& list(const Json& object, const char* key, const std::string& where) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || it == object.end() || !it->is_array()) throw InputError(where, std::string("\"") + key + "\" is missing or not a list");
  return *it;
}

StoredTensor tensor_from_json(const Json& json, const std::string& where) {
  StoredTensor t;
  t.name = text(json, "name", where);
  t.trained = truth(json, "trained", where);
  t.offset = number(json, "offset", 0, kMostElements, where);
  const Json& shape = list(json, "shape", where);
  if (shape.size() > kMaxDims) throw InputError(where, "tensor " + t.name + " has too many dimensions");
  int64_t elements = 1;
  for (const Json& d : shape) {
    if (!d.is_number_integer() || d.get<int64_t>() < 0 || d.get<int64_t>() > kMostElements) throw InputError(where, "shape of " + t.name);
    const int64_t v = d.get<int64_t>();
    if (v != 0 && elements > kMostElements / v) throw InputError(where, "shape of " + t.name + " is too large");
    elements *= v;
    t.shape.dims[static_cast<size_t>(t.shape.rank++)] = v;
  }
  return t;
}

}  // namespace

CheckpointContent content_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) throw InputError(where, "the content is not an object");
  CheckpointContent content;
  content.world = static_cast<int>(number(json, "world_size", 1, 1 << 20, where));
  for (const Json& u : list(json, "units", where)) {
    StoredUnit unit;
    unit.name = text(u, "name", where);
    for (const Json& t : list(u, "tensors", where)) unit.tensors.push_back(tensor_from_json(t, where));
    for (const Json& a : list(u, "arrays", where)) {
      StoredArray array;
      array.name = text(a, "name", where);
      array.dtype = parse_dtype(text(a, "dtype", where), where);
      array.trained = truth(a, "trained", where);
      array.shard_elements = number(a, "shard_elements", 0, kMostElements / content.world, where);
      unit.arrays.push_back(array);
    }
    for (const StoredArray& a : unit.arrays) {
      for (const StoredTensor& t : unit.tensors) {
        if (t.trained == a.trained && t.offset + t.shape.elements() > a.shard_elements * content.world) {
          throw InputError(where, "tensor " + t.name + " leaves the array " + unit.name + "/" + a.name);
        }
      }
    }
    content.units.push_back(std::move(unit));
  }
  return content;
}

}  // namespace llmtrain
