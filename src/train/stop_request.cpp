#include "train/stop_request.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <limits>
#include <mutex>
#include <thread>

namespace llmtrain {
namespace {

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A signal handler can reach nothing but what has a fixed address.
std::atomic<int>& signal_seen() {
  static std::atomic<int> seen{0};
  return seen;
}
static_assert(std::atomic<int>::is_always_lock_free);

void note_signal(int number) {
  int none = 0;
  signal_seen().compare_exchange_strong(none, number);
}

// Seconds since this process was started (/proc/self/stat field 22, in clock ticks since boot); 0 where that cannot be read.
double process_age_seconds() {
  FILE* f = std::fopen("/proc/self/stat", "r");
  if (!f) return 0;
  char text[1024] = {};
  const size_t n = std::fread(text, 1, sizeof text - 1, f);
  std::fclose(f);
  text[n] = 0;
  const char* p = text;
  for (const char* q = text; *q; ++q) {
    if (*q == ')') p = q + 1;
  }
  unsigned long long start = 0;
  if (std::sscanf(p, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &start) != 1) return 0;
  double up = 0;
  if (FILE* u = std::fopen("/proc/uptime", "r")) {
    if (std::fscanf(u, "%lf", &up) != 1) up = 0;
    std::fclose(u);
  }
  const double age = up - static_cast<double>(start) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return age > 0 ? age : 0;
}

}  // namespace

// The thread that signals are delivered to. It does nothing but be there.
struct StopRequest::Listener {
  sigset_t signals{}, before{};
  std::thread thread;
  std::mutex mutex;
  std::condition_variable ended;
  bool end = false;

  Listener() {
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGUSR1);
    ::sigaddset(&signals, SIGTERM);
    thread = std::thread([this] {
      ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
      std::unique_lock lock(mutex);
      ended.wait(lock, [this] { return end; });
    });
    ::pthread_sigmask(SIG_BLOCK, &signals, &before);
  }
  ~Listener() {
    {
      std::lock_guard lock(mutex);
      end = true;
    }
    ended.notify_all();
    thread.join();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
};

StopRequest::StopRequest(std::optional<double> max_hours)
    : deadline_(max_hours ? now_seconds() - process_age_seconds() + *max_hours * 3600 : std::numeric_limits<double>::infinity()) {
  signal_seen() = 0;
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGUSR1, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  listener_ = std::make_unique<Listener>();
}

StopRequest::~StopRequest() {
  listener_.reset();
  ::signal(SIGUSR1, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
}

bool StopRequest::requested() const { return signal_seen() != 0 || now_seconds() >= deadline_; }

std::string StopRequest::reason() const {
  switch (signal_seen().load()) {
    case SIGUSR1: return "SIGUSR1";
    case SIGTERM: return "SIGTERM";
    default: return now_seconds() >= deadline_ ? "max_hours" : "";
  }
}

}  // namespace llmtrain
