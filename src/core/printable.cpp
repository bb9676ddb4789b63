#include "core/printable.h"

#include <cstdio>

namespace llmtrain {

std::string printable(const std::string& text, bool lines) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]), next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    const bool c1 = c == 0xc2 && next >= 0x80 && next < 0xa0;
    if ((c >= 0x20 && c != 0x7f && !c1) || (lines && c == '\n')) {
      out += text[i];
      continue;
    }
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", c1 ? next : c);
    out += code;
    i += c1;
  }
  return out;
}

}  // namespace llmtrain
