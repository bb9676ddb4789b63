// Rows of a .txt file.
#include "support/rows.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{
      {"one\ntwo\r\nthree\rfour\n\nsix\n", "\r", "\n", "no newline", "\xEF\xBB\xBFx\n"},
      {"\r\n", "\n", "\r", "\xEF\xBB\xBF", "\xFF", "\xE4\xBD\xA0"}};
  return t;
}

void take(std::string_view input) { read_rows("rows.txt", input); }

}  // namespace llmtrain::fuzz
