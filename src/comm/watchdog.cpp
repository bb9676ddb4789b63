#include "comm/watchdog.h"

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "comm/diagnosis.h"
#include "core/file.h"

namespace llmtrain {
namespace {

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// ---- stacks: each thread is sent a signal and writes its own frames into a slot.

constexpr int kMostThreads = 64, kMostFrames = 40;
struct StackSlot {
  std::atomic<int> thread{0}, frames{0};
  void* addresses[kMostFrames];
};
// A signal handler can reach nothing but what has a fixed address.
std::array<StackSlot, kMostThreads>& stack_slots() {
  static std::array<StackSlot, kMostThreads> slots;
  return slots;
}

int stack_signal() { return SIGRTMIN + 3; }

void write_own_stack(int) {
  const int me = static_cast<int>(::syscall(SYS_gettid));
  for (StackSlot& slot : stack_slots()) {
    if (slot.thread.load() == me) {
      slot.frames = ::backtrace(slot.addresses, kMostFrames);
      return;
    }
  }
}

std::vector<int> thread_ids() {
  std::vector<int> ids;
  if (DIR* dir = ::opendir("/proc/self/task")) {
    while (const dirent* entry = ::readdir(dir)) {
      if (entry->d_name[0] != '.') ids.push_back(std::atoi(entry->d_name));
    }
    ::closedir(dir);
  }
  if (ids.size() > kMostThreads) ids.resize(kMostThreads);
  return ids;
}

std::string thread_name(int id) {
  char name[32] = {};
  if (FILE* f = std::fopen(("/proc/self/task/" + std::to_string(id) + "/comm").c_str(), "r")) {
    if (!std::fgets(name, sizeof name, f)) name[0] = 0;
    std::fclose(f);
  }
  name[std::strcspn(name, "\n")] = 0;
  return name;
}

size_t resident_bytes() {
  long pages = 0, ignored = 0;
  if (FILE* f = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(f, "%ld %ld", &ignored, &pages) != 2) pages = 0;
    std::fclose(f);
  }
  return static_cast<size_t>(pages) * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

std::string dump_name(int rank) {
  char name[32];
  std::snprintf(name, sizeof name, "rank-%05d.json", rank);
  return name;
}

}  // namespace

std::vector<std::string> stacks_of_all_threads() {
  struct sigaction action {}, before {};
  action.sa_handler = write_own_stack;
  action.sa_flags = SA_RESTART;
  ::sigaction(stack_signal(), &action, &before);
  const std::vector<int> ids = thread_ids();
  auto& slots = stack_slots();
  for (size_t i = 0; i < slots.size(); ++i) {
    slots[i].frames = 0;
    slots[i].thread = i < ids.size() ? ids[i] : 0;
  }
  for (int id : ids) ::syscall(SYS_tgkill, ::getpid(), id, stack_signal());
  const double deadline = now_seconds() + 1;
  const auto all_answered = [&] {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (slots[i].frames == 0) return false;
    }
    return true;
  };
  while (!all_answered() && now_seconds() < deadline) ::usleep(5000);
  std::vector<std::string> lines;
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string line = "thread " + std::to_string(ids[i]) + " (" + thread_name(ids[i]) + "): ";
    const int frames = slots[i].frames;
    if (frames == 0) line += "does not answer";
    if (char** symbols = frames > 0 ? ::backtrace_symbols(slots[i].addresses, frames) : nullptr) {
      for (int f = 0; f < frames; ++f) line += (f ? " < " : "") + std::string(symbols[f]);
      std::free(symbols);
    }
    lines.push_back(std::move(line));
  }
  ::sigaction(stack_signal(), &before, nullptr);
  return lines;
}

// A wait of half a second that takes longer than this means that the process did not run.
constexpr double kAsleepSeconds = 2.5;

struct Watchdog::State {
  WatchdogOptions options;
  std::vector<const FlightRecorder*> recorders;
  std::atomic<double> last_progress{now_seconds()};
  std::atomic<const char*> phase{"start"};
  std::atomic<int64_t> step{0};
  std::atomic<bool> paused{false};
  // When this process was last seen to run again after it had not run at all (SIGSTOP, a suspended machine): what it waits in since before that is no
  // sign of anything, and it must not take itself for a witness.
  std::atomic<double> awake_since{0};
  std::mutex mutex;
  std::condition_variable ended;
  bool stop = false;
  std::thread thread;

  // Seconds without progress: since the last report, or since the oldest collective that is under way began.
  double stuck_seconds() const {
    const double now = now_seconds(), awake = awake_since;
    double stuck = now - std::max<double>(last_progress, awake);
    double oldest = now;
    for (const FlightRecorder* r : recorders) {
      for (const CollectiveRecord& c : r->records()) {
        if (c.started > 0 && c.finished == 0) oldest = std::min(oldest, std::max(c.started, awake));
      }
    }
    return std::max(stuck, now - oldest);
  }

  void run() {
    double paused_since = 0;
    std::unique_lock lock(mutex);
    double looked = now_seconds();
    while (!stop) {
      ended.wait_for(lock, std::chrono::milliseconds(500));
      if (stop) return;
      if (now_seconds() - looked > kAsleepSeconds) awake_since = now_seconds();
      looked = now_seconds();
      if (paused) {
        paused_since = now_seconds();
        continue;
      }
      if (paused_since > 0 && last_progress < paused_since) last_progress = paused_since;
      if (stuck_seconds() <= options.timeout_seconds) continue;
      lock.unlock();
      give_up();
    }
  }

  Json dump() const {
    Json communicators = Json::array();
    for (const FlightRecorder* r : recorders) communicators.push_back(parse_json(r->json(), "flight recorder"));
    Json stacks = Json::array();
    for (const std::string& line : stacks_of_all_threads()) stacks.push_back(line);
    return {{"rank", options.rank},
            {"size", options.size},
            {"host", options.host},
            {"process", static_cast<int64_t>(::getpid())},
            {"phase", phase.load()},
            {"step", step.load()},
            {"stuck_seconds", stuck_seconds()},
            {"resident_bytes", resident_bytes()},
            {"communicators", communicators},
            {"stacks", stacks}};
  }

  [[noreturn]] void give_up() {
    std::string text = "llmtrain: rank " + std::to_string(options.rank) + " on " + options.host + " has made no progress for " +
                       std::to_string(static_cast<int64_t>(stuck_seconds())) + " s (phase " + phase.load() + ", step " + std::to_string(step) + ")\n";
    try {
      make_directories(options.dump_dir);
      write_file_atomically(options.dump_dir + "/" + dump_name(options.rank), dump_json(dump(), 1) + "\n");
      ::usleep(2'000'000);  // the others' watchdogs run out within their half second of ours
      const Diagnosis found = diagnose(read_dumps({options.dump_dir}));
      text += found.text() + "dumps: " + options.dump_dir + " (llmtrain diagnose " + options.dump_dir + ")\n";
    } catch (const std::exception& e) {
      text += std::string("the dump could not be written: ") + e.what() + "\n";
    }
    [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
    ::_exit(1);
  }
};

Watchdog::Watchdog(WatchdogOptions options, std::vector<const FlightRecorder*> recorders) : state_(std::make_unique<State>()) {
  // The first backtrace() loads libgcc: not in a signal handler, when memory may be locked.
  void* frame[1];
  ::backtrace(frame, 1);
  state_->options = std::move(options);
  state_->recorders = std::move(recorders);
  // Dumps of an earlier run would be taken for this one's.
  ::unlink((state_->options.dump_dir + "/" + dump_name(state_->options.rank)).c_str());
  state_->thread = std::thread([this] { state_->run(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->ended.notify_all();
  state_->thread.join();
}

void Watchdog::progress(const char* phase, int64_t step) {
  state_->phase = phase;
  state_->step = step;
  state_->last_progress = now_seconds();
}

void Watchdog::pause(bool on) { state_->paused = on; }

}  // namespace llmtrain
