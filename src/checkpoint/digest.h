// XXH3-128 digests (https://github.com/Cyan4973/xxHash) of files and texts, as 32 hexadecimal digits. They find damage, not malice.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace llmtrain {

class Digest {
 public:
  Digest();
  ~Digest();
  void add(const void* data, size_t bytes);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string digest_of(std::string_view text);
// Reads the file once, in blocks. InputError / OperationError naming the path when it cannot be read.
std::string digest_of_file(const std::string& path);

}  // namespace llmtrain
