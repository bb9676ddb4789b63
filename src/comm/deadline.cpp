#include "comm/deadline.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace llmtrain {

struct Deadline::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::thread thread;
};

Deadline::Deadline(double seconds, const std::string& what) : state_(std::make_unique<State>()) {
  sigset_t all, before;  // signals are for the threads that expect them
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  state_->thread = std::thread([state = state_.get(), seconds, what] {
    std::unique_lock lock(state->mutex);
    if (state->changed.wait_for(lock, std::chrono::duration<double>(seconds), [state] { return state->done; })) return;
    char host[64] = {};
    ::gethostname(host, sizeof host - 1);
    const std::string text = "llmtrain: " + what + " has not ended in " + std::to_string(static_cast<long long>(seconds)) + " s (process " +
                             std::to_string(::getpid()) + " on " + host + "): another rank is stopped or dead, or the network between the nodes does not work\n";
    [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
    ::_exit(1);
  });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Deadline::~Deadline() {
  {
    std::lock_guard lock(state_->mutex);
    state_->done = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

}  // namespace llmtrain
