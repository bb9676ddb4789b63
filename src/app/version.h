// What this program is and stands on: for --version, logs and checkpoints.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace llmtrain {

struct VersionLine {
  std::string name;                  // as its makers write it: "Open MPI", "oneDNN"
  std::optional<std::string> built;  // compiled against; nothing: not compiled in
  std::optional<std::string> found;  // found at run time; nothing: absent, or not asked for
};

// Version, commit, compiler and flags, then one line for each library. Opens the CUDA libraries if they are there (dlopen), but takes no GPU memory.
std::vector<VersionLine> version_lines();
std::string version_block();  // for people; ends with a newline
std::string version_json();   // one object on one line

}  // namespace llmtrain
