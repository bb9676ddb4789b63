// THE table of keys. A key stands here once; everything else about the configuration is derived from it.
//
// Adding a key: a line in the table_*.cpp of its group and, if the program honours it, a member of Config.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.h"
#include "config/value.h"
#include "config/yaml.h"

namespace llmtrain {

// What the program does with a key.
enum class Standing {
  honoured,
  no_effect,      // accepted; `reason` is said once when its value differs from the default
  not_trainable,  // read by every command, but `train` refuses a value other than the default: not supported in this version
  refused         // a value other than the default is refused by every command
};

enum class ValueKind { boolean, integer, number, text, choice, list, numbers, map };

using Member = std::variant<std::monostate, bool Config::*, int64_t Config::*, double Config::*, std::string Config::*,
                            std::vector<std::string> Config::*, std::vector<double> Config::*, TextMap Config::*, std::optional<bool> Config::*,
                            std::optional<int64_t> Config::*, std::optional<double> Config::*, std::optional<std::string> Config::*>;

struct Key {
  std::string name;
  std::string group;
  ValueKind kind = ValueKind::text;
  Member member;
  std::string fallback;  // the default, as YAML; "null" where there is none
  std::string meaning;
  Standing standing = Standing::honoured;
  std::string reason;                // no_effect, not_trainable, refused: why, and what to do
  std::vector<std::string> choices;  // choice (of a list: of each item)
  std::optional<double> low, high;   // inclusive range of numbers
  bool above_low = false;            // the lower bound itself is excluded
  bool true_or_path = false;         // a text that may also be true or false (resume_from_checkpoint)
  std::string true_word, false_word; // of a choice that may also be true or false: which word is meant
  bool nullable = false;
  bool secret = false;   // its value is never printed
  std::string alias_of;  // an older name of another key

  // For the table's lines.
  Key&& range(double from, double to) && { return low = from, high = to, std::move(*this); }
  Key&& at_least(double from) && { return low = from, std::move(*this); }
  Key&& above(double from) && { return low = from, above_low = true, std::move(*this); }
  Key&& one_of(std::vector<std::string> words) && { return kind = ValueKind::choice, choices = std::move(words), std::move(*this); }
  Key&& without_effect(std::string why) && { return standing = Standing::no_effect, reason = std::move(why), std::move(*this); }
  Key&& not_yet(std::string why) && { return standing = Standing::not_trainable, reason = std::move(why), std::move(*this); }
  Key&& never(std::string why) && { return standing = Standing::refused, reason = std::move(why), std::move(*this); }
  Key&& hidden() && { return secret = true, std::move(*this); }
  Key&& or_boolean(std::string when_true, std::string when_false) && {
    return true_word = std::move(when_true), false_word = std::move(when_false), std::move(*this);
  }
  Key&& or_boolean() && { return true_or_path = true, std::move(*this); }
};

// Makes the lines of the table.
Key key(std::string name, Member member, std::string fallback, std::string meaning);   // kind from the member
Key key(std::string name, ValueKind kind, std::string fallback, std::string meaning);  // no member
Key alias(std::string name, std::string of);

const std::vector<Key>& key_table();
const Key* find_key(std::string_view name);  // nullptr if unknown; aliases lead to the key itself
std::vector<std::string> key_names();        // with aliases

// "integer >= 1", "one of: a, b or c": what a key takes, for messages and docs.
std::string describe_type(const Key& key);

// The value of `node` for `key`; InputError(what) without a place, which the caller adds.
Value read_value(const Key& key, const YamlNode& node);
Value default_value(const Key& key);
void set_member(Config& config, const Key& key, const Value& value);  // no-op for keys without member
Value get_member(const Config& config, const Key& key);               // for keys with a member

// The parts of the table, in the order of the documentation.
void add_model_keys(std::vector<Key>& table);
void add_method_keys(std::vector<Key>& table);
void add_data_keys(std::vector<Key>& table);
void add_training_keys(std::vector<Key>& table);
void add_output_keys(std::vector<Key>& table);
void add_own_keys(std::vector<Key>& table);

// Collects the faults of a configuration, so that a person sees all at once.
class Faults {
 public:
  void add(const std::string& where, const std::string& what, const std::string& advice = "");
  bool empty() const { return lines_.empty(); }
  // Whether there are as many as are shown: those that follow are only counted, so their advice need not be worked out.
  bool full() const { return lines_.size() >= kShown; }
  void raise() const;  // throws InputError unless empty

 private:
  struct Line {
    std::string text, advice;
  };
  static constexpr size_t kShown = 8;  // a file of another program would fill the screen
  std::vector<Line> lines_;
};

void check_combinations(const Config& config);  // check.cpp; part of load_config

}  // namespace llmtrain
