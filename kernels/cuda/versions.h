// The libraries of the CUDA backend and their versions.
#pragma once

#include <string>
#include <vector>

namespace llmtrain::cuda {

// "CUDA runtime 13.0" …: each library with the version found at run time.
std::vector<std::string> library_versions();

}  // namespace llmtrain::cuda
