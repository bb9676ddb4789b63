// Each I/O call of a save failing, falling short or being interrupted, one after the other, on each rank: an error that names path and errno or a good
// save, never a crash, and the checkpoints before are as they were.
//
// LLMTRAIN_FAULTS_FULL: every kind of error at every call (make test-slow); otherwise one that comes once and one that stays, at every call all the same.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "faults/save_scenario.h"

namespace llmtrain {
namespace {

using namespace testing_support;

struct Fault {
  const char* name;
  int action, error;
  bool persists;
  int calls;
  bool always = true;  // not only in the full run
};

constexpr Fault kErrors[] = {{"EIO", io_shim_error, EIO, false, io_shim_all},
                             {"ENOSPC", io_shim_error, ENOSPC, false, io_shim_all, false},
                             {"EDQUOT", io_shim_error, EDQUOT, false, io_shim_all, false},
                             {"ENOSPC from there on", io_shim_error, ENOSPC, true, io_shim_all},
                             {"EIO from there on", io_shim_error, EIO, true, io_shim_all, false}};
constexpr Fault kSurvived[] = {{"EINTR", io_shim_error, EINTR, false, io_shim_interruptible}, {"short write", io_shim_short, 0, false, io_shim_write}};

// Calls whose failure does not matter to a save: they remove what is no longer wanted, or look whether there is something to remove.
bool is_tidying(const std::string& acted) {
  const std::string call = acted.substr(0, acted.find(' ')), path = acted.substr(std::min(acted.size(), call.size() + 1));
  if (call == "unlink" || call == "unlinkat" || call == "rmdir") return true;
  if (call == "rename" && path.ends_with("/checkpoint-1")) return true;                  // pruning
  const bool folder = path.ends_with(".tmp") || path.ends_with("/out") || path.ends_with(".replaced");
  return folder && (call == "openat" || call == "close");  // the folder that remove_all walks; a descriptor of a folder, after its fsync
}

class Sweep {
 public:
  // One save for each k on each rank. Returns the number of injections.
  int run(SaveScenario& scenario, const SaveKind& kind, const Fault& fault) {
    int injections = 0;
    for (int rank = 0; rank < kJobRanks; ++rank) {
      const long calls = calls_of(scenario, kind, rank, fault.calls);
      for (long k = 1; k <= calls; ++k) {
        scenario.fresh();
        const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, [&](JobRank& r) {
          io_shim_rule rule = scenario.rule(kind, fault.calls, r.group().rank() == rank ? k : 0, fault.action, fault.error);
          rule.persist = fault.persists;
          r.arm(rule);
        }));
        judge(scenario, kind, fault, rank, k, outcome);
        ++injections;
      }
    }
    return injections;
  }
  int failed = 0, tidying = 0, survived = 0;

 private:
  static long calls_of(SaveScenario& scenario, const SaveKind& kind, int rank, int calls) {
    scenario.fresh();
    const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, [&](JobRank& r) { r.arm(scenario.rule(kind, calls, 0, io_shim_count)); }));
    EXPECT_TRUE(outcome.all_done()) << outcome.text();
    return outcome.ranks[static_cast<size_t>(rank)].calls;
  }

  void judge(SaveScenario& scenario, const SaveKind& kind, const Fault& fault, int rank, long k, const JobOutcome& outcome) {
    const std::string where = std::string(kind.name) + ", " + fault.name + ", call " + std::to_string(k) + " of rank " + std::to_string(rank) + ": " + outcome.text();
    EXPECT_EQ(scenario.judge(kind, outcome, false), "") << where;
    const std::string& acted = outcome.ranks[static_cast<size_t>(rank)].acted;
    EXPECT_NE(acted, "") << where;
    if (outcome.all_done()) {
      const bool survives = fault.action == io_shim_short || fault.error == EINTR;
      EXPECT_TRUE(survives || is_tidying(acted)) << "a failed call went unnoticed: " << where;
      ++(survives ? survived : tidying);
      return;
    }
    EXPECT_TRUE(fault.action == io_shim_error && fault.error != EINTR) << where;
    for (const RankOutcome& r : outcome.ranks) {
      EXPECT_EQ(r.exit_code, 1) << "every rank has to learn of it: " << where;
      EXPECT_NE(r.error.find(std::strerror(fault.error)), std::string::npos) << where;
      EXPECT_NE(r.error.find(scenario.folder()), std::string::npos) << where;
    }
    if (!fault.persists) {
      EXPECT_FALSE(std::filesystem::exists(scenario.folder() + "/checkpoint-" + std::to_string(kind.step()) + ".tmp")) << where;
    }
    ++failed;
  }
};

TEST(SaveFaults, EachFailingCallIsAnErrorWithPathAndErrnoAndTheCheckpointBeforeIsIntact) {
  const bool full = std::getenv("LLMTRAIN_FAULTS_FULL") != nullptr;
  SaveScenario scenario;
  for (const SaveKind& kind : kSaveKinds) {
    Sweep sweep;
    int injections = 0;
    for (const Fault& fault : kErrors) {
      if (full || fault.always) injections += sweep.run(scenario, kind, fault);
    }
    std::printf("%s: %d failing calls injected: %d ended the save with an error that names path and errno, "
                "%d concerned only the removal of what is not needed any more\n", kind.name, injections, sweep.failed, sweep.tidying);
    EXPECT_GT(sweep.failed, injections / 2);
  }
}

TEST(SaveFaults, InterruptedCallsAndShortWritesAreSurvived) {
  SaveScenario scenario;
  for (const SaveKind& kind : kSaveKinds) {
    Sweep sweep;
    int injections = 0;
    for (const Fault& fault : kSurvived) injections += sweep.run(scenario, kind, fault);
    std::printf("%s: %d interrupted calls and short writes, %d survived\n", kind.name, injections, sweep.survived);
    EXPECT_EQ(sweep.survived, injections);
  }
}

}  // namespace
}  // namespace llmtrain
