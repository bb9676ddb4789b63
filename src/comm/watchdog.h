// Watchdog: a thread that notices when this rank makes no progress, writes down why, and ends the process, so that a job never hangs.
//
// It looks at the flight recorders of the rank's communicators twice a second and makes no MPI, CUDA or HDF5 call. No progress means: one collective has
// been under way, or no collective has moved and nothing was reported by progress(), for longer than the timeout. Then it
//   1. writes DIR/rank-00003.json: rank, host, phase, step, the last collectives, the stacks of all threads, resident memory;
//   2. waits a moment for the dumps of the others (ranks that wait for the same one run out at the same time);
//   3. names the laggard, from all dumps that are there (diagnosis.h), on stderr;
//   4. aborts the communicators (NCCL's kernels would wait on the GPU for ever), for three seconds at most;
//   5. ends the process with code 1, by which the launcher ends the job.
// A rank that is stopped or dead writes no dump: that is how it is known.
//
// Some phases take as long as a disk or the data needs (set-up, saving, the export): there the clock stands still, but a rank of the same node that is
// stopped (SIGSTOP) for longer than the timeout is seen all the same, in /proc, and the job ends in the same way.
// A rank that fails (an exception) leaves a dump with the error by failed(); the others of its node are told, write theirs, and end too.
//
// Thread rules: construct, watch(), forget() and destroy on the main thread; progress() and pause() from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace llmtrain {

class FlightRecorder;

struct WatchdogOptions {
  double timeout_seconds = 600;
  std::string dump_dir;  // made when it is needed
  std::string host;
};

class Watchdog {
 public:
  // Collective: the ranks tell each other their processes. `recorder`: of the group itself, may be null. The clock stands still until progress().
  Watchdog(WatchdogOptions options, RankGroup& group, const FlightRecorder* recorder);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Their collectives count from here on; until forget(), which must come before they go.
  void watch(std::vector<Communicator*> communicators);
  void forget();
  // The rank is alive and in this phase ("training", "evaluation") of this step; starts the clock. `phase` must be a string literal.
  void progress(const char* phase, int64_t step);
  // While something that may take long and is nobody's fault goes on: the clock stands still. `phase` must be a string literal.
  void pause(const char* phase);
  void resume();
  // This rank ends with an error: writes its dump, tells the others and waits two seconds at most until they have written theirs. `heard`: the error is
  // another rank's. Nothing happens before watch().
  void failed(const std::string& error, bool heard);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// pause() and resume() around a block; `watchdog` may be null.
class WatchdogPause {
 public:
  WatchdogPause(Watchdog* watchdog, const char* phase) : watchdog_(watchdog) {
    if (watchdog_) watchdog_->pause(phase);
  }
  ~WatchdogPause() {
    if (watchdog_) watchdog_->resume();
  }
  WatchdogPause(const WatchdogPause&) = delete;
  WatchdogPause& operator=(const WatchdogPause&) = delete;

 private:
  Watchdog* watchdog_;
};

// The stacks of all threads of this process as text lines "thread 1234 (name): frame < frame …". Uses a real-time signal; a thread that does not answer
// within a second is named as such.
std::vector<std::string> stacks_of_all_threads();

}  // namespace llmtrain
