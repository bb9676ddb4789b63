// Requests to stop: SIGUSR1 and SIGTERM (Slurm, a person), and the clock (max_hours). A request only sets a flag; the trainer looks at it at the end of each
// step, all ranks agree, a checkpoint is committed and the program ends with exit code 85. A second signal changes nothing.
//
// Thread rules: one StopRequest a process; requested() from any thread.
#pragma once

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
  double deadline_;  // on the monotonic clock; infinite without max_hours
};

}  // namespace llmtrain
