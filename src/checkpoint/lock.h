// A lock on an output folder: two jobs never write into the same one. It is a flock() on a file in the folder, so it dies with its holder.
#pragma once

#include <string>

namespace llmtrain {

class FolderLock {
 public:
  FolderLock() = default;
  // InputError naming the folder and the holder (host, process) when another process holds it. Held until destruction or the end of the process.
  // Where the file system has no locks (Lustre mounted without -o flock, some NFS) there is none, and unlocked() says why.
  explicit FolderLock(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  ~FolderLock();
  // "" where the lock is held; else what the file system said.
  const std::string& unlocked() const { return unlocked_; }

 private:
  int fd_ = -1;
  std::string unlocked_;
};

}  // namespace llmtrain
