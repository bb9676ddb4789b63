#include "config/table.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "core/error.h"

namespace llmtrain {
namespace {

struct Kinds {
  ValueKind operator()(std::monostate) const { return ValueKind::text; }
  ValueKind operator()(bool Config::*) const { return ValueKind::boolean; }
  ValueKind operator()(std::optional<bool> Config::*) const { return ValueKind::boolean; }
  ValueKind operator()(int64_t Config::*) const { return ValueKind::integer; }
  ValueKind operator()(std::optional<int64_t> Config::*) const { return ValueKind::integer; }
  ValueKind operator()(double Config::*) const { return ValueKind::number; }
  ValueKind operator()(std::optional<double> Config::*) const { return ValueKind::number; }
  ValueKind operator()(std::string Config::*) const { return ValueKind::text; }
  ValueKind operator()(std::optional<std::string> Config::*) const { return ValueKind::text; }
  ValueKind operator()(std::vector<std::string> Config::*) const { return ValueKind::list; }
  ValueKind operator()(std::vector<double> Config::*) const { return ValueKind::numbers; }
  ValueKind operator()(TextMap Config::*) const { return ValueKind::map; }
};

std::vector<Key> make_table() {
  std::vector<Key> table;
  const auto part = [&](const char* group, void (*add)(std::vector<Key>&)) {
    const size_t begin = table.size();
    add(table);
    for (size_t i = begin; i < table.size(); ++i) table[i].group = group;
  };
  part("model", add_model_keys);
  part("method", add_method_keys);
  part("data", add_data_keys);
  part("training", add_training_keys);
  part("output and evaluation", add_output_keys);
  part("llmtrain's own", add_own_keys);
  return table;
}

[[noreturn]] void wrong(const Key& key, const YamlNode& node) {
  std::string given = node.kind == YamlNode::Kind::list   ? "a list"
                      : node.kind == YamlNode::Kind::map  ? "a map"
                      : node.kind == YamlNode::Kind::null ? "null"
                                                          : "'" + (node.text.size() > 60 ? node.text.substr(0, 57) + "…" : node.text) + "'";
  if (key.secret) given = "the value";
  throw InputError(given + " is not " + describe_type(key));
}

void check_range(const Key& key, double value, const YamlNode& node) {
  if ((key.low && (key.above_low ? value <= *key.low : value < *key.low)) || (key.high && value > *key.high)) wrong(key, node);
}

Value read_scalar(const Key& key, const YamlNode& node) {
  switch (key.kind) {
    case ValueKind::boolean:
      if (const auto word = parse_boolean(node.text)) return *word;
      if (node.text == "0" || node.text == "1") return node.text == "1";
      wrong(key, node);
    case ValueKind::integer:
      if (const auto number = parse_integer(node.text)) {
        check_range(key, static_cast<double>(*number), node);
        return *number;
      }
      wrong(key, node);
    case ValueKind::number:
      if (const auto number = parse_number(node.text)) {
        check_range(key, *number, node);
        return *number;
      }
      wrong(key, node);
    default: {
      if (!key.true_or_path) return node.text;
      const auto word = parse_boolean(node.text);
      if (!word) return node.text;
      return *word ? Value(std::string("true")) : Value();
    }
  }
}

// YAML 1.1 takes no, off and false for one another, and on, yes and true.
Value read_choice(const Key& key, const YamlNode& node) {
  for (const std::string& word : key.choices)
    if (node.text == word) return word;
  if (const auto given = parse_boolean(node.text); given && !key.true_word.empty()) return *given ? key.true_word : key.false_word;
  if (const auto given = parse_boolean(node.text); given && !node.quoted)
    for (const std::string& word : key.choices)
      if (parse_boolean(word) == given) return word;
  std::string advice = nearest(node.text, key.choices);
  throw InputError("'" + node.text + "' is not " + describe_type(key) + "\n  nearest: " + advice);
}

std::vector<std::string> read_items(const Key& key, const YamlNode& node) {
  if (node.kind == YamlNode::Kind::scalar) return split_commas(node.text);
  if (node.kind != YamlNode::Kind::list) wrong(key, node);
  std::vector<std::string> items;
  for (const YamlNode& item : node.items) {
    if (item.kind != YamlNode::Kind::scalar) throw InputError("an item of the list is not a plain value");
    items.push_back(item.text);
  }
  return items;
}

TextMap read_map(const Key& key, const YamlNode& node) {
  if (node.kind == YamlNode::Kind::scalar && !node.text.empty() && node.text[0] == '{')
    return read_map(key, parse_yaml_value(node.text, "its value"));
  if (node.kind != YamlNode::Kind::map) wrong(key, node);
  TextMap map;
  for (const auto& [name, item] : node.entries) {
    if (item.kind == YamlNode::Kind::null) continue;  // as left out
    if (item.kind != YamlNode::Kind::scalar && !std::holds_alternative<std::monostate>(key.member))
      throw InputError("the value of '" + name + "' is not a plain value");
    map[name] = item.kind == YamlNode::Kind::scalar ? item.text : "…";
  }
  return map;
}

}  // namespace

Key key(std::string name, Member member, std::string fallback, std::string meaning) {
  Key k;
  k.name = std::move(name);
  k.kind = std::visit(Kinds{}, member);
  k.member = member;
  k.fallback = std::move(fallback);
  k.meaning = std::move(meaning);
  const bool optional = std::visit(
      [](auto m) {
        return requires { std::declval<Config>().*m = std::nullopt; };
      },
      member);
  k.nullable = optional || k.fallback == "null";
  return k;
}

Key key(std::string name, ValueKind kind, std::string fallback, std::string meaning) {
  Key k = key(std::move(name), Member{}, std::move(fallback), std::move(meaning));
  k.kind = kind;
  k.nullable = true;
  return k;
}

Key alias(std::string name, std::string of) {
  Key k;
  k.name = std::move(name);
  k.alias_of = std::move(of);
  return k;
}

const std::vector<Key>& key_table() {
  static const std::vector<Key> table = make_table();
  return table;
}

const Key* find_key(std::string_view name) {
  static const auto index = [] {
    std::unordered_map<std::string, size_t> map;
    for (size_t i = 0; i < key_table().size(); ++i) map[key_table()[i].name] = i;
    return map;
  }();
  const auto at = index.find(std::string(name));
  if (at == index.end()) return nullptr;
  const Key& found = key_table()[at->second];
  return found.alias_of.empty() ? &found : find_key(found.alias_of);
}

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const Key& k : key_table()) names.push_back(k.name);
  return names;
}

std::string describe_type(const Key& key) {
  const auto bound = [&](double value) {
    if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(static_cast<int64_t>(value));
    return format_number(value);
  };
  std::string range;
  if (key.low && key.high) range = std::string(key.above_low ? " above " : " from ") + bound(*key.low) + " to " + bound(*key.high);
  if (key.low && !key.high) range = key.above_low ? " above " + bound(*key.low) : " of at least " + bound(*key.low);
  switch (key.kind) {
    case ValueKind::boolean:
      return "true or false";
    case ValueKind::integer:
      return "a whole number" + range;
    case ValueKind::number:
      return "a number" + range;
    case ValueKind::text:
      return key.true_or_path ? "true, false or a path" : "a text";
    case ValueKind::choice:
      return (key.choices.size() > 2 ? "one of " : "") + list_words(key.choices);
    case ValueKind::list:
      return "a list of names separated by commas";
    case ValueKind::numbers:
      return "a list of numbers" + range + " separated by commas";
    case ValueKind::map:
      return "a map like {name: value}";
  }
  return "";
}

Value read_value(const Key& key, const YamlNode& node) {
  if (node.kind == YamlNode::Kind::null) {
    if (!key.nullable) throw InputError("null is not " + describe_type(key) + "; the default is " + key.fallback);
    return {};
  }
  if (key.kind == ValueKind::map) return read_map(key, node);
  if (key.kind == ValueKind::list) {
    std::vector<std::string> items = read_items(key, node);
    for (const std::string& item : items)
      if (item.empty()) throw InputError("a name in the list is empty");
    return items.empty() ? Value() : Value(items);
  }
  if (key.kind == ValueKind::numbers) {
    std::vector<double> numbers;
    for (const std::string& item : read_items(key, node)) {
      const auto number = parse_number(item);
      if (!number) throw InputError("'" + item + "' is not a number");
      check_range(key, *number, node);
      numbers.push_back(*number);
    }
    return numbers.empty() ? Value() : Value(numbers);
  }
  if (node.kind != YamlNode::Kind::scalar) wrong(key, node);
  return key.kind == ValueKind::choice ? read_choice(key, node) : read_scalar(key, node);
}

Value default_value(const Key& key) { return read_value(key, parse_yaml_value(key.fallback, key.name)); }

void set_member(Config& config, const Key& key, const Value& value) {
  std::visit(
      [&](auto member) {
        using M = decltype(member);
        if constexpr (!std::is_same_v<M, std::monostate>) {
          auto& target = config.*member;
          using T = std::decay_t<decltype(target)>;
          if constexpr (requires {
                          typename T::value_type;
                          target.has_value();
                        }) {
            if (std::holds_alternative<std::monostate>(value))
              target.reset();
            else
              target = std::get<typename T::value_type>(value);
          } else {
            target = std::holds_alternative<std::monostate>(value) ? T{} : std::get<T>(value);
          }
        }
      },
      key.member);
}

Value get_member(const Config& config, const Key& key) {
  return std::visit(
      [&](auto member) -> Value {
        using M = decltype(member);
        if constexpr (std::is_same_v<M, std::monostate>) {
          return {};
        } else {
          const auto& source = config.*member;
          using T = std::decay_t<decltype(source)>;
          if constexpr (requires {
                          typename T::value_type;
                          source.has_value();
                        }) {
            return source ? Value(*source) : Value();
          } else if constexpr (requires { source.empty(); }) {
            return source.empty() && key.nullable ? Value() : Value(source);  // a text, list or map that was left out
          } else {
            return source;
          }
        }
      },
      key.member);
}

void Faults::add(const std::string& where, const std::string& what, const std::string& advice) { lines_.push_back({where + ": " + what, advice}); }

void Faults::raise() const {
  if (lines_.empty()) return;
  std::string message;
  for (size_t i = 0; i < std::min(lines_.size(), kShown); ++i) {
    message += (i == 0 ? "" : "\n") + lines_[i].text + (lines_[i].advice.empty() ? "" : "\n  " + lines_[i].advice);
  }
  if (lines_.size() > kShown) message += "\n… and " + std::to_string(lines_.size() - kShown) + " more faults";
  throw InputError(message);
}

}  // namespace llmtrain
