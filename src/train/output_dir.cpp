#include "train/output_dir.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {

namespace fs = std::filesystem;

std::string earlier_run(const std::string& output_dir) {
  const bool logs = is_regular_file(output_dir + "/trainer_log.jsonl"), finished = is_regular_file(output_dir + "/all_results.json");
  const size_t checkpoints = list_checkpoints(output_dir).size();
  if (!logs && !finished && checkpoints == 0) return "";
  return output_dir + " holds an earlier run" + (finished ? ", which finished" : "") + ", but no checkpoint to go on from: this run starts from step 0 and writes over its logs and results";
}

void remove_results(const std::string& output_dir) {
  for (const char* name : {"trainer_state.json", "train_results.json", "eval_results.json", "all_results.json"}) {
    std::error_code error;
    fs::remove(output_dir + "/" + name, error);
    if (error) throw OperationError("remove " + output_dir + "/" + name + ": " + error.message());
  }
}

void remove_folders(const std::vector<std::pair<int64_t, std::string>>& folders) {
  for (const auto& [step, path] : folders) {
    // Renamed first, so that a crash while it is being removed leaves nothing that looks like a damaged checkpoint.
    const std::string doomed = path + ".old.tmp";
    std::error_code error;
    fs::remove_all(doomed, error);
    if (!error) fs::rename(path, doomed, error);
    if (!error) fs::remove_all(doomed, error);
    if (error) throw OperationError("remove " + path + ": " + error.message());
  }
}

void keep_newest(const std::string& output_dir, int64_t limit) {
  if (limit <= 0) return;
  std::vector<std::pair<int64_t, std::string>> found = list_checkpoints(output_dir);  // newest first
  if (static_cast<int64_t>(found.size()) <= limit) return;
  found.erase(found.begin(), found.begin() + limit);
  remove_folders(found);
}

}  // namespace llmtrain
