#include "train/output_dir.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {

namespace fs = std::filesystem;

std::vector<std::pair<int64_t, std::string>> checkpoints_in(const std::string& output_dir) {
  constexpr std::string_view kPrefix = "checkpoint-";
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  for (fs::directory_iterator it(output_dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kPrefix) || !is_directory(it->path().string())) continue;
    int64_t step = 0;
    const char* first = name.data() + kPrefix.size();
    const auto [last, fault] = std::from_chars(first, name.data() + name.size(), step);
    if (fault == std::errc() && last == name.data() + name.size() && first != last) found.emplace_back(step, it->path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string earlier_run(const std::string& output_dir) {
  const bool logs = is_regular_file(output_dir + "/trainer_log.jsonl"), finished = is_regular_file(output_dir + "/all_results.json");
  const size_t checkpoints = checkpoints_in(output_dir).size();
  if (!logs && !finished && checkpoints == 0) return "";
  return output_dir + " holds an earlier run" + (finished ? ", which finished" : "") + ": there is nothing to resume from, so this run starts from step 0 and writes over its logs and results";
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
    std::error_code error;
    fs::remove_all(path, error);
    if (error) throw OperationError("remove " + path + ": " + error.message());
  }
}

void keep_newest(const std::string& output_dir, int64_t limit) {
  if (limit <= 0) return;
  std::vector<std::pair<int64_t, std::string>> found = checkpoints_in(output_dir);
  if (static_cast<int64_t>(found.size()) <= limit) return;
  found.resize(found.size() - static_cast<size_t>(limit));
  remove_folders(found);
}

}  // namespace llmtrain
