// SIGKILL of each rank at each I/O call, in each named phase, at each collective and at random moments of a save: what is left is the old checkpoint or the
// new one, bit for bit, and the next run saves over the debris.
//
// LLMTRAIN_FAULTS_FULL: the full number of random kills, and kills after each call too (make test-slow). Without it a kill after a call is left to the one
// before the next call, which finds the same on the disk unless the other rank was quick.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <random>

#include "faults/save_scenario.h"

namespace llmtrain {
namespace {

using namespace testing_support;

bool full() { return std::getenv("LLMTRAIN_FAULTS_FULL") != nullptr; }

// Judges the jobs that were killed; the next run is tried after each.
class Judge {
 public:
  explicit Judge(SaveScenario& scenario) : scenario_(scenario) {}
  void operator()(const SaveKind& kind, const JobOutcome& outcome, const std::string& where) {
    const std::string fault = scenario_.judge(kind, outcome, true);
    EXPECT_EQ(fault, "") << kind.name << ", " << where << ": " << outcome.text();
    bad_ += !fault.empty();
    for (const RankOutcome& r : outcome.ranks) {
      if (r.signal == 0) continue;
      ++kills_;
      return;
    }
  }
  int kills() const { return kills_; }
  void report(const char* what) const {
    std::printf("%d SIGKILLs %s: %d unusable or wrong states; a run would go on from the new checkpoint after %d of the jobs, from the one before after %d\n", kills_, what, bad_,
                scenario_.committed(), scenario_.judged() - scenario_.committed() - bad_);
  }

 private:
  SaveScenario& scenario_;
  int kills_ = 0, bad_ = 0;
};

bool any_killed(const JobOutcome& outcome) {
  for (const RankOutcome& r : outcome.ranks) {
    if (r.signal != 0) return true;
  }
  return false;
}

TEST(Kills, AtEveryIoCallOfEveryRank) {
  SaveScenario scenario;
  Judge judge(scenario);
  for (const SaveKind& kind : kSaveKinds) {
    for (int rank = 0; rank < kJobRanks; ++rank) {
      const long calls = scenario.count(kind, rank).calls;
      for (const int action : {io_shim_kill_before, io_shim_kill_half, io_shim_kill_after}) {
        if (action == io_shim_kill_after && !full()) continue;
        const int which = action == io_shim_kill_half ? io_shim_write : io_shim_all;  // half of something else is the same as before it
        for (long k = 1; k <= calls; ++k) {
          scenario.fresh();
          const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, [&](JobRank& r) {
            if (r.group().rank() == rank) r.arm(scenario.rule(kind, which, k, action));
          }));
          if (!any_killed(outcome) && action == io_shim_kill_half) break;  // no more writes
          EXPECT_TRUE(any_killed(outcome)) << outcome.text();
          judge(kind, outcome, "action " + std::to_string(action) + " at call " + std::to_string(k) + " of rank " + std::to_string(rank));
        }
      }
    }
  }
  judge.report(full() ? "at every I/O call of every rank (before, half-way through a write, after)" : "at every I/O call of every rank (before, half-way through a write)");
}

// The phases by the protocol in saver.h. `path` is a part of the path the call works on.
struct Phase {
  const char* name;
  int call;
  const char* path;
  int rank;       // whose call it is
  bool replaces = false;
  bool no_exchange = false;
};

constexpr Phase kPhases[] = {
    {"the .tmp folder is made", io_shim_mkdir, "checkpoint-3.tmp", 0},
    {"rank 0 opens its shard", io_shim_open, "shard-00000", 0},
    {"rank 0 writes its shard", io_shim_write, "shard-00000", 0},
    {"rank 0 syncs its shard", io_shim_fsync, "shard-00000", 0},
    {"rank 1 opens its shard", io_shim_open, "shard-00001", 1},
    {"rank 1 writes its shard", io_shim_write, "shard-00001", 1},
    {"rank 1 syncs its shard", io_shim_fsync, "shard-00001", 1},
    {"index.h5 is written", io_shim_write, "index.h5", 0},
    {"trainer_state.json is written", io_shim_write, "trainer_state.json", 0},
    {"the manifest is written", io_shim_write, "manifest.json", 0},
    {"the manifest is synced", io_shim_fsync, "manifest.json", 0},
    {"the folder gets its name", io_shim_rename, "checkpoint-3.tmp", 0},
    {"the folder takes the old one's place", io_shim_rename, "checkpoint-2.tmp", 0, true},
    {"the old one makes way", io_shim_rename, "out/checkpoint-2", 0, true, true},
    {"latest is written", io_shim_write, "latest.tmp", 0},
    {"latest gets its name", io_shim_rename, "latest.tmp", 0},
    {"the oldest one is renamed away", io_shim_rename, "checkpoint-1", 0},
    {"the oldest one is removed", io_shim_unlink, "checkpoint-1.old.tmp", 0},
    {"the replaced one is removed", io_shim_unlink, "checkpoint-2.tmp", 0, true},
};

TEST(Kills, OfEachRankInEachNamedPhase) {
  SaveScenario scenario;
  Judge judge(scenario);
  for (const Phase& phase : kPhases) {
    for (int victim = 0; victim < kJobRanks; ++victim) {
      for (const bool asynchronous : {false, true}) {
        for (const int action : {io_shim_kill_before, io_shim_kill_after}) {
          const SaveKind kind{phase.name, asynchronous, phase.replaces, phase.no_exchange};
          scenario.fresh();
          const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, [&](JobRank& r) {
            if (r.group().rank() != phase.rank) return;
            io_shim_rule rule = scenario.rule(kind, phase.call, 1, action);
            std::snprintf(rule.part, sizeof rule.part, "%s", phase.path);
            rule.victim = victim == phase.rank ? 0 : r.process_of(victim);
            r.arm(rule);
          }));
          EXPECT_TRUE(any_killed(outcome)) << phase.name << " did not happen: " << outcome.text();
          judge(kind, outcome, "rank " + std::to_string(victim) + " killed");
        }
      }
    }
  }
  for (const SaveKind& kind : kSaveKinds) {
    for (int victim = 0; victim < kJobRanks; ++victim) {
      scenario.fresh();
      const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, nullptr, [victim](JobRank& r) {
        if (r.group().rank() == victim) r.kill(victim);
      }));
      judge(kind, outcome, "rank " + std::to_string(victim) + " killed while it copies its state");
    }
  }
  judge.report("of each rank in each of 20 named phases (before and after its system call)");
}

TEST(Kills, OfEachRankAtEveryCollective) {
  SaveScenario scenario;
  Judge judge(scenario);
  for (const SaveKind& kind : kSaveKinds) {
    for (int victim = 0; victim < kJobRanks; ++victim) {
      // An asynchronous save polls, so its number of collectives varies: up to those of a plain one, which it has at least.
      const long collectives = scenario.count(kind.asynchronous ? kSaveKinds[0] : kind, 0).collectives;
      for (int from = 0; from < kJobRanks; ++from) {
        for (long n = 1; n <= collectives; ++n) {
          scenario.fresh();
          const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, [&](JobRank& r) {
            if (kind.no_exchange) r.arm(scenario.rule(kind, io_shim_all, 0, io_shim_count));
            if (r.group().rank() == from) r.kill_at_collective(victim, n);
          }));
          judge(kind, outcome, "rank " + std::to_string(victim) + " killed as rank " + std::to_string(from) + " enters collective " + std::to_string(n));
        }
      }
    }
  }
  judge.report("of each rank at every collective");
}

TEST(Kills, AtRandomMoments) {
  const int wanted = full() ? 2000 : 60;
  SaveScenario scenario;
  std::mt19937 random(std::random_device{}());
  // How long an undisturbed job takes, so that the kills fall all over it.
  scenario.fresh();
  const auto begin = std::chrono::steady_clock::now();
  run_job(kJobRanks, scenario.save(kSaveKinds[0]));
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
  Judge judge(scenario);
  for (int tried = 0; judge.kills() < wanted && tried < 5 * wanted; ++tried) {
    const SaveKind& kind = kSaveKinds[random() % std::size(kSaveKinds)];
    scenario.fresh();
    JobOptions options;
    options.kill_all_after = std::chrono::microseconds(static_cast<long>(random() % static_cast<unsigned long>(whole * 5 / 4)));
    const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind), options);
    judge(kind, outcome, "killed after " + std::to_string(options.kill_all_after.count()) + " us");
  }
  EXPECT_EQ(judge.kills(), wanted);
  judge.report("at random moments");
}

}  // namespace
}  // namespace llmtrain
