// The order of a save's system calls, on all ranks together. SIGKILL leaves the page cache alone, so no kill shows a missing fsync; a loss of power would.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <sstream>

#include "checkpoint/saver.h"
#include "checkpoint/support.h"
#include "core/error.h"
#include "core/file.h"
#include "faults/save_scenario.h"

namespace llmtrain {
namespace {

using namespace testing_support;

struct Call {
  std::string name, path;
};

bool is_write(const Call& c) { return c.name == "write" || c.name == "pwrite"; }
bool is_rename(const Call& c) { return c.name.starts_with("rename"); }
bool is_removal(const Call& c) { return c.name == "unlink" || c.name == "unlinkat" || c.name == "rmdir"; }

class Trace {
 public:
  Trace(SaveScenario& scenario, const SaveKind& kind) {
    scenario.fresh();
    // One more than save_total_limit allows, as a run finds it that was started with a lower limit: it stays until the new one is safe, too.
    std::filesystem::copy(scenario.folder() + "/checkpoint-1", scenario.folder() + "/checkpoint-0", std::filesystem::copy_options::recursive);
    const std::string file = scenario.folder() + ".trace";
    std::filesystem::remove(file);
    const JobOutcome outcome = run_job(kJobRanks, scenario.save(kind, [&](JobRank& r) {
      io_shim_rule rule = scenario.rule(kind, io_shim_all, 0, io_shim_count);
      std::snprintf(rule.trace, sizeof rule.trace, "%s", file.c_str());
      r.arm(rule);
    }));
    EXPECT_TRUE(outcome.all_done()) << outcome.text();
    std::istringstream lines(read_file(file));
    for (Call c; lines >> c.name && std::getline(lines >> std::ws, c.path);) calls_.push_back(c);
  }
  // Index of the first or last such call; -1: there is none.
  template <class Is>
  int first(const Is& is) const {
    const auto it = std::find_if(calls_.begin(), calls_.end(), is);
    return it == calls_.end() ? -1 : static_cast<int>(it - calls_.begin());
  }
  template <class Is>
  int last(const Is& is) const {
    const auto it = std::find_if(calls_.rbegin(), calls_.rend(), is);
    return it == calls_.rend() ? -1 : static_cast<int>(calls_.rend() - it) - 1;
  }
  int synced_after(int index, const std::string& path) const {
    for (size_t i = static_cast<size_t>(index) + 1; i < calls_.size(); ++i) {
      if (calls_[i].name == "fsync" && calls_[i].path == path) return static_cast<int>(i);
    }
    return -1;
  }
  const std::vector<Call>& calls() const { return calls_; }

 private:
  std::vector<Call> calls_;
};

TEST(SaveFaults, NothingGetsItsNameBeforeItIsOnTheDiskAndNothingOldGoesBeforeThat) {
  SaveScenario scenario;
  for (const SaveKind& kind : kSaveKinds) {
    const Trace trace(scenario, kind);
    const std::string out = scenario.folder(), temporary = out + "/checkpoint-" + std::to_string(kind.step()) + ".tmp", manifest = temporary + "/manifest.json";
    const int named = trace.last([&](const Call& c) { return is_rename(c) && c.path == temporary; });
    ASSERT_GE(named, 0) << kind.name;
    // Every file, and then the folder, before the folder gets its name.
    std::set<std::string> files;
    for (const Call& c : trace.calls()) {
      if (is_write(c) && c.path.starts_with(temporary + "/")) files.insert(c.path);
    }
    EXPECT_EQ(files.size(), 6u) << kind.name << ": two shards, index, two side files, manifest";
    for (const std::string& file : files) {
      const int written = trace.last([&](const Call& c) { return is_write(c) && c.path == file; }), synced = trace.synced_after(written, file);
      EXPECT_TRUE(synced >= 0 && synced < named) << kind.name << ": " << file << " is not on the disk when the checkpoint gets its name";
      // The manifest says that all others are whole.
      const int vouched = trace.first([&](const Call& c) { return c.name == "open" && c.path == manifest; });
      if (file == manifest) continue;
      EXPECT_LT(synced, vouched) << kind.name << ": the manifest is written before " << file << " is on the disk";
    }
    const int made = trace.last([&](const Call& c) { return c.name == "open" && c.path.starts_with(temporary + "/"); });
    const int folder = trace.synced_after(made, temporary);
    EXPECT_TRUE(folder >= 0 && folder < named) << kind.name << ": the folder's entries are not on the disk when it gets its name";
    // The name itself, then `latest`, and only then is anything old touched.
    const int lasting = trace.synced_after(named, out);
    ASSERT_GE(lasting, 0) << kind.name << ": the new name is not on the disk";
    const int latest = trace.first([&](const Call& c) { return is_rename(c) && c.path.find("/latest.tmp") != std::string::npos; });
    EXPECT_GT(latest, lasting) << kind.name;
    const int latest_written = trace.last([&](const Call& c) { return is_write(c) && c.path.find("/latest.tmp") != std::string::npos; });
    ASSERT_GE(latest_written, 0) << kind.name;
    const int latest_synced = trace.synced_after(latest_written, trace.calls()[static_cast<size_t>(latest_written)].path);
    EXPECT_TRUE(latest_synced >= 0 && latest_synced < latest) << kind.name << ": latest is not on the disk when it gets its name";
    const int touched = trace.first([&](const Call& c) {
      const bool old = c.path.starts_with(out + "/checkpoint-") && !c.path.starts_with(temporary);
      const bool makes_way = kind.no_exchange && is_rename(c) && c.path == out + "/checkpoint-2";
      return old && !makes_way && (is_removal(c) || is_rename(c));
    });
    EXPECT_GT(touched, 0) << kind.name << ": nothing was pruned";
    EXPECT_GT(touched, latest) << kind.name << ": " << trace.calls()[static_cast<size_t>(std::max(touched, 0))].path << " goes before the new one is safe";
  }
}

// One rank's disk is slower. Ranks that committed at different steps would meet in different collectives.
TEST(SaveFaults, AnAsynchronousSaveIsCommittedAtTheSameStepOnEveryRank) {
  SaveScenario scenario;
  scenario.fresh();
  const auto train = [&](JobRank& r) {
    RankGroup& group = r.group();
    Log log{group.rank(), false};
    const CheckpointContent content = small_content(group.size());
    CheckpointSaver saver({scenario.folder(), "run", "build", true, 2}, content, group, log);
    if (group.rank() == 1) r.arm(scenario.rule(kSaveKinds[1], io_shim_write, 1, io_shim_delay, 100));
    saver.start(3, [&](ShardImage& image) { fill_image(image, content, group.rank(), 3); }, Json{{"mark", 3}}, {});
    int64_t committed = 0;
    const auto same_everywhere = [&](int64_t mine, const char* what) {
      std::vector<int64_t> all(static_cast<size_t>(group.size()));
      group.all_gather(&mine, all.data(), sizeof mine);
      for (const int64_t theirs : all) {
        if (theirs != mine) throw OperationError(std::string(what) + ": " + std::to_string(theirs) + " on one rank, " + std::to_string(mine) + " on another");
      }
    };
    for (int64_t step = 1; committed == 0; ++step) {
      same_everywhere(step, "the step");  // what training says to the other ranks
      ::usleep(2000);
      if (saver.poll()) committed = step;
    }
    same_everywhere(committed, "the step of the commit");
    if (committed < 5) throw OperationError("the delay did not work");
  };
  const JobOutcome outcome = run_job(kJobRanks, train);
  EXPECT_TRUE(outcome.all_done()) << outcome.text();
}

}  // namespace
}  // namespace llmtrain
