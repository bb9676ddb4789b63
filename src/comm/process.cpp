// /proc/<pid>/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
#include "comm/process.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace llmtrain {
namespace {

uint64_t namespace_of_this_process() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

// Fields 3 and 22; the name before them may hold anything. false: cannot be read.
bool read_stat(int64_t pid, char* state, uint64_t* start_time) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  size_t at = text.rfind(')');
  if (at == std::string::npos || at + 2 >= text.size()) return false;
  *state = text[at + 2];
  for (int field = 2; field < 22; ++field) {
    at = text.find(' ', at + 1);
    if (at == std::string::npos) return false;
  }
  *start_time = std::strtoull(text.c_str() + at + 1, nullptr, 10);
  return true;
}

}  // namespace

ProcessName this_process() {
  ProcessName me;
  char state = 0;
  me.pid_namespace = namespace_of_this_process();
  if (read_stat(getpid(), &state, &me.start_time)) me.pid = getpid();
  return me;
}

ProcessState state_of(const ProcessName& process, uint64_t own_namespace) {
  if (process.pid == 0 || process.pid_namespace != own_namespace) return ProcessState::unknown;
  if (kill(static_cast<pid_t>(process.pid), 0) != 0 && errno == ESRCH) return ProcessState::gone;
  char state = 'R';
  uint64_t start_time = 0;
  if (!read_stat(process.pid, &state, &start_time)) return ProcessState::unknown;
  if (state == 'Z' || state == 'X' || start_time != process.start_time) return ProcessState::gone;
  return state == 'T' ? ProcessState::stopped : ProcessState::runs;
}

}  // namespace llmtrain
