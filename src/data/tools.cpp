// Tool lists and function calls (tools.h). The small JSON value here keeps each scalar as the text that Python would print, so that numbers
// of any size survive unchanged.
#include "data/tools.h"

#include <charconv>
#include <cstdio>
#include <cmath>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace llmtrain {
namespace {

struct Member;

struct Value {
  enum Kind { null, boolean, number, string, array, object } kind = null;
  std::string text;             // number and boolean as json.dumps prints them; the characters of a string
  std::vector<Value> items;     // of an array
  std::vector<Member> members;  // of an object; a repeated key keeps its place and takes the last value
  const Value* find(std::string_view key) const;
  bool truthy() const;
};

struct Member {
  Member(std::string k, Value v) : key(std::move(k)), value(std::move(v)) {}
  std::string key;
  Value value;
};

const Value* Value::find(std::string_view key) const {
  for (const Member& m : members) {
    if (m.key == key) return &m.value;
  }
  return nullptr;
}

bool Value::truthy() const {
  switch (kind) {
    case null: return false;
    case boolean: return text == "true";
    case number: return text.find_first_of("123456789") != std::string::npos;
    case string: return !text.empty();
    case array: return !items.empty();
    case object: return !members.empty();
  }
  return false;
}

// repr(float): the fewest digits that read back exactly; fixed where the decimal exponent is in [-4, 16), else scientific.
std::string python_float(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
  char buffer[48];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  std::string s(buffer, end);
  const size_t e = s.find('e');
  const int exponent = std::stoi(s.substr(e + 1));
  std::string sign = s[0] == '-' ? "-" : "", digits;
  for (const char c : s.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  if (exponent < -4 || exponent >= 16) {
    const std::string mantissa = digits.substr(0, 1) + (digits.size() > 1 ? "." + digits.substr(1) : "");
    const std::string power = std::to_string(std::abs(exponent));
    return sign + mantissa + "e" + (exponent < 0 ? "-" : "+") + (power.size() < 2 ? "0" + power : power);
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  Value result;
  bool null() override { return put({}); }
  bool boolean(bool v) override { return put(scalar(Value::boolean, v ? "true" : "false")); }
  bool number_integer(number_integer_t v) override { return put(scalar(Value::number, std::to_string(v))); }
  bool number_unsigned(number_unsigned_t v) override { return put(scalar(Value::number, std::to_string(v))); }
  bool number_float(number_float_t v, const string_t& token) override {
    const bool whole = token.find_first_of(".eE") == std::string::npos;  // an integer of more than 64 bits
    return put(scalar(Value::number, whole ? token : python_float(v)));
  }
  bool string(string_t& v) override { return put(scalar(Value::string, std::move(v))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Value::object); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Value::array); }
  bool end_array() override { return close(); }
  bool key(string_t& v) override {
    key_ = std::move(v);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  static Value scalar(Value::Kind kind, std::string text) {
    Value v;
    v.kind = kind;
    v.text = std::move(text);
    return v;
  }
  bool put(Value v) {
    if (stack_.empty()) {
      result = std::move(v);
      return true;
    }
    Open& top = stack_.back();
    if (top.value.kind == Value::array) {
      top.value.items.push_back(std::move(v));
      return true;
    }
    if (top.value.members.size() >= 4096) throw RowError("a JSON object with more than 4096 members in a tool list or call");
    for (auto& [k, old] : top.value.members) {
      if (k == key_) {
        old = std::move(v);
        return true;
      }
    }
    top.value.members.emplace_back(std::move(key_), std::move(v));
    return true;
  }
  bool open(Value::Kind kind) {
    if (stack_.size() >= 64) throw RowError("JSON nested deeper than 64 levels");
    stack_.push_back({scalar(kind, ""), std::move(key_)});
    return true;
  }
  bool close() {
    Open done = std::move(stack_.back());
    stack_.pop_back();
    key_ = std::move(done.key);
    return put(std::move(done.value));
  }
  struct Open {
    Value value;
    std::string key;  // under which it stands in its parent
  };
  std::vector<Open> stack_;
  std::string key_;
};

Value parse(std::string_view text, const char* what) {
  Reader reader;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) throw RowError(std::string(what) + " is not valid JSON");
  return std::move(reader.result);
}

void dump_string(const std::string& s, std::string& out) {
  static const char* hex = "0123456789abcdef";
  out += '"';
  for (const char c : s) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += std::string("\\u00") + hex[c >> 4] + hex[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// json.dumps(value, ensure_ascii=False, indent=indent or None)
void dump(const Value& v, int indent, int level, std::string& out) {
  const auto line = [&](int l) {
    if (indent > 0) {
      out += '\n';
      out.append(static_cast<size_t>(indent * l), ' ');
    }
  };
  const char* comma = indent > 0 ? "," : ", ";
  bool first = true;
  switch (v.kind) {
    case Value::null: out += "null"; break;
    case Value::boolean:
    case Value::number: out += v.text; break;
    case Value::string: dump_string(v.text, out); break;
    case Value::array:
      out += '[';
      for (const Value& item : v.items) {
        if (!std::exchange(first, false)) out += comma;
        line(level + 1);
        dump(item, indent, level + 1, out);
      }
      if (!first) line(level);
      out += ']';
      break;
    case Value::object:
      out += '{';
      for (const auto& [key, item] : v.members) {
        if (!std::exchange(first, false)) out += comma;
        line(level + 1);
        dump_string(key, out);
        out += ": ";
        dump(item, indent, level + 1, out);
      }
      if (!first) line(level);
      out += '}';
      break;
  }
}

std::string dumps(const Value& v, int indent = 0) {
  std::string out;
  dump(v, indent, 0, out);
  return out;
}

// repr(value) of Python, for a value inside a list or dict; str(value) differs for strings only.
std::string python_repr(const Value& v) {
  std::string out;
  bool first = true;
  switch (v.kind) {
    case Value::null: return "None";
    case Value::boolean: return v.text == "true" ? "True" : "False";
    case Value::number: return v.text;
    case Value::string: {
      const char quote = v.text.find('\'') != std::string::npos && v.text.find('"') == std::string::npos ? '"' : '\'';
      out += quote;
      for (const char c : v.text) {
        if (c == '\n') {
          out += "\\n";
        } else if (c == '\t') {
          out += "\\t";
        } else if (c == '\r') {
          out += "\\r";
        } else {
          if (c == quote || c == '\\') out += '\\';
          out += c;
        }
      }
      return out + quote;
    }
    case Value::array:
      for (const Value& item : v.items) out += (std::exchange(first, false) ? "" : ", ") + python_repr(item);
      return "[" + out + "]";
    case Value::object:
      for (const auto& [key, item] : v.members) {
        Value name;
        name.kind = Value::string;
        name.text = key;
        out += (std::exchange(first, false) ? "" : ", ") + python_repr(name) + ": " + python_repr(item);
      }
      return "{" + out + "}";
  }
  return out;
}

std::string python_str(const Value& v) { return v.kind == Value::string ? v.text : python_repr(v); }
std::string str_or_empty(const Value* v) { return v ? python_str(*v) : ""; }

const Value& member(const Value& v, const char* key, const char* of) {
  const Value* found = v.kind == Value::object ? v.find(key) : nullptr;
  if (!found) throw RowError(std::string(of) + " without \"" + key + "\"");
  return *found;
}

bool is_wrapped(const Value& tool) {
  const Value* type = tool.find("type");
  return type && type->kind == Value::string && type->text == "function";
}
const Value& unwrapped(const Value& tool) { return is_wrapped(tool) ? member(tool, "function", "a tool of type function") : tool; }
Value wrapped(const Value& tool) {
  if (is_wrapped(tool)) return tool;
  Value type, out;
  type.kind = Value::string;
  type.text = "function";
  out.kind = Value::object;
  out.members.emplace_back("type", std::move(type));
  out.members.emplace_back("function", tool);
  return out;
}

// One line per parameter: "  - city (string, required): The city, should be one of [a, b]".
std::string parameter_line(const std::string& name, const Value& parameter, const Value* required_names) {
  if (parameter.kind != Value::object) throw RowError("the parameter \"" + name + "\" of a tool is not an object");
  std::string required, choices, items;
  if (required_names) {
    for (const Value& r : required_names->items) {
      if (r.kind == Value::string && r.text == name) required = ", required";
    }
  }
  if (const Value* e = parameter.find("enum"); e && e->truthy()) {
    for (const Value& choice : e->items) {
      if (choice.kind != Value::string) throw RowError("the enum of the parameter \"" + name + "\" holds something other than strings");
      choices += (choices.empty() ? ", should be one of [" : ", ") + choice.text;
    }
    choices += "]";
  }
  if (const Value* i = parameter.find("items"); i && i->truthy()) {
    if (i->kind != Value::object) throw RowError("the items of the parameter \"" + name + "\" are not an object");
    items = ", where each item should be " + str_or_empty(i->find("type"));
  }
  return "  - " + name + " (" + str_or_empty(parameter.find("type")) + required + "): " + str_or_empty(parameter.find("description")) + choices +
         items + "\n";
}

std::string default_tool_list(const Value& tools) {
  std::string text, names;
  for (const Value& listed : tools.items) {
    const Value& tool = unwrapped(listed);
    const Value& parameters = member(tool, "parameters", "a tool");
    const Value& properties = member(parameters, "properties", "the parameters of a tool");
    std::string lines;
    for (const auto& [name, parameter] : properties.members) lines += parameter_line(name, parameter, parameters.find("required"));
    const std::string name = python_str(member(tool, "name", "a tool"));
    text += "> Tool Name: " + name + "\nTool Description: " + str_or_empty(tool.find("description")) + "\nTool Args:\n" + lines + "\n";
    names += (names.empty() ? "" : ", ") + name;
  }
  return "You have access to the following tools:\n" + text + "Use the following format if using a tool:\n```\nAction: tool name (one of [" + names +
         "])\nAction Input: the input to the tool, in a JSON format representing the kwargs (e.g. ```{\"input\": \"hello world\", \"num_beams\": "
         "5}```)\n```\n";
}

std::string llama3_tool_list(const Value& tools, const std::string& date) {
  std::string text =
      "Cutting Knowledge Date: December 2023\nToday Date: " + date +
      "\n\nYou have access to the following functions. To call a function, please respond with JSON for a function call. Respond in the format "
      "{\"name\": function name, \"parameters\": dictionary of argument name and its value}. Do not use variables.\n\n";
  for (const Value& tool : tools.items) text += dumps(wrapped(tool), 4) + "\n\n";
  return text;
}

std::string qwen_tool_list(const Value& tools) {
  std::string text =
      "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within "
      "<tools></tools> XML tags:\n<tools>";
  for (const Value& tool : tools.items) text += "\n" + dumps(wrapped(tool));
  return text +
         "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
         "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
}

std::string mistral_tool_list(const Value& tools) {
  Value list;
  list.kind = Value::array;
  for (const Value& tool : tools.items) list.items.push_back(wrapped(tool));
  return "[AVAILABLE_TOOLS] " + dumps(list) + "[/AVAILABLE_TOOLS]";
}

struct Call {
  Value name, arguments;
};

Value call_object(const Call& call, const char* arguments_key) {
  Value v;
  v.kind = Value::object;
  v.members.emplace_back("name", call.name);
  v.members.emplace_back(arguments_key, call.arguments);
  return v;
}

std::string calls_text(const std::string& format, const std::vector<Call>& calls) {
  std::string out;
  Value list;
  list.kind = Value::array;
  for (const Call& call : calls) {
    const char* break_before = out.empty() ? "" : "\n";
    if (format == "qwen") {
      out += break_before + ("<tool_call>\n" + dumps(call_object(call, "arguments")) + "\n</tool_call>");
    } else if (format == "default" || format == "phi4_mini") {
      out += break_before + ("Action: " + python_str(call.name) + "\nAction Input: " + dumps(call.arguments));
    } else {
      list.items.push_back(call_object(call, format == "llama3" ? "parameters" : "arguments"));
    }
  }
  if (format == "llama3") return dumps(list.items.size() == 1 ? list.items[0] : list);
  if (format == "mistral") return dumps(list);
  return out;
}

std::vector<Call> parse_calls(std::string_view text) {
  Value v = parse(text, "a function call");
  if (v.kind != Value::array) {
    Value list;
    list.kind = Value::array;
    list.items.push_back(std::move(v));
    v = std::move(list);
  }
  std::vector<Call> calls;
  for (const Value& call : v.items) calls.push_back({member(call, "name", "a function call"), member(call, "arguments", "a function call")});
  return calls;
}

void erase_all(std::string& text, const std::string& part) {
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos;) text.erase(at, part.size());
}

// The first "begin … end" of the text, or "".
std::string first_between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t b = text.find(begin);
  if (b == std::string::npos) return "";
  const size_t e = text.find(end, b + begin.size());
  return e == std::string::npos ? "" : text.substr(b, e + end.size() - b);
}

}  // namespace

bool is_tool_format(std::string_view f) { return f == "default" || f == "llama3" || f == "mistral" || f == "qwen"; }

std::string tool_list_text(const std::string& format, const std::string& tools, const std::string& date) {
  if (format == "phi4_mini") return "<|tool|>" + tools + "<|/tool|>";
  const Value list = parse(tools, "the tool list");
  if (list.kind == Value::object && list.members.empty()) return "";
  if (list.kind != Value::array) throw RowError("the tool list is not a JSON list");
  if (list.items.empty()) return "";
  for (const Value& tool : list.items) {
    if (tool.kind != Value::object) throw RowError("the tool list holds something other than objects");
  }
  if (format == "llama3") return llama3_tool_list(list, date);
  if (format == "qwen") return qwen_tool_list(list);
  if (format == "mistral") return mistral_tool_list(list);
  return default_tool_list(list);
}

std::string function_call_text(const std::string& format, const std::string& content, const std::string& thought_begin,
                               const std::string& thought_end, bool keep_thoughts) {
  if (!keep_thoughts) return calls_text(format, parse_calls(content));
  const std::string open = "<tool_call>", close = "</tool_call>";
  std::string rest = content;
  const std::string call = first_between(content, open, close);
  if (!call.empty()) {  // thoughts or text around a call that is already marked
    erase_all(rest, call);
    return rest + calls_text(format, parse_calls(std::string_view(call).substr(open.size(), call.size() - open.size() - close.size())));
  }
  const std::string thought = first_between(content, thought_begin, thought_end);
  if (!thought.empty()) erase_all(rest, thought);
  return thought + calls_text(format, parse_calls(rest));
}

std::string python_json(std::string_view text) { return dumps(parse(text, "a value")); }

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  static const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%02d %s %d", parts.tm_mday, months[parts.tm_mon], parts.tm_year + 1900);
  return buffer;
}

}  // namespace llmtrain
