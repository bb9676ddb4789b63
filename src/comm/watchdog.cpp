#include "comm/watchdog.h"

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <sys/stat.h>
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
#include <ctime>
#include <mutex>
#include <thread>

#include "comm/diagnosis.h"
#include "comm/flight_recorder.h"
#include "comm/process.h"
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
// How long a rank waits for the dumps of the others before it names the laggard, and before it ends.
constexpr double kOthersSeconds = 2;
// A failure of another rank, or of the network, usually reaches the main thread by itself; one that waits inside MPI or for the GPU does not hear of it.
constexpr double kHeardSeconds = 1;
// … and, having written its dump, leaves the rank that failed so long to end the job itself.
constexpr unsigned kSpeaksItselfSeconds = 10;
// For Communicator::abort().
constexpr double kAbortSeconds = 3;

// A rank's process as the others of its node see it.
struct Peer {
  ProcessName process;
  char host[64];
  double stopped_since;  // 0: it runs
};

struct Watchdog::State {
  WatchdogOptions options;
  int rank = 0, size = 1;
  uint64_t job = 0;  // the same on all ranks, another in each start
  std::vector<Peer> peers;
  uint64_t own_namespace = 0;
  std::atomic<double> last_progress{now_seconds()};
  std::atomic<const char*> phase{"set-up"};
  std::atomic<int64_t> step{0};
  std::atomic<int> paused{1};
  // When this process was last seen to run again after it had not run at all (SIGSTOP, a suspended machine): what it waits in since before that is no
  // sign of anything, and it must not take itself for a witness.
  std::atomic<double> awake_since{0};
  std::mutex mutex;  // of what follows, and of writing a dump
  std::condition_variable ended;
  const FlightRecorder* group_recorder = nullptr;
  std::vector<Communicator*> communicators;
  bool stop = false;
  std::thread thread;

  std::vector<const FlightRecorder*> recorders() const {
    std::vector<const FlightRecorder*> all;
    if (group_recorder) all.push_back(group_recorder);
    for (const Communicator* c : communicators) {
      if (c->flight_recorder()) all.push_back(c->flight_recorder());
    }
    return all;
  }

  // Seconds without progress: since the last report or the last collective that began or ended, or since the oldest that is under way began.
  double stuck_seconds() const {
    const double now = now_seconds(), awake = awake_since;
    double last = std::max<double>(last_progress, awake), oldest = now;
    for (const FlightRecorder* r : recorders()) {
      for (const CollectiveRecord& c : r->records()) {
        last = std::max({last, c.started, c.finished});
        if (c.started > 0 && c.finished == 0) oldest = std::min(oldest, std::max(c.started, std::max<double>(awake, resumed)));
      }
    }
    return std::max(now - last, now - oldest);
  }
  std::atomic<double> resumed{0};  // when the clock last began to run

  // Ranks of this node that have been stopped for longer than the timeout.
  std::vector<int> stopped_peers() {
    std::vector<int> found;
    const double now = now_seconds();
    for (int r = 0; r < size; ++r) {
      Peer& peer = peers[static_cast<size_t>(r)];
      if (r == rank || peer.process.pid_namespace != own_namespace) continue;
      if (state_of(peer.process, own_namespace) != ProcessState::stopped) {
        peer.stopped_since = 0;
      } else if (peer.stopped_since < awake_since || peer.stopped_since == 0) {
        peer.stopped_since = now;
      } else if (now - peer.stopped_since > options.timeout_seconds) {
        found.push_back(r);
      }
    }
    return found;
  }

  std::string own_failure() const {
    for (const Communicator* c : communicators) {
      if (std::string text = c->own_failure(); !text.empty()) return text;
    }
    return "";
  }

  std::string heard_failure() const {
    for (const Communicator* c : communicators) {
      if (std::string text = c->heard_failure(); !text.empty()) return text;
    }
    return "";
  }

  void run() {
    std::unique_lock lock(mutex);
    double looked = now_seconds(), heard_since = 0, failed_since = 0;
    while (!stop) {
      ended.wait_for(lock, std::chrono::milliseconds(500));
      if (stop) return;
      const double now = now_seconds();
      if (now - looked > kAsleepSeconds) awake_since = now;
      looked = now;
      if (const std::string own = own_failure(); !own.empty()) {
        if (failed_since == 0) failed_since = now;
        if (now - failed_since > kHeardSeconds) give_up("stands still: " + own, {{"error", own}});
      }
      if (const std::string heard = heard_failure(); !heard.empty()) {
        if (heard_since == 0) heard_since = now;
        if (now - heard_since > kHeardSeconds) give_up_heard("stands still because another rank has failed: " + heard, {{"error", heard}, {"heard", true}});
      }
      if (const std::vector<int> stopped = stopped_peers(); !stopped.empty()) {
        give_up("waits for a rank of its node that has been stopped for longer than hang_timeout", {{"stopped", stopped}});
      }
      if (paused == 0 && stuck_seconds() > options.timeout_seconds) {
        give_up("has made no progress for " + std::to_string(static_cast<int64_t>(stuck_seconds())) + " s", Json::object());
      }
    }
  }

  Json dump(const Json& why) const {
    Json all = Json::array();
    for (const FlightRecorder* r : recorders()) all.push_back(parse_json(r->json(), "flight recorder"));
    Json stacks = Json::array();
    for (const std::string& line : stacks_of_all_threads()) stacks.push_back(line);
    char id[32];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(job));
    Json out = {{"rank", rank},
                {"size", size},
                {"host", options.host},
                {"process", static_cast<int64_t>(::getpid())},
                {"job", id},
                {"time", std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count()},
                {"phase", phase.load()},
                {"step", step.load()},
                {"stuck_seconds", stuck_seconds()},
                {"resident_bytes", resident_bytes()}};
    out.update(why);
    out["communicators"] = all;
    out["stacks"] = stacks;
    return out;
  }

  void write_dump(const Json& why) const {
    make_directories(options.dump_dir);
    write_file_atomically(options.dump_dir + "/" + dump_name(rank), dump_json(dump(why), 1) + "\n");
  }

  // Until every rank has a dump of this start, but not for long.
  void wait_for_others(double began) const {
    const double deadline = now_seconds() + kOthersSeconds;
    const auto fresh = [&](int r) {
      struct stat info {};
      return ::stat((options.dump_dir + "/" + dump_name(r)).c_str(), &info) == 0 && static_cast<double>(info.st_mtime) >= began - 1;
    };
    while (now_seconds() < deadline) {
      int there = 0;
      for (int r = 0; r < size; ++r) there += fresh(r) ? 1 : 0;
      if (there == size) return;
      ::usleep(50'000);
    }
  }

  // Takes work off the devices that waits for ranks that will not come, so that this process can end; not for long. With `mutex` held.
  void abort_communicators() const {
    const auto left = std::make_shared<std::atomic<size_t>>(communicators.size());
    for (Communicator* c : communicators) {
      std::thread([c, left] {
        c->abort();
        --*left;
      }).detach();
    }
    const double deadline = now_seconds() + kAbortSeconds;
    while (*left > 0 && now_seconds() < deadline) ::usleep(2'000);
  }

  // The rank that failed ends the job with its own message, as soon as the others have written their dumps. With `mutex` held.
  [[noreturn]] void give_up_heard(const std::string& what, const Json& why) {
    try {
      write_dump(why);
    } catch (const std::exception&) {  // give_up() says so
    }
    ::sleep(kSpeaksItselfSeconds);
    give_up(what, why);
  }

  // With `mutex` held.
  [[noreturn]] void give_up(const std::string& what, const Json& why) {
    std::string text = "llmtrain: rank " + std::to_string(rank) + " on " + options.host + " " + what + " (phase " + phase.load() + ", step " +
                       std::to_string(step) + ")\n";
    try {
      const double began = static_cast<double>(std::time(nullptr)) - kOthersSeconds;
      write_dump(why);
      wait_for_others(began);
      text += diagnose(read_dumps({options.dump_dir})).text() + "dumps: " + options.dump_dir + " (llmtrain diagnose " + options.dump_dir + ")\n";
    } catch (const std::exception& e) {
      text += std::string("the dump could not be written: ") + e.what() + "\n";
    }
    [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
    abort_communicators();
    ::_exit(1);
  }
};

Watchdog::Watchdog(WatchdogOptions options, RankGroup& group, const FlightRecorder* recorder) : state_(std::make_unique<State>()) {
  // The first backtrace() loads libgcc: not in a signal handler, when memory may be locked.
  void* frame[1];
  ::backtrace(frame, 1);
  State& s = *state_;
  s.options = std::move(options);
  s.rank = group.rank();
  s.size = group.size();
  s.group_recorder = recorder;
  Peer me{};
  me.process = this_process();
  s.options.host.copy(me.host, sizeof me.host - 1);
  s.own_namespace = me.process.pid_namespace;
  s.peers.resize(static_cast<size_t>(s.size));
  group.all_gather(&me, s.peers.data(), sizeof me);
  for (Peer& peer : s.peers) {  // namespaces of different machines may have the same number
    if (std::string(peer.host) != me.host) peer.process = ProcessName{};
  }
  s.job = s.rank == 0 ? static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) ^ static_cast<uint64_t>(::getpid()) << 40 : 0;
  group.broadcast(&s.job, sizeof s.job, 0);
  s.thread = std::thread([this] { state_->run(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->ended.notify_all();
  state_->thread.join();
}

void Watchdog::watch(std::vector<Communicator*> communicators) {
  std::lock_guard lock(state_->mutex);
  state_->communicators = std::move(communicators);
  // A dump of an earlier run.
  ::unlink((state_->options.dump_dir + "/" + dump_name(state_->rank)).c_str());
}

void Watchdog::forget() {
  std::lock_guard lock(state_->mutex);
  state_->communicators.clear();
}

void Watchdog::progress(const char* phase, int64_t step) {
  state_->phase = phase;
  state_->step = step;
  state_->last_progress = now_seconds();
  if (state_->paused.exchange(0) != 0) state_->resumed = now_seconds();
}

void Watchdog::pause(const char* phase) {
  state_->phase = phase;
  state_->paused = 1;
}

void Watchdog::resume() {
  state_->resumed = state_->last_progress = now_seconds();
  state_->phase = "training";
  state_->paused = 0;
}

void Watchdog::failed(const std::string& error, bool heard) {
  State& s = *state_;
  std::lock_guard lock(s.mutex);  // the thread looks no more; where it is writing a dump itself, it ends the process
  if (s.communicators.empty()) return;
  s.stop = true;
  try {
    const double began = static_cast<double>(std::time(nullptr)) - kOthersSeconds;
    s.write_dump({{"error", error}, {"heard", heard}});
    for (Communicator* c : s.communicators) c->announce_failure(error);
    s.wait_for_others(began);
    s.abort_communicators();
  } catch (const std::exception& e) {
    const std::string text = std::string("llmtrain: the dump could not be written: ") + e.what() + "\n";
    [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
  }
}

}  // namespace llmtrain
