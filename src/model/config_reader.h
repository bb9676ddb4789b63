// Typed, bounded access to the keys of one config.json: each getter says what a missing key means, and refuses a value of the wrong
// kind or size with InputError naming the file and the key. Private to the model room's configuration files.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace llmtrain {

class ConfigReader {
 public:
  // `json` must outlive the reader. `prefix` stands before keys in messages ("rope_scaling.").
  ConfigReader(const Json& json, std::string where, std::string prefix = "") : json_(json), where_(std::move(where)), prefix_(std::move(prefix)) {}

  const Json* find(const std::string& key) const;      // null where absent
  bool has(const std::string& key) const { return find(key) != nullptr; }
  bool is_set(const std::string& key) const;           // present and not null
  // Numbers must lie in [low, high]. A whole number may be written as 4096.0. `absent` is the value of a missing key; null is refused.
  int64_t integer(const std::string& key, int64_t absent, int64_t low, int64_t high) const;
  double number(const std::string& key, double absent, double low, double high) const;
  bool boolean(const std::string& key, bool absent) const;  // null means `absent`
  std::string text(const std::string& key, const std::string& absent) const;
  // Null, or missing with absent == nullopt, gives nullopt.
  std::optional<int64_t> optional_integer(const std::string& key, std::optional<int64_t> absent, int64_t low, int64_t high) const;
  std::optional<double> optional_number(const std::string& key, double low, double high) const;
  std::vector<std::string> texts(const std::string& key) const;                     // missing or null: empty
  std::vector<double> numbers(const std::string& key, double low, double high) const;  // missing or null: empty

  [[noreturn]] void refuse(const std::string& key, const std::string& what, const std::string& advice = "") const;
  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  double checked_number(const Json& value, const std::string& key, double low, double high) const;
  int64_t checked_integer(const Json& value, const std::string& key, int64_t low, int64_t high) const;
  const Json& json_;
  std::string where_, prefix_;
};

}  // namespace llmtrain
