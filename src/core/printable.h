// Text that quotes files which anybody may have written (models, data, checkpoints, dumps), for a terminal.
#pragma once

#include <string>

namespace llmtrain {

// Control characters (C0, DEL, and C1 in UTF-8) are shown as \u001b, not sent. `lines`: a message of this program, which may have several.
std::string printable(const std::string& text, bool lines = false);

}  // namespace llmtrain
