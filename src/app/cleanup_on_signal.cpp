#include "app/cleanup_on_signal.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};

// A signal handler can reach nothing but what has a fixed address.
std::atomic<int>& pipe_to_thread() {
  static std::atomic<int> fd{-1};
  return fd;
}

void pass_on(int number) {
  const int error = errno;
  const auto byte = static_cast<unsigned char>(number);
  [[maybe_unused]] const ssize_t n = ::write(pipe_to_thread(), &byte, 1);
  errno = error;
}

}  // namespace

struct CleanupOnSignal::State {
  std::function<void()> work;
  int ends[2] = {-1, -1};
  std::array<struct sigaction, kSignals.size()> before{};
  std::thread thread;

  // Until the pipe is closed.
  void listen() const {
    unsigned char number = 0;
    ssize_t n;
    while ((n = ::read(ends[0], &number, 1)) < 0 && errno == EINTR) {
    }
    if (n != 1) return;
    work();
    ::signal(number, SIG_DFL);
    ::kill(::getpid(), number);
    for (;;) ::pause();
  }
};

CleanupOnSignal::CleanupOnSignal(std::function<void()> work) : state_(std::make_unique<State>()) {
  state_->work = std::move(work);
  if (::pipe2(state_->ends, O_CLOEXEC) != 0) throw_errno("pipe2", "signals", errno);
  pipe_to_thread() = state_->ends[1];
  state_->thread = std::thread([this] { state_->listen(); });
  for (size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction action {};
    action.sa_handler = pass_on;
    action.sa_flags = SA_RESTART;
    ::sigaction(kSignals[i], nullptr, &state_->before[i]);
    if (state_->before[i].sa_handler != SIG_IGN) ::sigaction(kSignals[i], &action, nullptr);  // nohup
  }
}

CleanupOnSignal::~CleanupOnSignal() {
  for (size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &state_->before[i], nullptr);
  pipe_to_thread() = -1;
  ::close(state_->ends[1]);
  state_->thread.join();
  ::close(state_->ends[0]);
}

}  // namespace llmtrain
