#include "data/tokenizer_json_scan.h"

#include "core/error.h"
#include "core/json.h"
#include "data/unicode.h"

namespace llmtrain {

void JsonScanner::fail(const std::string& what) const { throw InputError(where_, "broken JSON at byte " + std::to_string(offset()) + ": " + what); }

char JsonScanner::peek() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

bool JsonScanner::take(char c) {
  if (peek() != c || at_ == text_.size()) return false;
  ++at_;
  return true;
}

void JsonScanner::expect(char c) {
  if (!take(c)) fail(std::string("'") + c + "' expected" + (at_ == text_.size() ? ", the file ends here" : ""));
}

void JsonScanner::end() {
  if (peek() != '\0' || at_ != text_.size()) fail("something follows the end");
}

uint32_t JsonScanner::hex4() {
  uint32_t value = 0;
  for (int k = 0; k < 4; ++k) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) fail("\\u needs four hexadecimal digits");
    value = value * 16 + static_cast<uint32_t>(digit);
    ++at_;
  }
  return value;
}

void JsonScanner::escape(std::string& out) {
  if (at_ == text_.size()) fail("the file ends in a string");
  switch (text_[at_++]) {
    case '"': out += '"'; return;
    case '\\': out += '\\'; return;
    case '/': out += '/'; return;
    case 'b': out += '\b'; return;
    case 'f': out += '\f'; return;
    case 'n': out += '\n'; return;
    case 'r': out += '\r'; return;
    case 't': out += '\t'; return;
    case 'u': break;
    default: fail("unknown escape in a string");
  }
  uint32_t c = hex4();
  if (c >= 0xD800 && c < 0xDC00) {
    if (text_.substr(at_, 2) != "\\u") fail("a lone surrogate in a string");
    at_ += 2;
    const uint32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) fail("a lone surrogate in a string");
    c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
  } else if (c >= 0xDC00 && c < 0xE000) {
    fail("a lone surrogate in a string");
  }
  utf8_append(out, c);
}

std::string_view JsonScanner::string() {
  expect('"');
  size_t begin = at_;
  bool escaped = false;
  for (;;) {
    if (at_ == text_.size()) fail("the file ends in a string");
    const char c = text_[at_];
    if (c == '"') break;
    if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
    if (c != '\\') {
      ++at_;
      continue;
    }
    if (!escaped) scratch_.clear();
    escaped = true;
    scratch_.append(text_, begin, at_ - begin);
    ++at_;
    escape(scratch_);
    begin = at_;
  }
  const std::string_view rest = text_.substr(begin, at_ - begin);
  ++at_;
  if (!escaped) return rest;
  scratch_ += rest;
  return scratch_;
}

int64_t JsonScanner::integer() {
  const bool negative = take('-');
  if (peek() < '0' || peek() > '9') fail("a whole number is expected");
  int64_t value = 0;
  int digits = 0;
  for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_, ++digits) {
    if (digits == 18) fail("a number of more than 18 digits");
    value = value * 10 + (text_[at_] - '0');
  }
  if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E')) fail("a whole number is expected");
  return negative ? -value : value;
}

void JsonScanner::skip_string() {
  for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
    if (text_[at_] == '\\') ++at_;
  }
  if (at_ >= text_.size()) {
    at_ = text_.size();
    fail("the file ends in a string");
  }
  ++at_;
}

// Brackets and strings only: what stands between them is checked by whoever reads the text.
std::string_view JsonScanner::skip_value() {
  peek();
  const size_t begin = at_;
  std::string open;
  do {
    const char c = peek();
    if (at_ == text_.size()) fail("the file ends early");
    if (c == '"') {
      skip_string();
    } else if (c == '{' || c == '[') {
      if (open.size() >= static_cast<size_t>(kJsonMaxDepth)) fail("nested deeper than " + std::to_string(kJsonMaxDepth) + " levels");
      open += c == '{' ? '}' : ']';
      ++at_;
    } else if (c == '}' || c == ']') {
      if (open.empty() || open.back() != c) fail("an unexpected closing bracket");
      open.pop_back();
      ++at_;
    } else if (open.empty()) {  // a number or a word
      while (at_ < text_.size() && std::string_view(",]} \n\r\t").find(text_[at_]) == std::string_view::npos) ++at_;
      if (at_ == begin) fail("a value is expected");
    } else {
      ++at_;
    }
  } while (!open.empty());
  return text_.substr(begin, at_ - begin);
}

}  // namespace llmtrain
