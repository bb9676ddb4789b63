#include "config/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace llmtrain {
namespace {

bool one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

template <class Items, class Print>
std::string join(const Items& items, Print print) {
  std::string out;
  for (const auto& item : items) out += (out.empty() ? "" : ", ") + print(item);
  return out;
}

// Digits with a sign, a point and an exponent only: from_chars would also take "inf", "nan" and hexadecimal.
bool looks_decimal(std::string_view text) {
  bool digit = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c >= '0' && c <= '9') {
      digit = true;
    } else if (c == '-' || c == '+') {
      if (i != 0 && text[i - 1] != 'e' && text[i - 1] != 'E') return false;
    } else if (c != '.' && c != '_' && !((c == 'e' || c == 'E') && digit)) {
      return false;
    }
  }
  return digit;
}

}  // namespace

std::string format_number(double value) {
  char buffer[40];
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, r.ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::optional<double> parse_number(std::string_view text) {
  if (!looks_decimal(text)) return std::nullopt;
  std::string digits;
  for (char c : text)
    if (c != '_') digits += c;
  const char* begin = digits.data() + (digits[0] == '+' ? 1 : 0);
  double value = 0;
  const auto r = std::from_chars(begin, digits.data() + digits.size(), value);
  if (r.ec != std::errc() || r.ptr != digits.data() + digits.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_integer(std::string_view text) {
  if (!looks_decimal(text)) return std::nullopt;
  if (text.find_first_of(".eE") != std::string_view::npos) {
    const auto number = parse_number(text);
    if (!number || *number != std::floor(*number) || std::abs(*number) > 9007199254740992.0) return std::nullopt;  // 2^53
    return static_cast<int64_t>(*number);
  }
  std::string digits;
  for (char c : text)
    if (c != '_') digits += c;
  const char* begin = digits.data() + (digits[0] == '+' ? 1 : 0);
  const size_t first = digits.find_first_of("0123456789");
  if (digits[first] == '0' && first + 1 != digits.size()) return std::nullopt;  // 010 is eight in YAML 1.1 and ten in 1.2
  int64_t value = 0;
  const auto r = std::from_chars(begin, digits.data() + digits.size(), value);
  if (r.ec != std::errc() || r.ptr != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<bool> parse_boolean(std::string_view text) {
  if (one_of(text, {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})) return true;
  if (one_of(text, {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})) return false;
  return std::nullopt;
}

bool is_null_word(std::string_view text) { return one_of(text, {"", "~", "null", "Null", "NULL", "None"}); }

std::vector<std::string> split_commas(std::string_view text) {
  std::vector<std::string> items;
  for (size_t begin = 0;;) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string_view item = text.substr(begin, end - begin);
    while (!item.empty() && (item.front() == ' ' || item.front() == '\t' || item.front() == '\n')) item.remove_prefix(1);
    while (!item.empty() && (item.back() == ' ' || item.back() == '\t' || item.back() == '\n')) item.remove_suffix(1);
    items.emplace_back(item);
    if (end == text.size()) return items;
    begin = end + 1;
  }
}

std::string quote_yaml(std::string_view text) {
  bool plain = !text.empty() && !is_null_word(text) && !parse_boolean(text) && !parse_number(text) && text != "." && text != "-";
  for (size_t i = 0; plain && i < text.size(); ++i) {
    const char c = text[i];
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '/' || c == '.';
    plain = word || (i > 0 && (c == '-' || c == '+' || c == '=' || c == '@'));
  }
  if (plain) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (u < 0x20 || u == 0x7f) {
      constexpr char kHex[] = "0123456789abcdef";
      out += {'\\', 'x', kHex[u >> 4], kHex[u & 15]};
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string to_yaml(const Value& value) {
  struct Printer {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return format_number(v); }
    std::string operator()(const std::string& v) const { return quote_yaml(v); }
    std::string operator()(const std::vector<std::string>& v) const {
      return "[" + join(v, [](const auto& s) { return quote_yaml(s); }) + "]";
    }
    std::string operator()(const std::vector<double>& v) const { return "[" + join(v, format_number) + "]"; }
    std::string operator()(const TextMap& v) const {
      return "{" +
             join(v,
                  [](const auto& e) {
                    return quote_yaml(e.first) + ": " + (parse_number(e.second) || parse_boolean(e.second) ? e.second : quote_yaml(e.second));
                  }) +
             "}";
    }
  };
  return std::visit(Printer{}, value);
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  // Optimal string alignment distance, three rows at a time. Only a prefix of a hostile, very long word is looked at.
  word = word.substr(0, 128);
  std::string best;
  size_t best_distance = SIZE_MAX;
  for (const std::string& candidate : candidates) {
    const size_t n = candidate.size();
    if (std::max(n, word.size()) - std::min(n, word.size()) >= best_distance) continue;  // the distance is at least this
    std::vector<size_t> before(n + 1), last(n + 1), row(n + 1);
    std::iota(last.begin(), last.end(), size_t{0});
    for (size_t i = 1; i <= word.size(); ++i) {
      row[0] = i;
      for (size_t j = 1; j <= n; ++j) {
        row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (word[i - 1] != candidate[j - 1])});
        if (i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
      }
      before.swap(last);
      last.swap(row);
    }
    if (last[n] < best_distance) {
      best_distance = last[n];
      best = candidate;
    }
  }
  return best;
}

std::string list_words(const std::vector<std::string>& words) {
  std::string out;
  for (size_t i = 0; i < words.size(); ++i) out += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  return out;
}

}  // namespace llmtrain
