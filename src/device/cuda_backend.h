// CudaBackend: the CUDA half of the program, in a library of its own (libllmtrain-cuda.so beside the program) that is opened when a GPU is asked for.
// A machine without CUDA's libraries thus runs the same program on its CPU, and nobody pays for loading cuBLASLt who does not use it (57 ms, 200 MB).
//
// The plugin is looked for as $LLMTRAIN_CUDA_PLUGIN, beside the program, and in ../lib/ of the program's folder. CUDA's own libraries that the system's
// loader does not find are looked for in the places of cuda_libraries.h.
// Errors: InputError where no GPU can be used: it says what was looked for and what was missing. Thread rules: any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/device.h"

namespace llmtrain {

class Communicator;
class Kernels;
class RankGroup;

struct CudaDeviceInfo {
  std::string name, uuid, pci;  // "NVIDIA H200", 32 hexadecimal digits, "0000:18:00.0"
  int major = 0, minor = 0;     // compute capability
  size_t memory_bytes = 0;
};

struct CudaKernelsOptions {
  bool deterministic = false;      // bitwise equal results from run to run; costs time and memory in attention's backward pass
  std::string attention = "auto";  // auto: cuDNN where it can, else the own kernel; cudnn, flash: that one or an error
  bool tf32 = false;               // float32 matrix products may be rounded to TF32 first
  std::string cache_folder;        // chosen matrix-product algorithms and compiled attention plans are kept here; empty: not kept
  // A line for the log, once each: which attention runs, which algorithms were chosen, what could not be cached.
  std::function<void(const std::string&)> log;
};

struct NcclOptions {
  double timeout_seconds = 60;  // for the communicator to come up
};

// What the plugin exports, by the C function `llmtrain_cuda_plugin`.
struct CudaPlugin {
  const char* commit;  // both halves must come from one build
  // "CUDA runtime 13.0", "cuBLASLt 13.1.0" …: name and version as compiled against and as found at run time.
  std::vector<std::string> (*versions)();
  // GPUs that this process sees; 0 with the reason in `why`.
  int (*device_count)(std::string& why);
  CudaDeviceInfo (*device_info)(int device);
  // Makes `device` current on every thread that uses the result.
  std::unique_ptr<Device> (*make_device)(int device);
  std::unique_ptr<Kernels> (*make_kernels)(Device& device, const CudaKernelsOptions& options);
  // Collective over `group`; null in a build without NCCL. Each needs a name of its own.
  std::unique_ptr<Communicator> (*make_nccl_communicator)(RankGroup& group, Device& device, const std::string& name, const NcclOptions& options);
};

class CudaBackend {
 public:
  // Opens the plugin (once a process; it stays open). InputError where that fails.
  static CudaBackend open();
  // Nothing where it cannot be opened or sees no GPU, with the reason.
  static std::optional<CudaBackend> try_open(std::string& why);

  const CudaPlugin& plugin() const { return *plugin_; }
  const std::string& path() const { return path_; }

 private:
  CudaBackend(const CudaPlugin* plugin, std::string path) : plugin_(plugin), path_(std::move(path)) {}
  const CudaPlugin* plugin_;
  std::string path_;
};

}  // namespace llmtrain
