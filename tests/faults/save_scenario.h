// The scene of the fault tests: an output folder with checkpoint-1 and checkpoint-2 of two ranks (save_total_limit 2), in which a job of two ranks saves
// once more while something goes wrong; and the judgement of what is left.
#pragma once

#include <string>

#include "checkpoint/manifest.h"
#include "faults/forked_ranks.h"
#include "support/shared.h"

namespace llmtrain::testing_support {

inline constexpr int kJobRanks = 2;

struct SaveKind {
  const char* name;
  bool asynchronous = false;
  bool replaces = false;     // saves step 2 again, with other values, instead of step 3
  bool no_exchange = false;  // on a file system that cannot exchange two names
  int64_t step() const { return replaces ? 2 : 3; }
};

inline constexpr SaveKind kSaveKinds[] = {{"save"}, {"asynchronous save", true}, {"replacing save", false, true}, {"replacing save, no exchange", false, true, true}};

class SaveScenario {
 public:
  SaveScenario();
  // A fresh copy of the scene; the copy before is removed.
  const std::string& fresh();
  const std::string& folder() const { return folder_; }

  // A rank's part in the save. `before` runs when all is set up and nothing written; `snapshot` while the state is copied.
  using Hook = std::function<void(JobRank&)>;
  RankWork save(const SaveKind& kind, Hook before = nullptr, Hook snapshot = nullptr) const;
  // The rule with this scene's folder.
  io_shim_rule rule(const SaveKind& kind, int calls, long at, int action, int error = 0) const;
  // I/O calls below the folder, and collectives, that an undisturbed save makes on `rank`.
  RankOutcome count(const SaveKind& kind, int rank);

  // "" or what is wrong with what the job left: each checkpoint must be whole, bit for bit; the newest that a run would take must be the one before or the
  // new one, and the new one if the job said so. Afterwards a further save must succeed and leave nothing behind (`next_run`).
  std::string judge(const SaveKind& kind, const JobOutcome& outcome, bool next_run);
  // Jobs after which a run would go on from the new checkpoint, and all that were judged.
  int committed() const { return committed_; }
  int judged() const { return judged_; }

 private:
  std::string judge_next_run();
  ScratchFolder scratch_;
  std::string folder_;
  int committed_ = 0, judged_ = 0;
};

// "" or the first element of a checkpoint that is not what its save put there.
std::string wrong_value(const std::string& folder, const Manifest& manifest);
bool any_leftovers(const std::string& folder);

}  // namespace llmtrain::testing_support
