#include "model/config_reader.h"

#include <cmath>

#include "core/error.h"

namespace llmtrain {
namespace {
std::string brief(const Json& value) {
  std::string text = dump_json(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}
std::string range(const std::string& low, const std::string& high) { return "from " + low + " to " + high; }
}  // namespace

const Json* ConfigReader::find(const std::string& key) const {
  const auto it = json_.find(key);
  return it == json_.end() ? nullptr : &*it;
}
bool ConfigReader::is_set(const std::string& key) const {
  const Json* value = find(key);
  return value && !value->is_null();
}
void ConfigReader::refuse(const std::string& key, const std::string& what, const std::string& advice) const {
  throw InputError(where_, prefix_ + key + ": " + what, advice);
}

double ConfigReader::checked_number(const Json& value, const std::string& key, double low, double high) const {
  if (!value.is_number()) refuse(key, "a number is expected, not " + brief(value));
  const double v = value.get<double>();
  if (!(v >= low && v <= high))
    refuse(key, brief(value) + " is not a sensible value", "it must lie " + range(dump_json(Json(low)), dump_json(Json(high))));
  return v;
}

int64_t ConfigReader::checked_integer(const Json& value, const std::string& key, int64_t low, int64_t high) const {
  const auto out_of_range = [&] {
    refuse(key, brief(value) + " is not a sensible value", "it must lie " + range(std::to_string(low), std::to_string(high)));
  };
  int64_t v = 0;
  if (value.is_number_unsigned()) {
    const uint64_t u = value.get<uint64_t>();
    if (u > static_cast<uint64_t>(high)) out_of_range();
    v = static_cast<int64_t>(u);
  } else if (value.is_number_integer()) {
    v = value.get<int64_t>();
  } else if (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>() && std::fabs(value.get<double>()) < 9e15) {
    v = static_cast<int64_t>(value.get<double>());
  } else {
    refuse(key, "a whole number is expected, not " + brief(value));
  }
  if (v < low || v > high) out_of_range();
  return v;
}

int64_t ConfigReader::integer(const std::string& key, int64_t absent, int64_t low, int64_t high) const {
  const Json* value = find(key);
  return value ? checked_integer(*value, key, low, high) : absent;
}
double ConfigReader::number(const std::string& key, double absent, double low, double high) const {
  const Json* value = find(key);
  return value ? checked_number(*value, key, low, high) : absent;
}
bool ConfigReader::boolean(const std::string& key, bool absent) const {
  const Json* value = find(key);
  if (!value || value->is_null()) return absent;
  if (!value->is_boolean()) refuse(key, "true or false is expected, not " + brief(*value));
  return value->get<bool>();
}
std::string ConfigReader::text(const std::string& key, const std::string& absent) const {
  const Json* value = find(key);
  if (!value) return absent;
  if (!value->is_string()) refuse(key, "a text is expected, not " + brief(*value));
  return value->get<std::string>();
}
std::optional<int64_t> ConfigReader::optional_integer(const std::string& key, std::optional<int64_t> absent, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (!value) return absent;
  if (value->is_null()) return std::nullopt;
  return checked_integer(*value, key, low, high);
}
std::optional<double> ConfigReader::optional_number(const std::string& key, double low, double high) const {
  if (!is_set(key)) return std::nullopt;
  return checked_number(*find(key), key, low, high);
}
std::vector<std::string> ConfigReader::texts(const std::string& key) const {
  std::vector<std::string> result;
  if (!is_set(key)) return result;
  const Json& list = *find(key);
  if (!list.is_array()) refuse(key, "a list of texts is expected, not " + brief(list));
  for (const Json& item : list) {
    if (!item.is_string()) refuse(key, "a list of texts is expected, not " + brief(list));
    result.push_back(item.get<std::string>());
  }
  return result;
}
std::vector<double> ConfigReader::numbers(const std::string& key, double low, double high) const {
  std::vector<double> result;
  if (!is_set(key)) return result;
  const Json& list = *find(key);
  if (!list.is_array()) refuse(key, "a list of numbers is expected, not " + brief(list));
  for (const Json& item : list) result.push_back(checked_number(item, key, low, high));
  return result;
}

}  // namespace llmtrain
