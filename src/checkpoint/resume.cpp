#include "checkpoint/resume.h"

#include <filesystem>

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

// A folder without a manifest is a damaged checkpoint only if it holds what a checkpoint holds; a plain model folder (save_only_model) is none.
bool looks_like_checkpoint(const std::string& folder) {
  std::error_code error;
  if (std::filesystem::exists(folder + "/manifest.json", error) || error) return true;  // one that cannot be looked at is named as a damaged one
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".h5") return true;
  }
  return false;
}

// A crash between the two renames that replace a checkpoint (saver.cpp) leaves the old one under its other name only: it gets its name back.
void put_back_replaced(const std::string& output_dir, Log& log) {
  std::error_code error;
  std::vector<std::string> replaced;
  for (std::filesystem::directory_iterator at(output_dir, error), end; !error && at != end; at.increment(error)) {
    const std::string path = at->path().string();
    if (path.ends_with(kReplacedSuffix)) replaced.push_back(path);
  }
  for (const std::string& path : replaced) {
    const std::string name = path.substr(0, path.size() - std::string_view(kReplacedSuffix).size());
    if (std::filesystem::exists(name, error) || !is_regular_file(path + "/manifest.json")) continue;
    rename_path(path, name);
    log.warn(name + " was being replaced when an earlier run ended: the old one is back in its place");
  }
}

}  // namespace

namespace {
bool unwanted(const std::string& folder, const std::function<bool(const Manifest&)>& wanted) {
  if (!wanted) return false;
  try {
    return !wanted(read_manifest(folder));
  } catch (const InputError&) {
    return false;
  }
}
}  // namespace

void check_is_checkpoint(const std::string& folder) {
  if (!is_directory(folder)) throw InputError(folder, "no such checkpoint folder");
  if (is_regular_file(folder + "/manifest.json")) return;
  std::string name = std::filesystem::path(folder).lexically_normal().string();
  while (name.ends_with('/')) name.pop_back();
  if (name.ends_with(".tmp")) {
    throw InputError(folder, "this checkpoint is being written, or the job that wrote it ended before it was whole", "name one without .tmp");
  }
  if (const auto inside = list_checkpoints(folder); !inside.empty()) {
    throw InputError(folder, "this is an output folder, not a checkpoint", "name a checkpoint in it, such as " + inside.front().second);
  }
  if (looks_like_checkpoint(folder)) return;  // its manifest is missing: damaged
  const bool model = is_regular_file(folder + "/model.safetensors") || is_regular_file(folder + "/model.safetensors.index.json");
  throw InputError(folder, model ? "this is a plain model folder (an exported model, or save_only_model: true wrote it): it holds no optimizer state to resume from"
                                 : "this folder holds no checkpoint (no manifest.json)");
}

namespace {
// Ranks that read different ones (a node with its own copy under the same path) would train a mixture, or wait for each other for ever. Collective.
void check_same_checkpoint(const std::string& folder, const Manifest& manifest, RankGroup& group) {
  const std::string first = broadcast_string(group, manifest.digest, 0), step = broadcast_string(group, std::to_string(manifest.step), 0);
  run_on_all_or_fail(group, [&] {
    if (manifest.digest == first) return;
    throw InputError(folder, "this rank sees another checkpoint there (step " + std::to_string(manifest.step) + ") than rank 0 (step " + step + ")",
                     "give a folder on a file system that all nodes share, as an absolute path");
  });
}
}  // namespace

FoundCheckpoint open_checkpoint(const std::string& folder, RankGroup& group) {
  FoundCheckpoint found;
  found.folder = folder;
  run_on_all_or_fail(group, [&] {
    check_is_checkpoint(folder);
    found.manifest = read_manifest(folder);
  });
  check_same_checkpoint(folder, found.manifest, group);
  const std::string fault = verify_files(folder, found.manifest, group);
  if (!fault.empty()) throw InputError(folder, fault);
  return found;
}

std::optional<FoundCheckpoint> find_checkpoint(const std::string& output_dir, RankGroup& group, Log& log,
                                               const std::function<bool(const Manifest&)>& wanted) {
  // Rank 0 decides the order of trials, so that ranks that see the folder differently cannot part ways.
  std::string names;
  run_on_all_or_fail(group, [&] {
    if (group.rank() != 0) return;
    put_back_replaced(output_dir, log);
    for (const auto& [step, path] : list_checkpoints(output_dir)) {
      if (looks_like_checkpoint(path) && !unwanted(path, wanted)) names += std::filesystem::path(path).filename().string() + "\n";
    }
  });
  names = broadcast_string(group, names, 0);
  std::string faults;
  for (size_t at = 0; at < names.size();) {
    const size_t end = names.find('\n', at);
    const std::string folder = output_dir + "/" + names.substr(at, end - at);
    at = end + 1;
    const auto damaged = [&](const std::exception& e) {
      log.warn("checkpoint not used: " + std::string(e.what()));
      faults += "\n  " + std::string(e.what());
    };
    try {
      return open_checkpoint(folder, group);
    } catch (const InputError& e) {
      damaged(e);
    } catch (const OperationError& e) {  // a disk that cannot read it back
      damaged(e);
    }
  }
  if (!faults.empty()) {
    throw InputError(output_dir, "it holds checkpoints, but none is usable:" + faults,
                     "repair or remove them, or start afresh with overwrite_output_dir: true");
  }
  return std::nullopt;
}

}  // namespace llmtrain
