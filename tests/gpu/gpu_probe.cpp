// gpu_probe: is there a GPU that the CUDA backend can use, and which? For scripts/gpu-check and the tests labelled gpu.
//
//   gpu_probe                   name=…, uuid=… and so on, a line each; 77 with the reason where there is none
//   gpu_probe --free            free bytes of the GPU's memory
//   gpu_probe --run PROGRAM …   runs PROGRAM where there is a GPU, else says why not and ends with 77
//
// LLMTRAIN_CUDA_PLUGIN names another plugin than the one beside the program.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "core/error.h"
#include "device/cuda_backend.h"

namespace llmtrain {
namespace {

void print_gpu(const CudaBackend& backend) {
  std::string why;
  const CudaDeviceInfo gpu = backend.plugin().device_info(0);
  std::printf("name=%s\nuuid=%s\npci=%s\ncompute_capability=%d.%d\nmemory_bytes=%zu\ngpus=%d\nplugin=%s\n", gpu.name.c_str(), gpu.uuid.c_str(),
              gpu.pci.c_str(), gpu.major, gpu.minor, gpu.memory_bytes, backend.plugin().device_count(why), backend.path().c_str());
  for (const std::string& version : backend.plugin().versions()) std::printf("version=%s\n", version.c_str());
}

int run(int argc, char** argv) {
  const bool runs = argc > 2 && !std::strcmp(argv[1], "--run"), free_only = argc == 2 && !std::strcmp(argv[1], "--free");
  if (argc > 1 && !runs && !free_only) throw InputError("usage: gpu_probe [--free | --run PROGRAM …]");
  std::string why;
  const std::optional<CudaBackend> backend = CudaBackend::try_open(why);
  if (!backend) {
    std::printf("SKIPPED: %s\tno GPU: %s\n", runs ? argv[2] : "gpu_probe", why.c_str());
    return kExitNotHere;
  }
  if (runs) {
    ::execvp(argv[2], argv + 2);
    throw OperationError(std::string("execvp ") + argv[2] + ": " + std::strerror(errno));
  }
  if (free_only) {
    std::printf("%zu\n", backend->plugin().make_device(0)->bytes_available());
  } else {
    print_gpu(*backend);
  }
  return kExitDone;
}

}  // namespace
}  // namespace llmtrain

int main(int argc, char** argv) {
  try {
    return llmtrain::run(argc, argv);
  } catch (const llmtrain::InputError& error) {
    std::fprintf(stderr, "gpu_probe: %s\n", error.what());
    return llmtrain::kExitInput;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_probe: %s\n", error.what());
    return llmtrain::kExitFailed;
  }
}
