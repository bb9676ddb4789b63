// Where CUDA's libraries may lie when the system's loader does not know them: they are then opened by absolute path, in the order in which they need
// each other, so that the plugin finds them loaded.
#pragma once

#include <string>
#include <vector>

namespace llmtrain {

// Folders, best first: $LLMTRAIN_CUDA_LIBRARIES (separated by colons), $CUDA_HOME and $CUDA_PATH, /usr/local/cuda, and the nvidia-* wheels of the
// python3 on PATH, of $VIRTUAL_ENV and of $CONDA_PREFIX (site-packages/nvidia/*/lib). Only folders that exist. Nothing is executed.
std::vector<std::string> cuda_library_folders();

// Opens those of CUDA's libraries that the loader does not find by name, from the folders above. Returns a line for each that was found nowhere.
std::vector<std::string> open_cuda_libraries(const std::vector<std::string>& folders);

}  // namespace llmtrain
