// Memory shared by the ranks of a node (shared_segment.h).
#include "comm/mpi/shared_segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr char kPrefix[] = "llmtrain-window-";

std::string why(int error) { return std::string(std::strerror(error)) + " (errno " + std::to_string(error) + ")"; }

std::string mebibytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / 1048576.0);
  return text;
}

// fallocate is interrupted by signals on large sizes.
int reserve(int fd, size_t bytes) {
  int error = 0;
  do {
    error = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  return error;
}

class ScopedFile {
 public:
  explicit ScopedFile(int fd) : fd_(fd) {}
  ~ScopedFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  ScopedFile(const ScopedFile&) = delete;
  ScopedFile& operator=(const ScopedFile&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

SegmentAddress address_of(int fd, size_t bytes) {
  struct stat info {};
  if (fstat(fd, &info) != 0) throw_errno("fstat", "a shared segment", errno);
  SegmentAddress address;
  address.pid = getpid();
  address.fd = fd;
  address.device = info.st_dev;
  address.inode = info.st_ino;
  address.bytes = bytes;
  return address;
}

}  // namespace

void SharedSegment::map(int fd, size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) throw OperationError("mapping " + mebibytes(bytes) + " of shared memory: " + why(errno));
  madvise(p, bytes, MADV_HUGEPAGE);  // advice only
  data_ = static_cast<char*>(p);
  bytes_ = bytes;
}

SharedSegment SharedSegment::make_anonymous(size_t bytes) {
  ScopedFile fd(memfd_create("llmtrain-window", MFD_CLOEXEC));
  if (fd.get() < 0) throw OperationError("memfd_create: " + why(errno));
  if (const int error = reserve(fd.get(), bytes)) throw OperationError("reserving " + mebibytes(bytes) + " of shared memory: " + why(error));
  SharedSegment segment;
  segment.address_ = address_of(fd.get(), bytes);
  segment.map(fd.get(), bytes);
  segment.fd_ = fd.release();
  return segment;
}

SharedSegment SharedSegment::make_in_folder(const std::string& folder, size_t bytes) {
  remove_stale_segments(folder);
  // Without a name until it is complete and locked.
  ScopedFile fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.get() < 0) throw OperationError("shared memory in " + folder + ": " + why(errno));
  if (const int error = reserve(fd.get(), bytes)) {
    throw OperationError(folder + " cannot hold " + mebibytes(bytes) + " of shared memory for one rank: " + why(error) +
                         "; give it more space (docker run --shm-size=8g, mount -o remount,size=8g " + folder + ")");
  }
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) throw OperationError("flock in " + folder + ": " + why(errno));
  SharedSegment segment;
  segment.address_ = address_of(fd.get(), bytes);
  std::random_device random;
  char name[64];
  std::snprintf(name, sizeof name, "%s%ld-%08x%08x", kPrefix, static_cast<long>(getpid()), random(), random());
  const std::string path = folder + "/" + name, from = "/proc/self/fd/" + std::to_string(fd.get());
  if (path.size() >= segment.address_.path.size()) throw OperationError("shared memory in " + folder + ": the path is too long");
  segment.map(fd.get(), bytes);
  if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) throw OperationError("naming " + path + ": " + why(errno));
  std::copy(path.begin(), path.end(), segment.address_.path.begin());
  segment.fd_ = fd.release();
  return segment;
}

SharedSegment SharedSegment::open(const SegmentAddress& address) {
  const std::string path =
      address.path[0] != '\0' ? std::string(address.path.data()) : "/proc/" + std::to_string(address.pid) + "/fd/" + std::to_string(address.fd);
  const ScopedFile fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.get() < 0) throw OperationError("opening " + path + ": " + why(errno));
  const SegmentAddress found = address_of(fd.get(), address.bytes);
  if (found.device != address.device || found.inode != address.inode) throw OperationError(path + " is not the memory of the other rank");
  SharedSegment segment;
  segment.map(fd.get(), address.bytes);
  return segment;
}

void SharedSegment::close_file() {
  if (fd_ < 0) return;
  if (address_.path[0] != '\0') unlink(address_.path.data());
  ::close(fd_);
  fd_ = -1;
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept { *this = std::move(other); }

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(fd_, other.fd_);
  std::swap(address_, other.address_);
  return *this;
}

SharedSegment::~SharedSegment() {
  close_file();
  if (data_ != nullptr) munmap(data_, bytes_);
}

int remove_stale_segments(const std::string& folder) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return 0;
  int removed = 0;
  while (const dirent* entry = readdir(dir)) {
    if (std::strncmp(entry->d_name, kPrefix, sizeof kPrefix - 1) != 0) continue;
    const std::string path = folder + "/" + entry->d_name;
    const ScopedFile fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    if (fd.get() < 0 || fstat(fd.get(), &info) != 0 || info.st_uid != geteuid()) continue;
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;  // its maker lives
    if (unlink(path.c_str()) == 0) ++removed;
  }
  closedir(dir);
  return removed;
}

}  // namespace llmtrain
