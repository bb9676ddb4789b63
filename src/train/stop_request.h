// Requests to stop: SIGUSR1 and SIGTERM (Slurm, a person), and the clock (max_hours). A request only sets a flag; the trainer looks at it at the end of each
// step, all ranks agree, a checkpoint is committed and the program ends with exit code 85. A second signal changes nothing.
//
// The signals are delivered to a thread of their own: they are blocked in the constructing thread and in all that it starts later. A handler on a compute
// thread would run on top of oneDNN's generated code, which keeps data below the stack pointer, where the kernel puts the signal's frame (seen: a
// corrupted heap).
// Thread rules: one StopRequest a process, made before the threads that compute; requested() from any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace llmtrain {

class StopRequest {
 public:
  // Takes over the two signals until destruction. `max_hours`: counted from the start of the process.
  explicit StopRequest(std::optional<double> max_hours);
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  bool requested() const;
  // What asked, for the log: "SIGUSR1", "max_hours"; "" while nothing did.
  std::string reason() const;

 private:
  struct Listener;
  std::unique_ptr<Listener> listener_;
  double deadline_;  // on the monotonic clock; infinite without max_hours
};

}  // namespace llmtrain
