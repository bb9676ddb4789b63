#include "checkpoint/content.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <set>
#include <utility>

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

// Of a unit, an array, a tensor: each is part of a path in HDF5 files, and tensors are keys of a safetensors header.
const std::string& checked_name(const std::string& name, std::set<std::string>& known, const char* what, const std::string& where) {
  const bool plain = !name.empty() && name != "__metadata__" && std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '/'; });
  if (!plain) throw InputError(where, std::string("the name of ") + what + " is not one that this format writes: " + dump_json(name).substr(0, 80));
  if (!known.insert(name).second) throw InputError(where, std::string(what) + " is listed twice: " + name);
  return name;
}

StoredArray array_from_json(const Json& json, int world, const std::string& where) {
  StoredArray a;
  a.name = text(json, "name", where);
  a.dtype = parse_dtype(text(json, "dtype", where), where);
  if (a.dtype != DType::float32 && a.dtype != DType::bfloat16) throw InputError(where, "array " + a.name + " is of type " + name_of(a.dtype) + ", which this format does not write");
  a.trained = truth(json, "trained", where);
  a.shard_elements = number(json, "shard_elements", 0, kMostElements / world, where);
  return a;
}

// Every tensor inside every array that holds it, and no two in one place.
void check_places(const StoredUnit& unit, int world, const std::string& where) {
  for (const StoredArray& a : unit.arrays) {
    for (const StoredTensor& t : unit.tensors) {
      if (t.trained == a.trained && t.offset + t.shape.elements() > a.shard_elements * world) {
        throw InputError(where, "tensor " + t.name + " leaves the array " + unit.name + "/" + a.name);
      }
    }
  }
  for (const bool trained : {true, false}) {
    std::vector<std::pair<int64_t, const StoredTensor*>> places;
    for (const StoredTensor& t : unit.tensors) {
      if (t.trained == trained && t.shape.elements() > 0) places.emplace_back(t.offset, &t);
    }
    std::sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 1; i < places.size(); ++i) {
      const StoredTensor &before = *places[i - 1].second, &t = *places[i].second;
      if (before.offset + before.shape.elements() > t.offset) throw InputError(where, "tensors " + before.name + " and " + t.name + " lie in one place");
    }
  }
}

}  // namespace

CheckpointContent content_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) throw InputError(where, "the content is not an object");
  CheckpointContent content;
  content.world = static_cast<int>(number(json, "world_size", 1, 1 << 20, where));
  std::set<std::string> units, tensors;
  for (const Json& u : list(json, "units", where)) {
    StoredUnit unit;
    std::set<std::string> arrays;
    unit.name = checked_name(text(u, "name", where), units, "a unit", where);
    for (const Json& t : list(u, "tensors", where)) unit.tensors.push_back(tensor_from_json(t, where));
    for (const StoredTensor& t : unit.tensors) checked_name(t.name, tensors, "a tensor", where);
    for (const Json& a : list(u, "arrays", where)) unit.arrays.push_back(array_from_json(a, content.world, where));
    for (const StoredArray& a : unit.arrays) checked_name(a.name, arrays, "an array", where);
    check_places(unit, content.world, where);
    content.units.push_back(std::move(unit));
  }
  if (tensors.empty()) throw InputError(where, "no tensor is listed");
  return content;
}

}  // namespace llmtrain
