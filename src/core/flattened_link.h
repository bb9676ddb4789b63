// A symbolic link that was flattened: git with core.symlinks=false, zip archives and some copies write a link as a small text file that holds its
// target. Hugging Face folders are often made of links (their cache consists of them), so such files turn up.
#pragma once

#include <string>

namespace llmtrain {

// The file that is meant by `path`: `path` itself, or, where it is such a text (at most 4096 bytes, one line, a relative path that ends in the same
// file name and leads to a regular file), its target. Links to links are followed up to 8 times. Never throws.
std::string follow_flattened_link(const std::string& path);

}  // namespace llmtrain
