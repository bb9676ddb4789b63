// Rows of a .csv file.
#include "support/rows.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{
      {"instruction,input,output\nq,,r\n\"a,\"\"b\"\"\",\"x\ny\",NaN\n", "\xEF\xBB\xBFinstruction,output\r\nq,r\r\n\r\n", "instruction\nq\nr\ns\nt\nu\n", "a,a\n"},
      {"instruction", "output", "system", "history", "\"\"", "\"", ",", "\r\n", "\n", "NaN", "null", "\xEF\xBB\xBF", "\xFF"}};
  return t;
}

void take(std::string_view input) { read_rows("rows.csv", input); }

}  // namespace llmtrain::fuzz
