// Finding and opening CUDA's libraries (cuda_libraries.h).
#include "device/cuda_libraries.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace llmtrain {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> split(const char* text) {
  std::vector<std::string> parts;
  std::istringstream in(text ? text : "");
  for (std::string part; std::getline(in, part, ':');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

void add_folder(std::vector<std::string>& folders, const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return;
  const std::string text = folder.string();
  if (std::find(folders.begin(), folders.end(), text) == folders.end()) folders.push_back(text);
}

// prefix/lib/python3.*/{site,dist}-packages/nvidia/*/lib
void add_wheels(std::vector<std::string>& folders, const fs::path& prefix) {
  std::error_code ignored;
  for (const char* lib : {"lib", "lib64", "local/lib"}) {
    for (const auto& python : fs::directory_iterator(prefix / lib, ignored)) {
      if (python.path().filename().string().rfind("python3", 0) != 0) continue;
      for (const char* packages : {"site-packages", "dist-packages"}) {
        for (const auto& wheel : fs::directory_iterator(python.path() / packages / "nvidia", ignored)) add_folder(folders, wheel.path() / "lib");
      }
    }
  }
}

// The installation that the python3 on PATH belongs to: bin/python3 -> its prefix, before and after following links.
void add_python_on_path(std::vector<std::string>& folders) {
  for (const std::string& entry : split(std::getenv("PATH"))) {
    const fs::path python = fs::path(entry) / "python3";
    std::error_code ignored;
    if (!fs::exists(python, ignored)) continue;
    add_wheels(folders, fs::path(entry).parent_path());
    const fs::path real = fs::canonical(python, ignored);
    if (!real.empty()) add_wheels(folders, real.parent_path().parent_path());
    return;
  }
}

}  // namespace

std::vector<std::string> cuda_library_folders() {
  std::vector<std::string> folders;
  for (const std::string& folder : split(std::getenv("LLMTRAIN_CUDA_LIBRARIES"))) add_folder(folders, folder);
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* root = std::getenv(name);
    if (root && *root) add_folder(folders, fs::path(root) / "lib64");
  }
  add_folder(folders, "/usr/local/cuda/lib64");
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const char* prefix = std::getenv(name);
    if (prefix && *prefix) add_wheels(folders, prefix);
  }
  add_python_on_path(folders);
  return folders;
}

std::vector<std::string> open_cuda_libraries(const std::vector<std::string>& folders) {
  // In the order of need: cuBLASLt and cuDNN's compiled engines need nvrtc; nothing here needs what comes after it.
  static constexpr const char* kLibraries[] = {"libcudart.so.13", "libnvrtc.so.13", "libcublasLt.so.13", "libnccl.so.2", "libcudnn.so.9"};
  std::vector<std::string> missing;
  for (const char* name : kLibraries) {
    if (::dlopen(name, RTLD_NOW | RTLD_GLOBAL)) continue;  // stays open: CUDA's libraries do not like to be closed
    const char* error = ::dlerror();
    std::string why = error ? error : "not found";
    bool opened = false;
    for (const std::string& folder : folders) {
      const std::string path = folder + "/" + name;
      std::error_code ignored;
      if (!fs::exists(path, ignored)) continue;
      opened = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
      if (opened) break;
      error = ::dlerror();
      if (error) why = error;
    }
    if (!opened) missing.push_back(std::string(name) + ": " + why);
  }
  return missing;
}

}  // namespace llmtrain
