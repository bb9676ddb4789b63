// Files: whole reads with a limit, output that is never half-written, memory maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace llmtrain {

// The whole content. InputError naming `path` when it is missing, not a regular file, unreadable or larger than `limit_bytes`.
std::string read_file(const std::string& path, size_t limit_bytes = size_t{1} << 30);
bool is_regular_file(const std::string& path);  // follows symlinks
bool is_directory(const std::string& path);

// Writes to a temporary name beside `path`, fsyncs and renames: the old content or the new, never half of it.
// OperationError with errno and path on failure; the temporary file is removed.
void write_file_atomically(const std::string& path, std::string_view content);
// rename(2), repeated when a signal interrupts it (network file systems). OperationError naming both paths.
void rename_path(const std::string& from, const std::string& to);
// open(2), repeated when a signal interrupts it. -1 and errno.
int open_uninterrupted(const std::string& path, int flags, unsigned mode = 0666);
// mkdir -p. OperationError.
void make_directories(const std::string& path);
// The same for a folder that a person named, before anything is done: where it cannot be made or written to, InputError. A full disk stays an
// OperationError.
void make_writable_directories(const std::string& path);

// pread / pwrite of exactly n bytes, repeated on short counts and EINTR. OperationError with `path`.
void read_exactly(int fd, void* to, size_t n, uint64_t offset, const std::string& path);
void write_exactly(int fd, const void* from, size_t n, uint64_t offset, const std::string& path);

// A file descriptor that closes itself.
class File {
 public:
  File() = default;
  static File open_for_reading(const std::string& path);                // InputError when it cannot be opened or is no regular file
  static File create(const std::string& path, bool truncate = true);    // OperationError
  static File open_for_writing(const std::string& path);                // existing file; OperationError
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  uint64_t size() const;
  void read_at(void* to, size_t n, uint64_t offset) const { read_exactly(fd_, to, n, offset, path_); }
  void write_at(const void* from, size_t n, uint64_t offset) const { write_exactly(fd_, from, n, offset, path_); }
  void sync() const;
  void resize(uint64_t bytes) const;
  void close();  // OperationError when the close reports a failed write

 private:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

// Read-only memory map of a whole file.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view view() const { return {data_, size_}; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace llmtrain
