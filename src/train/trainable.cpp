// Names are taken apart as LLaMA-Factory does: "model.layers.7.self_attn.q_proj.weight" is block 7, module self_attn; a name without a block number
// belongs to the module before its last part ("model.embed_tokens.weight" -> embed_tokens).
#include "train/trainable.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t dot; (dot = name.find('.', begin)) != std::string::npos; begin = dot + 1) parts.push_back(name.substr(begin, dot - begin));
  parts.push_back(name.substr(begin));
  return parts;
}

struct Place {
  std::optional<int64_t> block;  // nothing: outside the blocks
  std::string module;
};

Place place_of(const std::string& name) {
  const std::vector<std::string> parts = parts_of(name);
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const bool number = !parts[i].empty() && std::all_of(parts[i].begin(), parts[i].end(), [](char c) { return c >= '0' && c <= '9'; });
    if (number) return {std::strtoll(parts[i].c_str(), nullptr, 10), parts[i + 1]};
  }
  return {std::nullopt, parts.size() >= 2 ? parts[parts.size() - 2] : name};
}

std::string listed(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void check_known(const std::vector<std::string>& wanted, const std::set<std::string>& known, const std::string& key) {
  for (const std::string& name : wanted)
    if (!known.count(name)) throw InputError(key, "the model has no module '" + name + "'", "choose from: " + listed(known));
}

}  // namespace

std::function<bool(const std::string&)> frozen_training(const ModelConfig& config, const FreezeChoice& choice) {
  std::set<std::string> inside, outside;
  for (const TensorSpec& tensor : all_tensors(config)) {
    const Place place = place_of(tensor.name);
    (place.block ? inside : outside).insert(place.module);
  }
  inside.insert("all");
  check_known(choice.modules, inside, "freeze_trainable_modules");
  check_known(choice.extra_modules, outside, "freeze_extra_modules");

  const int64_t total = config.num_layers;
  const std::pair<int64_t, int64_t> blocks = choice.layers > 0 ? std::make_pair(std::max<int64_t>(0, total - choice.layers), total)
                                                               : std::make_pair(int64_t{0}, std::min(-choice.layers, total));
  if (blocks.first >= blocks.second && choice.extra_modules.empty())
    throw InputError("freeze_trainable_layers", "nothing would be trained", "give a number of blocks, or freeze_extra_modules");
  const std::set<std::string> modules(choice.modules.begin(), choice.modules.end()), extra(choice.extra_modules.begin(), choice.extra_modules.end());
  return [blocks, modules, extra](const std::string& name) {
    // LLaMA-Factory looks for an extra module's name anywhere in a tensor's: "norm" trains the norms of every block too.
    if (std::any_of(extra.begin(), extra.end(), [&name](const std::string& module) { return name.find(module) != std::string::npos; })) return true;
    const Place place = place_of(name);
    return place.block && *place.block >= blocks.first && *place.block < blocks.second && (modules.count("all") || modules.count(place.module));
  };
}

}  // namespace llmtrain
