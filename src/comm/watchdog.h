// Watchdog: a thread that notices when this rank makes no progress, writes down why, and ends the process, so that a job never hangs.
//
// It looks at the flight recorders of the rank's communicators twice a second and makes no MPI, CUDA or HDF5 call. No progress means: a collective has been
// under way, or nothing was reported by progress(), for longer than the timeout. Then it
//   1. writes DIR/rank-00003.json: rank, host, phase, step, the last collectives, the stacks of all threads, resident memory;
//   2. waits a moment for the dumps of the others (ranks that wait for the same one run out at the same time);
//   3. names the laggard, from all dumps that are there (diagnosis.h), on stderr;
//   4. ends the process with code 1, by which the launcher ends the job.
// A rank that is stopped or dead writes no dump: that is how it is known.
//
// Thread rules: construct and destroy on the main thread; progress() and pause() from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/flight_recorder.h"

namespace llmtrain {

struct WatchdogOptions {
  double timeout_seconds = 600;
  std::string dump_dir;  // made when it is needed
  int rank = 0, size = 1;
  std::string host;
};

class Watchdog {
 public:
  Watchdog(WatchdogOptions options, std::vector<const FlightRecorder*> recorders);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // The rank is alive and in this phase ("forward", "evaluation", "export") of this step. `phase` must be a string literal.
  void progress(const char* phase, int64_t step);
  // While something that may take long and is nobody's fault goes on (a save that a slow disk delays): the clock stands still.
  void pause(bool on);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The stacks of all threads of this process as text lines "thread 1234 (name): frame < frame …". Uses a real-time signal; a thread that does not answer
// within a second is named as such.
std::vector<std::string> stacks_of_all_threads();

}  // namespace llmtrain
