// Where CUDA's libraries may lie when the system's loader does not know them: they are then opened by absolute path, in the order in which they need
// each other, so that the plugin, and what loads a library by its name later (cuDNN its engines and nvrtc), find them loaded.
//
// Nothing is executed and no variable is changed. Thread rules: not while another thread changes the environment.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace llmtrain {

// Folders, best first:
//   $LLMTRAIN_CUDA_LIBRARIES    folders separated by colons: what a person names comes before what is guessed
//   $CUDA_HOME, $CUDA_PATH      lib64, lib and targets/x86_64-linux/lib below
//   /usr/local/cuda             likewise
//   Python's nvidia-* wheels    site-packages/nvidia/*/lib of $PYTHONPATH, $VIRTUAL_ENV, $CONDA_PREFIX (whose own lib holds conda's packages of CUDA), the
//                               python3 on PATH (and the installation that a virtual environment was made from), pyenv's versions, ~/.local
// Only folders that exist, each once.
std::vector<std::string> cuda_library_folders();

// Those of CUDA 13's libraries that the backend uses, in the order of need.
std::span<const char* const> cuda_library_names();

// Opens each of `names` that the loader does not find by itself from the first of `folders` that holds it, to stay open until the process ends.
// Returns a line for each that was found nowhere or could not be opened: its name and why, with the files of another version that lie there.
std::vector<std::string> open_cuda_libraries(const std::vector<std::string>& folders, std::span<const char* const> names = cuda_library_names());

// Whether NVIDIA's driver library is installed. Without it there is no GPU, whatever else is: opening cuBLASLt to find that out costs 60 ms and 200 MB.
bool cuda_driver_is_here();

}  // namespace llmtrain
