// Opens the CUDA plugin (cuda_backend.h).
#include "device/cuda_backend.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "device/cuda_libraries.h"
#include "device/program_commit.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPluginName = "libllmtrain-cuda.so";

std::vector<std::string> plugin_candidates() {
  if (const char* chosen = std::getenv("LLMTRAIN_CUDA_PLUGIN"); chosen && *chosen) return {chosen};
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  return {(program / kPluginName).string(), (program.parent_path() / "lib" / kPluginName).string(),
          (program.parent_path() / "lib" / "llmtrain" / kPluginName).string()};
}

[[noreturn]] void refuse(const std::string& what, const std::string& advice) { throw InputError("device: cuda", what, advice); }

// The loader maps a file that was cut short while it was copied, and dies of it.
void check_whole(const std::string& path) {
  Elf64_Ehdr header = {};
  std::ifstream file(path, std::ios::binary);
  const bool read = static_cast<bool>(file.read(reinterpret_cast<char*>(&header), sizeof header));
  if (!read || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) refuse(path + " is no library", "copy it again from where it was built");
  std::error_code ignored;
  const uint64_t size = fs::file_size(path, ignored), end = header.e_shoff + uint64_t{header.e_shnum} * header.e_shentsize;  // what stands last in it
  if (size < end || end < header.e_shoff)
    refuse(path + " is cut short: it has " + std::to_string(size) + " of " + std::to_string(end) + " bytes", "copy it again from where it was built");
}

void* open_library(const std::string& path) {
  check_whole(path);
  if (void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    // What the plugin opens later by its name (cuDNN, which opens nvrtc) may still be unknown to the loader. Without a driver nothing will be.
    if (cuda_driver_is_here()) open_cuda_libraries(cuda_library_folders());
    return library;
  }
  // The loader did not find a library that the plugin needs: open CUDA's libraries from where people have them, then try again.
  const std::vector<std::string> folders = cuda_library_folders();
  const std::vector<std::string> missing = open_cuda_libraries(folders);
  if (void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  const char* error = ::dlerror();
  std::string advice = "CUDA's libraries were looked for by the loader";
  for (const std::string& folder : folders) advice += ", in " + folder;
  for (const std::string& line : missing) advice += "\n  " + line;
  advice += "\n  Install the CUDA toolkit or the nvidia-* wheels, or set LLMTRAIN_CUDA_LIBRARIES to the folders that hold these files";
  refuse(path + " cannot be opened: " + (error ? error : "unknown error"), advice);
}

}  // namespace

CudaBackend CudaBackend::open() {
  std::string looked;
  for (const std::string& path : plugin_candidates()) {
    std::error_code ignored;
    looked += (looked.empty() ? "" : ", ") + path;
    if (!fs::exists(path, ignored)) continue;
    void* library = open_library(path);
    const auto entry = reinterpret_cast<const CudaPlugin* (*)()>(::dlsym(library, "llmtrain_cuda_plugin"));
    if (!entry) refuse(path + " is no plugin of this program", "build both from one source tree");
    const CudaPlugin* plugin = entry();
    if (std::string(plugin->commit) != program_commit())
      refuse(path + " comes from commit " + plugin->commit + ", the program from " + program_commit(), "build both from one source tree");
    return CudaBackend(plugin, path);
  }
  const char* named = std::getenv("LLMTRAIN_CUDA_PLUGIN");
  refuse("this installation has no CUDA backend (looked for " + looked + ")",
         named && *named ? "correct LLMTRAIN_CUDA_PLUGIN or leave it out" : "build where nvcc is found");
}

std::optional<CudaBackend> CudaBackend::try_open(std::string& why) {
  // A login node need not load CUDA's libraries to learn that it has no GPU. A plugin that was named need not be one for NVIDIA's driver.
  if (!std::getenv("LLMTRAIN_CUDA_PLUGIN") && !cuda_driver_is_here()) {
    why = "no NVIDIA driver: libcuda.so.1 is not known to the loader";
    return std::nullopt;
  }
  try {
    CudaBackend backend = open();
    if (backend.plugin().device_count(why) > 0) return backend;
  } catch (const InputError& error) {
    why = error.what();
  }
  return std::nullopt;
}

}  // namespace llmtrain
