// Running a command on all ranks of a launcher, and ending all of them with one message and one exit code.
#pragma once

#include <functional>

#include "app/app.h"
#include "comm/context.h"

namespace llmtrain {

// Starts MPI (where a launcher is), calls `work` and finalises MPI. What `work` throws ends every rank:
//   InputError, NotHere   all ranks have agreed (run_on_all_or_fail): one message from rank 0, then all leave together with its exit code. Should a
//                         rank be alone with its error after all, it says so itself and ends the others after kAgreementSeconds.
//   anything else         an operation failed, perhaps on this rank alone: the message, then MPI_Abort.
// Returns the ExitCode of `work`, which is the same on all ranks, or that of its error.
struct RanksOptions {
  // MPI_Init and MPI_Finalize that take longer (a rank is stopped, a node cannot be reached), and a rank of the node that has not left so long after the
  // others, end the process with a message.
  double patience_seconds = 600;
  // Called once the ranks have met, within the same time.
  std::function<void(MpiRuntime& mpi, RankGroup& group)> prepare;
};
int run_on_ranks(App& app, const std::function<int(MpiRuntime& mpi, RankGroup& group)>& work, const RanksOptions& options = {});

}  // namespace llmtrain
