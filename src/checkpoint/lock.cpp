#include "checkpoint/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {

FolderLock::FolderLock(const std::string& folder) {
  const std::string path = folder + "/.lock";
  fd_ = open_uninterrupted(path, O_RDWR | O_CREAT | O_CLOEXEC);
  if (fd_ < 0) throw InputError(folder, std::string("cannot be written to: ") + std::strerror(errno), "give an output_dir that this user may write to");
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error == EINTR) continue;
    if (error == ENOSYS || error == EOPNOTSUPP || error == ENOLCK) {
      unlocked_ = std::strerror(error);
      return;
    }
    char holder[256] = {};
    [[maybe_unused]] const ssize_t n = ::pread(fd_, holder, sizeof holder - 1, 0);
    ::close(std::exchange(fd_, -1));
    if (error == EWOULDBLOCK) {
      throw InputError(folder, std::string("another job is writing into this folder") + (holder[0] ? " (" + std::string(holder) + ")" : ""),
                       "wait for it to end, or give this job an output_dir of its own");
    }
    throw_errno("flock", path, error);
  }
  char host[128] = {};
  ::gethostname(host, sizeof host - 1);
  const std::string me = std::string(host) + ", process " + std::to_string(::getpid());
  try {
    int result;
    do {
      result = ::ftruncate(fd_, 0);
    } while (result != 0 && errno == EINTR);
    if (result != 0) throw_errno("ftruncate", path, errno);
    write_exactly(fd_, me.data(), me.size(), 0, path);
  } catch (...) {
    ::close(std::exchange(fd_, -1));
    throw;
  }
}

FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)), unlocked_(std::move(other.unlocked_)) {}
FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    unlocked_ = std::move(other.unlocked_);
  }
  return *this;
}
FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace llmtrain
