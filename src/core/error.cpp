#include "core/error.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace llmtrain {

void assertion_failed(const char* expression, const char* file, int line, const std::string& detail) {
  std::fprintf(stderr, "llmtrain: broken invariant: %s at %s:%d: %s\n", expression, file, line, detail.c_str());
  std::abort();
}

void throw_errno(const std::string& call, const std::string& path, int error_number) {
  throw OperationError(call + " " + path + ": " + std::strerror(error_number) + " (errno " + std::to_string(error_number) + ")");
}

}  // namespace llmtrain
