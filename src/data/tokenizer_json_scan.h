// A forward scanner over JSON text for files whose bulk is two huge tables (a vocabulary and its merges): strings are handed out without
// building a document. Small values are cut out as text and go to core/json.h, which checks them in full.
//
// InputError with the file and byte for broken syntax, nesting over kJsonMaxDepth, bad escapes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace llmtrain {

class JsonScanner {
 public:
  // `text` is valid UTF-8 and outlives the scanner; `base` is its offset in the file, for messages.
  JsonScanner(std::string_view text, const std::string& where, size_t base = 0) : text_(text), where_(where), base_(base) {}

  char peek();                       // the next character after white space; '\0' at the end
  bool take(char c);                 // consumes it if it is the next
  void expect(char c);
  std::string_view string();         // valid until the next call; escapes resolved
  int64_t integer();                 // InputError for a fraction, an exponent or more than 18 digits
  std::string_view skip_value();     // the raw text of any value
  void end();                        // nothing but white space may follow
  size_t offset() const { return base_ + at_; }
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void skip_string();
  uint32_t hex4();
  void escape(std::string& out);
  std::string_view text_;
  const std::string& where_;
  size_t base_, at_ = 0;
  std::string scratch_;
};

}  // namespace llmtrain
