#include "core/flattened_link.h"

#include <sys/stat.h>

#include <exception>
#include <filesystem>

#include "core/file.h"

namespace llmtrain {
namespace {

constexpr uint64_t kLongestPath = 4096;

// The target, or "" where this is no flattened link.
std::string target_of(const std::string& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0 || !S_ISREG(s.st_mode) || s.st_size < 3 || static_cast<uint64_t>(s.st_size) > kLongestPath) return "";
  std::string text = read_file(path, kLongestPath);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.front() == '/' || text.find_first_of(std::string("\n\r\0{", 4)) != std::string::npos) return "";
  const std::filesystem::path here(path), target(text);
  if (target.filename() != here.filename()) return "";
  const std::string found = (here.parent_path() / target).lexically_normal().string();
  return is_regular_file(found) ? found : "";
}

}  // namespace

std::string follow_flattened_link(const std::string& path) {
  try {
    std::string at = path;
    for (int i = 0; i < 8; ++i) {
      std::string next = target_of(at);
      if (next.empty()) return at;
      at = std::move(next);
    }
    return at;
  } catch (const std::exception&) {
    return path;  // unreadable: whoever opens it says so
  }
}

}  // namespace llmtrain
