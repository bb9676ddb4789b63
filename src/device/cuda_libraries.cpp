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

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ':');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

// The entries of a folder in the order of their names, which the file system does not promise; none where it cannot be read.
std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code ignored;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored)) paths.push_back(at->path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

class Folders {
 public:
  void add(const fs::path& folder) {
    std::error_code ignored;
    if (!fs::is_directory(folder, ignored)) return;
    const std::string text = folder.lexically_normal().string();
    if (std::find(list_.begin(), list_.end(), text) == list_.end()) list_.push_back(text);
  }
  // A toolkit's folder.
  void add_toolkit(const fs::path& root) {
    for (const char* below : {"lib64", "lib", "targets/x86_64-linux/lib"}) add(root / below);
  }
  // Where Python's packages are: packages/nvidia/*/lib.
  void add_packages(const fs::path& packages) {
    for (const fs::path& wheel : entries(packages / "nvidia")) add(wheel / "lib");
  }
  // prefix/lib/python3.*/{site,dist}-packages
  void add_python(const fs::path& prefix) {
    for (const char* lib : {"lib", "lib64", "local/lib"}) {
      for (const fs::path& python : entries(prefix / lib)) {
        if (!python.filename().string().starts_with("python3")) continue;
        for (const char* packages : {"site-packages", "dist-packages"}) add_packages(python / packages);
      }
    }
  }
  std::vector<std::string> take() { return std::move(list_); }

 private:
  std::vector<std::string> list_;
};

// The installation that the python3 on PATH belongs to: bin/python3 -> its prefix, before and after following links. pyenv puts a script of its own
// there, whose versions lie beside it.
void add_python_on_path(Folders& folders) {
  for (const std::string& entry : split(variable("PATH"))) {
    const fs::path python = fs::path(entry) / "python3";
    std::error_code ignored;
    if (!fs::exists(python, ignored)) continue;
    const fs::path prefix = fs::path(entry).lexically_normal().parent_path();
    folders.add_python(prefix);
    if (fs::path(entry).filename() == "shims") {
      for (const fs::path& version : entries(prefix / "versions")) folders.add_python(version);
    }
    const fs::path real = fs::canonical(python, ignored);
    if (!real.empty()) folders.add_python(real.parent_path().parent_path());
    return;
  }
}

// nvrtc opens libnvrtc-builtins.so.<version> by its name when it first compiles (cuDNN's attention plans), and the toolkit's has no path of its own to look in:
// it finds the one that is open already.
void open_companions(const std::string& folder, const std::string& name) {
  if (!name.starts_with("libnvrtc.so")) return;
  for (const fs::path& file : entries(folder))
    if (file.filename().string().starts_with("libnvrtc-builtins.so.")) ::dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

std::string last_error() {
  const char* error = ::dlerror();
  return error ? error : "not found";
}

// "libcublasLt.so.12 in /x/lib": files of `name` with another version number, or nothing.
std::string other_versions(const std::vector<std::string>& folders, const std::string& name) {
  const std::string stem = name.substr(0, name.find(".so.") + 4);
  std::string found;
  for (const std::string& folder : folders) {
    for (const fs::path& file : entries(folder)) {
      const std::string other = file.filename().string();
      if (other.starts_with(stem) && !other.starts_with(name)) found += (found.empty() ? "" : ", ") + other + " in " + folder;
    }
  }
  return found;
}

}  // namespace

std::vector<std::string> cuda_library_folders() {
  Folders folders;
  for (const std::string& folder : split(variable("LLMTRAIN_CUDA_LIBRARIES"))) folders.add(folder);
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const std::string root = variable(name); !root.empty()) folders.add_toolkit(root);
  }
  folders.add_toolkit("/usr/local/cuda");
  for (const std::string& packages : split(variable("PYTHONPATH"))) folders.add_packages(packages);
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const std::string prefix = variable(name); !prefix.empty()) folders.add_python(prefix);
  }
  if (const std::string prefix = variable("CONDA_PREFIX"); !prefix.empty()) folders.add_toolkit(prefix);
  add_python_on_path(folders);
  if (const std::string home = variable("HOME"); !home.empty()) folders.add_python(fs::path(home) / ".local");
  return folders.take();
}

std::span<const char* const> cuda_library_names() {
  // cuBLASLt and cuDNN's compiled engines need nvrtc; nothing here needs what comes after it.
  static constexpr const char* kNames[] = {"libcudart.so.13", "libnvrtc.so.13", "libcublasLt.so.13", "libnccl.so.2", "libcudnn.so.9"};
  return kNames;
}

std::vector<std::string> open_cuda_libraries(const std::vector<std::string>& folders, std::span<const char* const> names) {
  std::vector<std::string> missing;
  for (const std::string name : names) {
    if (::dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL)) continue;  // stays open: CUDA's libraries do not like to be closed
    std::string why = last_error();
    bool opened = false;
    for (const std::string& folder : folders) {
      const std::string path = folder + "/" + name;
      std::error_code ignored;
      if (!fs::exists(path, ignored)) continue;
      opened = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
      if (opened) open_companions(folder, name);
      if (opened) break;
      why = last_error();
    }
    if (opened) continue;
    const std::string others = other_versions(folders, name);
    missing.push_back(name + ": " + why + (others.empty() ? "" : " (there is " + others + ", which this build cannot use)"));
  }
  return missing;
}

bool cuda_driver_is_here() { return ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr; }

}  // namespace llmtrain
