#include "checkpoint/folders.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

// Puts `from` in the place of `to`, an existing folder, which ends under the name that is returned.
std::string replace_folder(const std::string& from, const std::string& to) {
  int result;
  do {
    result = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return from;
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) throw_errno("rename", from + " -> " + to, errno);
  const std::string old = to + kReplacedSuffix;
  remove_folder(old);
  rename_path(to, old);
  try {
    rename_path(from, to);
  } catch (...) {
    ::rename(old.c_str(), to.c_str());
    throw;
  }
  return old;
}

// "checkpoint-4.tmp", "checkpoint-4.old.tmp", "checkpoint-4.replaced", "latest.tmp.77": what a save that was killed left behind; ".seen-by-all-77": what
// a start that was killed did (train/output_dir.cpp).
bool is_leftover(const std::string& name) {
  if (name.starts_with("latest.tmp.") || name.starts_with(".seen-by-all-")) return true;
  return name.starts_with("checkpoint-") && (name.ends_with(".tmp") || name.ends_with(kReplacedSuffix));
}

}  // namespace

void sync_folder(const std::string& path) {
  const int fd = open_uninterrupted(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_errno("open", path, errno);
  int result;
  do {
    result = ::fsync(fd);
  } while (result != 0 && errno == EINTR);
  const int error = errno;
  ::close(fd);
  // Some network file systems cannot fsync a folder and say EINVAL: the rename is then as durable as they make it.
  if (result != 0 && error != EINVAL && error != ENOTSUP) throw_errno("fsync", path, error);
}

void remove_folder(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

std::string put_folder_in_place(const std::string& from, const std::string& to) {
  if (is_directory(to)) return replace_folder(from, to);  // of the same step: an earlier run's, or a damaged one
  rename_path(from, to);
  return "";
}

void remove_leftovers(const std::string& output_dir) {
  std::vector<std::string> leftovers;
  for (const auto& entry : std::filesystem::directory_iterator(output_dir)) {
    if (is_leftover(entry.path().filename().string())) leftovers.push_back(entry.path().string());
  }
  for (const std::string& path : leftovers) std::filesystem::remove_all(path);
}

}  // namespace llmtrain
