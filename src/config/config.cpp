#include "config/config.h"

#include <algorithm>
#include <cmath>

#include "config/table.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

const char* const kCommandLine = "command line";

// A key as it was given, from the file or from the command line, which wins.
struct Given {
  std::string name, where;
  YamlNode node;
};

void set_dotted(YamlNode& map, std::string_view rest, YamlNode value) {
  if (map.kind == YamlNode::Kind::scalar && !map.text.empty() && map.text[0] == '{') map = parse_yaml_value(map.text, kCommandLine);
  if (map.kind != YamlNode::Kind::map) map = YamlNode{};
  map.kind = YamlNode::Kind::map;
  for (auto& [name, node] : map.entries)
    if (name == rest) {
      node = std::move(value);
      return;
    }
  map.entries.emplace_back(std::string(rest), std::move(value));
}

void apply_override(std::vector<Given>& all, const std::string& word) {
  const size_t equals = word.find('=');
  if (equals == std::string::npos || equals == 0)
    throw InputError(kCommandLine, "'" + word.substr(0, 60) + "' is not a key=value word", "write the key, '=' and the value without blanks");
  std::string name = word.substr(0, equals);
  if (name.starts_with("--")) name.erase(0, 2);
  const size_t dot = name.find('.');
  const std::string root = name.substr(0, dot);
  const Key* key = find_key(root);
  YamlNode value;
  const std::string text = word.substr(equals + 1);
  // A text is taken as it stands: only lists, maps and quotes are YAML.
  value = parse_yaml_value(text, std::string(kCommandLine) + ": " + root);
  if (dot != std::string::npos && key && key->kind != ValueKind::map)
    throw InputError(kCommandLine, "'" + root + "' is not a map, so '" + name + "' means nothing");
  const auto at = std::find_if(all.begin(), all.end(), [&](const Given& g) { return key ? find_key(g.name) == key : g.name == root; });
  Given fresh{root, kCommandLine, {}};
  if (dot != std::string::npos && at != all.end()) fresh.node = at->node;
  if (dot != std::string::npos) {
    set_dotted(fresh.node, std::string_view(name).substr(dot + 1), std::move(value));
  } else {
    fresh.node = std::move(value);
  }
  if (at != all.end()) {
    *at = std::move(fresh);
  } else {
    all.push_back(std::move(fresh));
  }
}

// Refused keys that share a reason are one fault.
class Refusals {
 public:
  void add(const std::string& where, const Key& key, const Value& value) {
    for (auto& [reason, names, place] : all_)
      if (reason == key.reason) {
        names += ", " + key.name;
        return;
      }
    all_.push_back({key.reason, key.name + (key.secret || !std::holds_alternative<bool>(value) ? "" : ": " + to_yaml(value)), where});
  }
  void move_to(Faults& faults) const {
    for (const auto& [reason, names, place] : all_) faults.add(place, names + ": " + reason);
  }

 private:
  struct Refusal {
    std::string reason, names, where;
  };
  std::vector<Refusal> all_;
};

bool is_harmless(const Key& key, const Value& value) { return std::holds_alternative<std::monostate>(value) || value == default_value(key); }

void take(Config& config, const Given& given, Faults& faults, Refusals& refusals) {
  const Key* key = find_key(given.name);
  if (!key) {
    const std::string shown = given.name.substr(0, 80);
    faults.add(given.where, "unknown key '" + shown + "'", faults.full() ? "" : "nearest known key: " + nearest(given.name, key_names()));
    return;
  }
  if (!config.origins.emplace(key->name, given.where).second) {
    faults.add(given.where, "'" + given.name + "' and '" + key->name + "' are the same key, and stand both");
    return;
  }
  try {
    const Value value = read_value(*key, given.node);
    if (key->standing == Standing::refused && !is_harmless(*key, value)) refusals.add(given.where, *key, value);
    if (!std::holds_alternative<std::monostate>(key->member)) {
      set_member(config, *key, value);
    } else if (!is_harmless(*key, value) && !key->secret) {
      config.extra[key->name] = to_yaml(value);
    }
  } catch (const InputError& e) {
    faults.add(given.where, given.name + ": " + e.what());
  }
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

}  // namespace

Config::Config() {
  for (const Key& key : key_table())
    if (key.alias_of.empty()) set_member(*this, key, default_value(key));
}

std::string Config::origin(std::string_view key) const {
  const auto at = origins.find(key);
  return at == origins.end() ? "default" : at->second;
}

bool Config::packs() const { return neat_packing || packing.value_or(stage == "pt"); }

std::string Config::recompute_mode() const { return recompute == "auto" && disable_gradient_checkpointing ? "none" : recompute; }

Config parse_config(std::string_view yaml, const std::string& where, const std::vector<std::string>& overrides) {
  YamlNode root = parse_yaml(yaml, where);
  std::vector<Given> all;
  for (auto& [name, node] : root.entries) {
    const std::string place = where + ":" + std::to_string(node.line);
    all.push_back({name, place, std::move(node)});
  }
  for (const std::string& word : overrides) apply_override(all, word);
  Config config;
  Faults faults;
  Refusals refusals;
  for (const Given& given : all) take(config, given, faults, refusals);
  refusals.move_to(faults);
  faults.raise();
  check_combinations(config);
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_config(read_file(path, kYamlMaxBytes), path, overrides);
}

std::vector<std::string> notes_of(const Config& config) {
  std::vector<std::pair<std::string, std::string>> by_reason;
  for (const Key& key : key_table()) {
    if (key.standing != Standing::no_effect) continue;
    const bool member = !std::holds_alternative<std::monostate>(key.member);
    if (member ? config.is_default(key.name) || is_harmless(key, get_member(config, key)) : !config.extra.contains(key.name)) continue;
    const auto at = std::find_if(by_reason.begin(), by_reason.end(), [&](const auto& r) { return r.first == key.reason; });
    if (at == by_reason.end()) {
      by_reason.emplace_back(key.reason, key.name);
    } else {
      at->second += ", " + key.name;
    }
  }
  std::vector<std::string> lines;
  for (const auto& [reason, names] : by_reason) lines.push_back(names + ": accepted without effect: " + reason);
  return lines;
}

std::string resolved_yaml(const Config& config) {
  std::string out, group;
  for (const Key& key : key_table()) {
    const bool member = !std::holds_alternative<std::monostate>(key.member);
    const auto extra = config.extra.find(key.name);
    if (!key.alias_of.empty() || (!member && extra == config.extra.end())) continue;
    if (key.group != group) {
      out += (out.empty() ? "# " : "\n# ") + key.group + "\n";
      group = key.group;
    }
    out += key.name + ": " + (member ? to_yaml(get_member(config, key)) : extra->second);
    if (!config.is_default(key.name)) out += "  # " + one_line(config.origin(key.name));
    if (key.standing == Standing::no_effect && !config.is_default(key.name)) out += ", without effect";
    out += "\n";
  }
  return out;
}

bool same_values(const Config& a, const Config& b) {
  for (const Key& key : key_table())
    if (get_member(a, key) != get_member(b, key)) return false;
  return a.extra == b.extra;
}

int64_t steps_of(double value, int64_t total_steps) {
  if (value <= 0) return 0;
  return value < 1 ? static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * value)) : static_cast<int64_t>(value);
}

int64_t warmup_steps_of(const Config& config, int64_t total_steps) {
  const double ratio = config.warmup_ratio.value_or(0);
  if (ratio > 0) return static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * ratio));
  return steps_of(config.warmup_steps, total_steps);
}

}  // namespace llmtrain
