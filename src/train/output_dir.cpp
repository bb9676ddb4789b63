#include "train/output_dir.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace llmtrain {

namespace fs = std::filesystem;

namespace {

// Network file systems show a new file late where a node has looked at the folder before.
constexpr std::chrono::milliseconds kPatience{3000}, kPause{100};

// What keeps this rank from using the folder: "" for nothing.
std::string obstacle(const std::string& output_dir, const std::string& mark) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (::access((output_dir + "/" + mark).c_str(), F_OK) != 0) {
    if (errno == EINTR) continue;
    if (std::chrono::steady_clock::now() >= end) return "does not see what rank 0 wrote there (" + std::string(std::strerror(errno)) + ")";
    std::this_thread::sleep_for(kPause);
  }
  if (::access(output_dir.c_str(), W_OK | X_OK) != 0) return "may not write there (" + std::string(std::strerror(errno)) + ")";
  return "";
}

}  // namespace

void check_all_ranks_share(const std::string& output_dir, const std::string& where, RankGroup& group) {
  if (group.size() == 1) return;
  const std::string mark = broadcast_string(group, ".seen-by-all-" + std::to_string(std::random_device{}()) + "-" + std::to_string(::getpid()), 0);
  const std::string path = output_dir + "/" + mark;
  run_on_all_or_fail(group, [&] {
    if (group.rank() == 0) File::create(path).close();
  });
  struct Finding {
    char what[160];
    char host[96];
  } mine{};
  obstacle(output_dir, mark).copy(mine.what, sizeof mine.what - 1);
  host_name().copy(mine.host, sizeof mine.host - 1);
  std::vector<Finding> all(static_cast<size_t>(group.size()));
  group.all_gather(&mine, all.data(), sizeof mine);
  if (group.rank() == 0) ::unlink(path.c_str());
  std::string ranks;
  constexpr int kNamed = 8;
  int blind = 0;
  for (int r = 0; r < group.size(); ++r) {
    const Finding& f = all[static_cast<size_t>(r)];
    if (f.what[0] && ++blind <= kNamed) ranks += "\n  rank " + std::to_string(r) + " on " + f.host + " " + f.what;
  }
  if (blind == 0) return;
  if (blind > kNamed) ranks += "\n  and " + std::to_string(blind - kNamed) + " more ranks";
  throw InputError(where, output_dir + " is not the same folder for every rank (rank 0 is on " + std::string(all[0].host) + "), but every rank writes its part of a checkpoint there" + ranks,
                   "give a folder on a file system that all nodes share, as an absolute path");
}

bool lies_in(const std::string& path, const std::string& output_dir) {
  fs::path entry = fs::path(path).lexically_normal();
  if (!entry.has_filename()) entry = entry.parent_path();
  const fs::path folder = entry.has_parent_path() ? entry.parent_path() : fs::path(".");
  std::error_code error, unreal;
  if (fs::equivalent(folder, output_dir, error) && !error) return true;
  const fs::path real = fs::canonical(entry, unreal);  // a link elsewhere may lead to it
  return !unreal && fs::equivalent(real.parent_path(), output_dir, error) && !error;
}

bool holds_outputs_of(const std::string& output_dir, const std::string& folder) {
  if (!is_regular_file(output_dir + "/all_results.json") || !is_regular_file(output_dir + "/trainer_state.json")) return false;
  if (!is_regular_file(output_dir + "/model.safetensors") && !is_regular_file(output_dir + "/model.safetensors.index.json")) return false;
  try {
    const Json there = parse_json_file(output_dir + "/trainer_state.json"), here = parse_json_file(folder + "/trainer_state.json");
    const Json &outputs = there.at("log_history"), &saved = here.at("log_history");
    return outputs.is_array() && saved.is_array() && !saved.empty() && outputs.size() >= saved.size() && std::equal(saved.begin(), saved.end(), outputs.begin());
  } catch (const InputError&) {  // not a history that this program wrote: the outputs are written again
    return false;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

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

void keep_newest(const std::string& output_dir, int64_t limit, int64_t written) {
  if (limit <= 0) return;
  std::vector<std::pair<int64_t, std::string>> found = list_checkpoints(output_dir);  // newest first
  std::stable_partition(found.begin(), found.end(), [written](const auto& checkpoint) { return checkpoint.first == written; });
  if (static_cast<int64_t>(found.size()) <= limit) return;
  found.erase(found.begin(), found.begin() + limit);
  remove_folders(found);
}

}  // namespace llmtrain
