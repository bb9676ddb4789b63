// What a command leaves behind only while it runs is removed too when a signal ends it.
#pragma once

#include <functional>
#include <memory>

namespace llmtrain {

// While it lives, SIGINT, SIGTERM and SIGHUP (those that are not ignored) run `work` on a thread of its own, and then end the process as they would have
// without it. `work` must not throw. One of these at a time.
class CleanupOnSignal {
 public:
  explicit CleanupOnSignal(std::function<void()> work);  // OperationError
  ~CleanupOnSignal();
  CleanupOnSignal(const CleanupOnSignal&) = delete;
  CleanupOnSignal& operator=(const CleanupOnSignal&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmtrain
