#include "device/program_commit.h"

#include "build_info.h"

namespace llmtrain {

const char* program_commit() { return LLMTRAIN_COMMIT; }

}  // namespace llmtrain
