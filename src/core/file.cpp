#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace llmtrain {

bool is_regular_file(const std::string& path) {
  struct stat s {};
  return ::stat(path.c_str(), &s) == 0 && S_ISREG(s.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat s {};
  return ::stat(path.c_str(), &s) == 0 && S_ISDIR(s.st_mode);
}

std::string read_file(const std::string& path, size_t limit_bytes) {
  const File file = File::open_for_reading(path);
  const uint64_t size = file.size();
  if (size > limit_bytes) {
    throw InputError(path, "the file has " + std::to_string(size) + " bytes; at most " + std::to_string(limit_bytes) + " are read here");
  }
  std::string content(size, '\0');
  file.read_at(content.data(), content.size(), 0);
  return content;
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error && !is_directory(path)) throw OperationError("mkdir " + path + ": " + error.message());
}

void make_writable_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error && is_directory(path)) error.clear();
  if (error && (error == std::errc::no_space_on_device || error == std::errc::io_error || error.value() == EDQUOT)) {
    throw OperationError("mkdir " + path + ": " + error.message());
  }
  if (!error && ::access(path.c_str(), W_OK | X_OK) != 0) error = std::error_code(errno, std::generic_category());
  if (error) throw InputError(path, "this folder cannot be made or written to: " + error.message(), "name a folder that you may write to");
}

int open_uninterrupted(const std::string& path, int flags, unsigned mode) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

void rename_path(const std::string& from, const std::string& to) {
  while (::rename(from.c_str(), to.c_str()) != 0) {
    if (errno != EINTR) throw_errno("rename", from + " -> " + to, errno);
  }
}

void write_file_atomically(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp." + std::to_string(::getpid());
  try {
    File file = File::create(temporary);
    file.write_at(content.data(), content.size(), 0);
    file.sync();
    file.close();
    rename_path(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void read_exactly(int fd, void* to, size_t n, uint64_t offset, const std::string& path) {
  auto* p = static_cast<char*>(to);
  while (n > 0) {
    const ssize_t got = ::pread(fd, p, n, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("read", path, errno);
    if (got == 0) throw OperationError("read " + path + ": the file ends " + std::to_string(n) + " bytes early (truncated while in use?)");
    p += got;
    n -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
}

void write_exactly(int fd, const void* from, size_t n, uint64_t offset, const std::string& path) {
  const auto* p = static_cast<const char*>(from);
  while (n > 0) {
    const ssize_t put = ::pwrite(fd, p, n, static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_errno("write", path, errno);
    if (put == 0) throw_errno("write", path, ENOSPC);
    p += put;
    n -= static_cast<size_t>(put);
    offset += static_cast<uint64_t>(put);
  }
}

File File::open_for_reading(const std::string& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) {
    const int e = errno;
    throw InputError(path, e == ENOENT ? "no such file" : std::string("cannot be opened: ") + std::strerror(e));
  }
  if (!S_ISREG(s.st_mode)) throw InputError(path, S_ISDIR(s.st_mode) ? "is a folder, a file is expected" : "is not a regular file");
  const int fd = open_uninterrupted(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw InputError(path, std::string("cannot be opened: ") + std::strerror(errno));
  return File(fd, path);
}

File File::create(const std::string& path, bool truncate) {
  const int fd = open_uninterrupted(path, O_RDWR | O_CREAT | O_CLOEXEC | (truncate ? O_TRUNC : 0));
  if (fd < 0) throw_errno("open", path, errno);
  return File(fd, path);
}

File File::open_for_writing(const std::string& path) {
  const int fd = open_uninterrupted(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) throw_errno("open", path, errno);
  return File(fd, path);
}

File::File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    path_ = std::move(other.path_);
  }
  return *this;
}
File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

uint64_t File::size() const {
  struct stat s {};
  if (::fstat(fd_, &s) != 0) throw_errno("fstat", path_, errno);
  return static_cast<uint64_t>(s.st_size);
}
void File::sync() const {
  while (::fsync(fd_) != 0) {
    if (errno != EINTR) throw_errno("fsync", path_, errno);
  }
}
void File::resize(uint64_t bytes) const {
  while (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) throw_errno("ftruncate", path_, errno);
  }
}
void File::close() {
  if (fd_ < 0) return;
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0 && errno != EINTR) throw_errno("close", path_, errno);
}

MappedFile::MappedFile(const std::string& path) {
  const File file = File::open_for_reading(path);
  size_ = file.size();
  if (size_ == 0) return;
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (p == MAP_FAILED) throw_errno("mmap", path, errno);
  data_ = static_cast<const char*>(p);
}
MappedFile::MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    if (data_) ::munmap(const_cast<char*>(data_), size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}
MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<char*>(data_), size_);
}

}  // namespace llmtrain
