// The shared reference data: LLMTRAIN_SHARED names its folder, default ../shared beside the checkout. Tests that need it skip with a
// reason where it is absent. Also: a scratch folder for tests.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace llmtrain::testing_support {

inline std::string source_dir() {  // tests run with the checkout (or the unpacked bundle) as working directory
  return std::filesystem::current_path().string();
}

inline std::string shared_dir() {
  const char* named = ::getenv("LLMTRAIN_SHARED");
  const std::string dir = named ? named : source_dir() + "/../shared";
  return std::filesystem::is_directory(dir) ? std::filesystem::canonical(dir).string() : "";
}

// A fresh folder, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "llmtrain-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp " + pattern);
    path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace llmtrain::testing_support

#define SKIP_WITHOUT_SHARED()                                                                                   \
  if (::llmtrain::testing_support::shared_dir().empty())                                                        \
  GTEST_SKIP() << "shared reference data absent: put it beside the checkout (../shared) or set LLMTRAIN_SHARED"
