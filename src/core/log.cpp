#include "core/log.h"

#include <unistd.h>

#include <cerrno>

#include "core/printable.h"

namespace llmtrain {

void Log::write(const std::string& line) {
  std::string out = (bar_open_ ? "\n" : "") + printable(line, true) + "\n";
  bar_open_ = false;
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::write(2, out.data() + done, out.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // stderr is gone: nobody is left to tell
    done += static_cast<size_t>(n);
  }
}

void Log::info(const std::string& line) {
  if (!speaks_ || quiet_) return;
  std::lock_guard lock(mutex_);
  write(line);
}

void Log::warn(const std::string& line) {
  if (!speaks_) return;
  std::lock_guard lock(mutex_);
  write("warning: " + line);
}

void Log::warn_once(const std::string& line) {
  if (!speaks_) return;
  std::lock_guard lock(mutex_);
  if (said_.insert(line).second) write("warning: " + line);
}

void Log::warn_all_ranks(const std::string& line) {
  std::lock_guard lock(mutex_);
  write("warning (rank " + std::to_string(rank_) + "): " + line);
}

void Log::bar(const std::string& line, bool finished) {
  if (!speaks_ || quiet_) return;
  std::lock_guard lock(mutex_);
  const std::string out = "\r" + line + "\x1b[K" + (finished ? "\n" : "");
  bar_open_ = !finished;
  [[maybe_unused]] const ssize_t n = ::write(2, out.data(), out.size());
}

}  // namespace llmtrain
