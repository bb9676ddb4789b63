// The commit that this half of the program was built from: program and plugin compare theirs.
#pragma once

namespace llmtrain {

const char* program_commit();

}  // namespace llmtrain
