#include "faults/save_scenario.h"

#include <unistd.h>

#include <cstdio>

#include "checkpoint/reader.h"
#include "checkpoint/resume.h"
#include "checkpoint/saver.h"
#include "checkpoint/support.h"
#include "core/error.h"

namespace llmtrain::testing_support {
namespace fs = std::filesystem;
namespace {

// `mark` goes into the values and into the state: both must come from the same save.
void save_once(JobRank& rank, const std::string& folder, int64_t step, int64_t mark, bool asynchronous, const SaveScenario::Hook& before, const SaveScenario::Hook& snapshot) {
  Log log{rank.group().rank(), false};
  const CheckpointContent content = small_content(rank.group().size());
  CheckpointSaver saver({folder, "run", "build", asynchronous, 2}, content, rank.group(), log);
  if (before) before(rank);
  const auto fill = [&](ShardImage& image) {
    if (snapshot) snapshot(rank);
    fill_image(image, content, rank.group().rank(), mark);
  };
  saver.start(step, fill, Json{{"mark", mark}}, {{"trainer_state.json", "{}\n"}, {"config.json", "{\"model_type\": \"llama\"}\n"}});
  while (saver.under_way() && !saver.poll()) ::usleep(100);
  rank.group().barrier();  // ranks train on together: none is gone while rank 0 still prunes
}

constexpr int64_t kNewMark = 7;

}  // namespace

SaveScenario::SaveScenario() {
  const std::string origin = scratch_ / "origin";
  fs::create_directory(origin);
  const JobOutcome made = run_job(kJobRanks, [&](JobRank& rank) {
    for (const int64_t step : {1, 2}) save_once(rank, origin, step, step, false, nullptr, nullptr);
  });
  if (!made.all_done()) throw std::runtime_error("the scene could not be made: " + made.text());
}

const std::string& SaveScenario::fresh() {
  folder_ = fs::canonical(scratch_.path()).string() + "/out";
  fs::remove_all(folder_);
  fs::copy(scratch_ / "origin", folder_, fs::copy_options::recursive);
  return folder_;
}

RankWork SaveScenario::save(const SaveKind& kind, Hook before, Hook snapshot) const {
  return [=, folder = folder_](JobRank& rank) { save_once(rank, folder, kind.step(), kNewMark, kind.asynchronous, before, snapshot); };
}

io_shim_rule SaveScenario::rule(const SaveKind& kind, int calls, long at, int action, int error) const {
  io_shim_rule r{};
  std::snprintf(r.folder, sizeof r.folder, "%s", folder_.c_str());
  r.calls = calls;
  r.at = at;
  r.action = action;
  r.error = error;
  r.no_exchange = kind.no_exchange;
  return r;
}

RankOutcome SaveScenario::count(const SaveKind& kind, int rank) {
  fresh();
  const JobOutcome outcome = run_job(kJobRanks, save(kind, [&](JobRank& r) { r.arm(rule(kind, io_shim_all, 0, io_shim_count)); }));
  if (!outcome.all_done()) throw std::runtime_error("an undisturbed save failed: " + outcome.text());
  if (const std::string fault = judge(kind, outcome, false); !fault.empty()) throw std::runtime_error(fault);
  --judged_;  // nothing was done to this one
  --committed_;
  return outcome.ranks[static_cast<size_t>(rank)];
}

std::string wrong_value(const std::string& folder, const Manifest& manifest) {
  const int64_t mark = manifest.state["mark"].get<int64_t>();
  CheckpointReader reader(folder, manifest);
  for (int u = 0; u < static_cast<int>(manifest.content.units.size()); ++u) {
    const StoredUnit& unit = manifest.content.units[static_cast<size_t>(u)];
    for (const StoredArray& a : unit.arrays) {
      for (const StoredTensor& t : unit.tensors) {
        if (t.trained != a.trained) continue;
        std::vector<float> values(static_cast<size_t>(t.shape.elements()));
        reader.read_tensor(unit, t, a, 0, t.shape.elements(), values.data());
        for (size_t i = 0; i < values.size(); ++i) {
          if (values[i] != value_of(u, a.name, t.offset + static_cast<int64_t>(i), mark)) return folder + ": " + t.name + " " + a.name + " element " + std::to_string(i);
        }
      }
    }
  }
  return "";
}

bool any_leftovers(const std::string& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.find(".tmp") != std::string::npos || name.ends_with(kReplacedSuffix)) return true;
  }
  return false;
}

std::string SaveScenario::judge(const SaveKind& kind, const JobOutcome& outcome, bool next_run) {
  ++judged_;
  if (outcome.hung || outcome.crashed()) return outcome.text();
  SoloGroup solo;
  Log log{0, false};
  try {
    const auto found = find_checkpoint(folder_, solo, log);
    if (!found) return "no checkpoint at all is left";
    const int64_t mark = found->manifest.state["mark"].get<int64_t>(), step = found->manifest.step;
    const bool is_new = mark == kNewMark;
    if (step != (is_new ? kind.step() : 2) || (!is_new && mark != 2)) return "a run would go on from step " + std::to_string(step) + ", mark " + std::to_string(mark);
    if (outcome.all_done() && !is_new) return "the job reported success, but the new checkpoint is not there";
    committed_ += is_new;
    for (const auto& [s, path] : list_checkpoints(folder_)) {
      const FoundCheckpoint each = open_checkpoint(path, solo);
      if (const std::string wrong = wrong_value(path, each.manifest); !wrong.empty()) return wrong;
    }
    if (!fs::exists(folder_ + "/checkpoint-2/manifest.json")) return "checkpoint-2 is gone";
  } catch (const std::exception& e) {
    return std::string("not usable: ") + e.what();
  }
  return next_run ? judge_next_run() : "";
}

std::string SaveScenario::judge_next_run() {
  const JobOutcome next = run_job(kJobRanks, [folder = folder_](JobRank& rank) { save_once(rank, folder, 9, 9, false, nullptr, nullptr); });
  if (!next.all_done()) return "the next run could not save: " + next.text();
  SoloGroup solo;
  Log log{0, false};
  const auto found = find_checkpoint(folder_, solo, log);
  if (!found || found->manifest.step != 9) return "the next run's checkpoint is not found";
  if (any_leftovers(folder_)) return "the next run's save left remains of the killed one";
  return wrong_value(found->folder, found->manifest);
}

}  // namespace llmtrain::testing_support
