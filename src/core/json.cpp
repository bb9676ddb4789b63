#include "core/json.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

// SAX consumer that builds the value iteratively and refuses what the header names.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}
  Json result;

  bool null() override { return put(nullptr); }
  bool boolean(bool v) override { return put(v); }
  bool number_integer(number_integer_t v) override { return put(v); }
  bool number_unsigned(number_unsigned_t v) override { return put(v); }
  bool number_float(number_float_t v, const string_t&) override { return put(v); }
  bool string(string_t& v) override { return put(std::move(v)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  bool key(string_t& v) override {
    if (!keys_.back().insert(v).second) throw InputError(where_, "the key \"" + v + "\" stands twice in one object");
    key_ = std::move(v);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    const std::string what = e.what();
    const size_t colon = what.find("syntax error");
    throw InputError(where_, "broken JSON at byte " + std::to_string(position) + ": " + (colon == std::string::npos ? what : what.substr(colon)));
  }

 private:
  template <class V>
  Json* add(V&& v) {
    if (stack_.empty()) {
      result = std::forward<V>(v);
      return &result;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::forward<V>(v));
      return &parent.back();
    }
    // push_back to the ordered map's vector: the duplicate check above makes the linear search of operator[] unnecessary.
    auto& object = parent.get_ref<Json::object_t&>();
    static_cast<std::vector<Json::object_t::value_type, Json::object_t::allocator_type>&>(object).emplace_back(std::move(key_), std::forward<V>(v));
    return &object.back().second;
  }
  template <class V>
  bool put(V&& v) {
    add(std::forward<V>(v));
    return true;
  }
  bool open(Json v) {
    if (stack_.size() >= kJsonMaxDepth) throw InputError(where_, "JSON nested deeper than " + std::to_string(kJsonMaxDepth) + " levels");
    stack_.push_back(add(std::move(v)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }
  std::string where_;
  std::vector<Json*> stack_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_;
};

void write_string(std::string& out, const std::string& s) {
  out += Json(s).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_value(std::string& out, const Json& v, int indent, int level) {
  const auto newline = [&](int l) {
    if (indent >= 0) {
      out += '\n';
      out.append(static_cast<size_t>(indent) * l, ' ');
    }
  };
  if (v.is_object() || v.is_array()) {
    const bool object = v.is_object();
    if (v.empty()) {
      out += object ? "{}" : "[]";
      return;
    }
    out += object ? '{' : '[';
    bool first = true;
    for (auto it = v.begin(); it != v.end(); ++it) {
      if (!first) out += indent >= 0 ? "," : ", ";
      first = false;
      newline(level + 1);
      if (object) {
        write_string(out, it.key());
        out += ": ";
      }
      write_value(out, *it, indent, level + 1);
    }
    newline(level);
    out += object ? '}' : ']';
  } else if (v.is_number_float()) {
    const double d = v.get<double>();
    if (!std::isfinite(d)) {
      out += "null";
    } else {
      char buffer[40];
      const auto r = std::to_chars(buffer, buffer + sizeof buffer, d);
      const std::string_view text(buffer, static_cast<size_t>(r.ptr - buffer));
      out += text;
      if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
    }
  } else if (v.is_string()) {
    write_string(out, v.get_ref<const std::string&>());
  } else {
    out += v.dump();
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  Builder builder(where);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) throw InputError(where, "broken JSON");
  return std::move(builder.result);
}

Json parse_json_file(const std::string& path, size_t limit_bytes) { return parse_json(read_file(path, limit_bytes), path); }

int64_t whole_number(const Json& object, const char* key, int64_t least, int64_t most, const std::string& where) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || it == object.end() || !it->is_number_integer()) throw InputError(where, std::string("\"") + key + "\" is missing or not a whole number");
  const bool huge = it->is_number_unsigned() && it->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t value = huge ? INT64_MAX : it->get<int64_t>();
  if (huge || value < least || value > most) throw InputError(where, std::string("\"") + key + "\" is out of range: " + it->dump());
  return value;
}

Json exact_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

double from_exact(const Json& value, const std::string& where) {
  if (value.is_number()) return value.get<double>();
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  throw InputError(where, dump_json(value).substr(0, 40) + " is not a number");
}

std::string dump_json(const Json& value, int indent) {
  std::string out;
  write_value(out, value, indent, 0);
  return out;
}

}  // namespace llmtrain
