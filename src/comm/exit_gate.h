// ExitGate: the ranks of a node leave the program together. After MPI_Finalize no rank waits for another, and the launcher waits for every process: one that is
// stopped then, or hangs in some library's last act, would keep the job for ever. So each rank waits here until the others of its node have come as far,
// or are gone; and ends the job after a while if one has not.
//
// The ranks see each other in a page of shared memory. Where that cannot be had (another container, /proc closed), nobody is waited for.
// Thread rules: construct and leave() on the main thread.
#pragma once

#include <memory>
#include <string>

#include "core/rank_group.h"

namespace llmtrain {

class ExitGate {
 public:
  // Collective. `host`: of this rank. Nothing is waited for and nothing can fail in a group of one.
  ExitGate(RankGroup& group, const std::string& host);
  ~ExitGate();
  ExitGate(const ExitGate&) = delete;
  ExitGate& operator=(const ExitGate&) = delete;

  // Once, as the last thing that a rank does; makes no MPI call. Returns when the others of the node have called it or are gone. After `seconds` a message that
  // names who has not, and exit code 1.
  void leave(double seconds);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmtrain
