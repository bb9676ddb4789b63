#include "train/runs/job.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>

namespace llmtrain::testing_support {
namespace {

// "" also where a process ends while its file in /proc is read.
std::string content(const std::string& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  char block[4096];
  for (ssize_t n; fd >= 0 && (n = ::read(fd, block, sizeof block)) > 0;) text.append(block, static_cast<size_t>(n));
  if (fd >= 0) ::close(fd);
  return text;
}

bool has_entry(const std::string& block, const std::string& entry) {  // of /proc/<pid>/environ
  for (size_t at = 0; at < block.size();) {
    const size_t end = std::min(block.find('\0', at), block.size());
    if (block.compare(at, end - at, entry) == 0) return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
void sleep_seconds(double seconds) { ::usleep(static_cast<useconds_t>(seconds * 1e6)); }

Job::Job(const std::vector<std::string>& words, const JobOptions& options) {
  static std::atomic<int> count{0};
  id_ = "LLMTRAIN_TEST_JOB=" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  log_ = options.folder + "/job-" + id_.substr(id_.find('=') + 1) + ".log";
  const char* named = std::getenv("LLMTRAIN_BINARY");
  const std::string program = !options.program.empty() ? options.program : std::filesystem::absolute(named ? named : LLMTRAIN_TEST_BINARY).string();
  std::vector<std::string> all{LLMTRAIN_TEST_MPIEXEC, "--oversubscribe", "-np", std::to_string(options.ranks), program};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> argv;
  for (std::string& word : all) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::map<std::string, std::string> environment = options.environment;
  environment["OMPI_ALLOW_RUN_AS_ROOT"] = environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
  began_ = now_seconds();
  launcher_ = ::fork();
  if (launcher_ < 0) throw std::runtime_error("fork failed");
  if (launcher_ > 0) return;
  // In the child: only what is safe after fork() in a process with one thread.
  ::setpgid(0, 0);
  ::putenv(id_.data());
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  const int out = ::open(log_.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600), in = ::open("/dev/null", O_RDONLY);
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  if (::chdir(options.folder.c_str()) == 0) ::execv(argv[0], argv.data());
  ::_exit(126);
}

Job::~Job() {
  if (wait(0) < 0) {
    ::kill(launcher_, SIGKILL);
    wait(5);
  }
  for (const pid_t p : processes()) ::kill(p, SIGKILL);
}

std::vector<pid_t> Job::processes() const {
  std::vector<pid_t> found;
  DIR* proc = ::opendir("/proc");
  while (const dirent* entry = proc ? ::readdir(proc) : nullptr) {
    const pid_t pid = std::atoi(entry->d_name);
    if (pid <= 0 || pid == launcher_) continue;
    const std::string name = content("/proc/" + std::to_string(pid) + "/comm");
    if (!name.starts_with("llmtrain")) continue;
    if (has_entry(content("/proc/" + std::to_string(pid) + "/environ"), id_)) found.push_back(pid);
  }
  if (proc) ::closedir(proc);
  return found;
}

pid_t Job::rank_process(int rank, double seconds) {
  const double deadline = now_seconds() + seconds;
  do {
    for (const pid_t p : processes()) {
      if (has_entry(content("/proc/" + std::to_string(p) + "/environ"), "OMPI_COMM_WORLD_RANK=" + std::to_string(rank))) return p;
    }
    sleep_seconds(0.01);
  } while (now_seconds() < deadline && wait(0) < 0);
  return 0;
}

int Job::wait(double seconds) {
  const double deadline = now_seconds() + seconds;
  while (exit_code_ < 0) {
    int status = 0;
    if (::waitpid(launcher_, &status, WNOHANG) == launcher_) {
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      break;
    }
    if (now_seconds() >= deadline) return -1;
    sleep_seconds(0.01);
  }
  return exit_code_;
}

double Crowding::factor() const {
  const double each = samples_ ? running_ / samples_ / std::max(1u, std::thread::hardware_concurrency()) : 1;
  return std::max(1.0, each);
}

void Crowding::look() {
  const std::string text = content("/proc/stat");
  const size_t at = text.find("procs_running ");
  if (at == std::string::npos) return;
  running_ += std::atof(text.c_str() + at + 14);
  ++samples_;
}

double Job::age() const { return now_seconds() - began_; }
std::string Job::output() const { return content(log_); }

}  // namespace llmtrain::testing_support
