// Ranks as forked processes of a test, with a RankGroup over memory that they share: hundreds of jobs that are killed, in seconds. When a rank dies by a
// signal the others are killed a moment later, as mpirun does.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/rank_group.h"
#include "faults/io_shim.h"

namespace llmtrain::testing_support {

struct RankOutcome {
  int exit_code = -1;  // 0 done, 1 OperationError, 2 InputError; -1: ended by `signal`
  int signal = 0;
  std::string error;   // the text of the exception
  std::string acted;   // what the shim did something to
  long calls = 0;      // I/O calls that the shim counted
  long collectives = 0;
};

struct JobOutcome {
  std::vector<RankOutcome> ranks;
  bool hung = false;  // not over within the limit: killed, and a fault of the program
  bool all_done() const;
  bool crashed() const;  // by another signal than SIGKILL
  std::string text() const;
};

// What a rank finds: the group, and the means to be killed at a place that is no I/O call.
class JobRank {
 public:
  virtual ~JobRank() = default;
  virtual RankGroup& group() = 0;
  virtual int process_of(int rank) const = 0;
  virtual void kill(int rank) = 0;                            // SIGKILL, and back when it is gone (or never)
  virtual void kill_at_collective(int victim, long n) = 0;    // when this rank enters its n-th collective
  virtual void arm(const io_shim_rule& rule) = 0;
};

struct JobOptions {
  std::chrono::milliseconds limit{10000};
  std::chrono::microseconds kill_all_after{-1};  // since the start of the job; negative: never
  std::chrono::microseconds others_live_on{500};  // after the death of one
};

using RankWork = std::function<void(JobRank& rank)>;
JobOutcome run_job(int size, const RankWork& work, const JobOptions& options = {});

// Starts the program again under LD_PRELOAD if the shim is not there yet. First thing in main().
void need_io_shim(char** argv);

}  // namespace llmtrain::testing_support
