// A whole training run: from a checked configuration to the files of output_dir.
//
// Set-up comes first and changes nothing but the token store: whatever is wrong is found by all ranks together and raised as the same InputError on each.
// Thread rules: collective; one thread.
#pragma once

#include <string>
#include <vector>

#include "comm/context.h"
#include "config/config.h"
#include "core/log.h"

namespace llmtrain {

class StopRequest;
class Watchdog;

struct RunRequest {
  Config config;                   // checked (check_trainable), batch sizes resolved for this number of ranks
  std::vector<std::string> notes;  // accepted without effect: logged once
  std::string version;             // the block of `llmtrain --version`, kept beside the results
  std::string trace;               // file for a trace of the training steps (train/trace.h), "" for none
  const StopRequest* stop = nullptr;  // not null
  Watchdog* watchdog = nullptr;       // null on a single rank
};

// What fails on this rank (not wrong input, which all ranks have agreed on) is dumped by the watchdog and thrown; the engine is then left as it is.
// kExitDone, or kExitStopped where the run was asked to stop (a signal, max_hours) and left a checkpoint to go on from; kExitFailed where save_only_model
// left none.
int run_training(MpiRuntime& mpi, RankGroup& group, const RunRequest& request, Log& log);

}  // namespace llmtrain
