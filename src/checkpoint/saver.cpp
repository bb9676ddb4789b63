#include "checkpoint/saver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "checkpoint/digest.h"
#include "checkpoint/folders.h"
#include "checkpoint/index_file.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

ManifestFile write_side_file(const std::string& folder, const SideFile& side) {
  File file = File::create(folder + "/" + side.name);
  file.write_at(side.content.data(), side.content.size(), 0);
  file.sync();
  if (file.size() != side.content.size()) throw OperationError("write " + file.path() + ": the size is wrong after writing");
  file.close();
  return {side.name, side.content.size(), digest_of(side.content)};
}

}  // namespace

struct CheckpointSaver::State {
  SaverOptions options;
  CheckpointContent content;
  RankGroup& group;
  Log& log;
  ShardImage image;
  std::string index;  // rank 0
  std::vector<std::string> protected_names;

  std::thread worker;
  std::atomic<bool> done{false};
  bool active = false;
  int64_t step = 0;
  std::string temporary, final_path;
  std::vector<ManifestFile> files;   // what this rank wrote, in order; rank 0: all side files too
  std::vector<std::string> more;     // written by write_more
  Json trainer_state;
  std::exception_ptr failure;
  Timing timing;

  State(SaverOptions o, CheckpointContent c, RankGroup& g, Log& l) : options(std::move(o)), content(std::move(c)), group(g), log(l), image(content) {
    if (group.rank() == 0) index = build_index_file(content);
  }
  ~State() {
    if (worker.joinable()) worker.join();
  }

  // On the I/O thread: no MPI.
  void write_files(std::vector<SideFile> side_files) {
    const double begin = now_seconds();
    try {
      const std::string name = shard_file_name(group.rank(), group.size());
      const ShardImage::Written shard = image.write(temporary + "/" + name);
      files.push_back({name, image.bytes(), shard.digest});
      timing.digest_seconds = shard.digest_seconds;
      if (group.rank() == 0) {
        files.push_back(write_side_file(temporary, {"index.h5", index}));
        for (const SideFile& side : side_files) files.push_back(write_side_file(temporary, side));
        for (const std::string& written : more) {
          struct stat s {};
          const std::string path = temporary + "/" + written;
          if (::stat(path.c_str(), &s) != 0) throw_errno("stat", path, errno);
          files.push_back({written, static_cast<uint64_t>(s.st_size), digest_of_file(path)});
        }
      }
    } catch (...) {
      failure = std::current_exception();
    }
    timing.write_seconds = now_seconds() - begin;
    done = true;
  }

  // Every rank's shard entry, on every rank.
  std::vector<ManifestFile> gather_shard_entries() {
    struct Entry {
      uint64_t bytes;
      char digest[40];
    } mine{};
    mine.bytes = files.front().bytes;
    files.front().digest.copy(mine.digest, sizeof mine.digest - 1);
    std::vector<Entry> all(static_cast<size_t>(group.size()));
    group.all_gather(&mine, all.data(), sizeof mine);
    std::vector<ManifestFile> entries;
    for (int r = 0; r < group.size(); ++r) {
      entries.push_back({shard_file_name(r, group.size()), all[static_cast<size_t>(r)].bytes, all[static_cast<size_t>(r)].digest});
    }
    return entries;
  }

  void commit_on_rank_0(std::vector<ManifestFile> entries) {
    Manifest m;
    m.run_id = options.run_id;
    m.step = step;
    m.content = content;
    m.state = trainer_state;
    m.build = options.build;
    m.files = std::move(entries);
    m.files.insert(m.files.end(), files.begin() + 1, files.end());
    write_side_file(temporary, {"manifest.json", dump_manifest(m)});
    sync_folder(temporary);
    std::string old;
    const std::vector<std::string> aside = put_later_ones_aside();
    try {
      old = put_folder_in_place(temporary, final_path);
    } catch (...) {
      for (const std::string& path : aside) ::rename((path + kAbandonedSuffix).c_str(), path.c_str());
      throw;
    }
    sync_folder(options.output_dir);
    write_file_atomically(options.output_dir + "/latest", std::filesystem::path(final_path).filename().string() + "\n");
    if (!old.empty()) remove_folder(old);
    for (const std::string& path : aside) {
      log.warn(path + " is later than step " + std::to_string(*options.begun_at) + ", from which this run went on: it is put aside as " +
               std::filesystem::path(path).filename().string() + kAbandonedSuffix + "; remove it when nobody needs it");
    }
    options.begun_at.reset();
  }

  // At the first commit of a run that began from a checkpoint. Before the new one appears: after a crash in between, the next start takes the checkpoint
  // that this run began from. Returns what was renamed, or throws with all names as they were.
  std::vector<std::string> put_later_ones_aside() const {
    std::vector<std::string> renamed;
    if (!options.begun_at) return renamed;
    try {
      for (const auto& [checkpoint_step, path] : list_checkpoints(options.output_dir)) {
        if (checkpoint_step <= *options.begun_at || !is_regular_file(path + "/manifest.json")) continue;
        remove_folder(path + kAbandonedSuffix);
        rename_path(path, path + kAbandonedSuffix);
        renamed.push_back(path);
      }
    } catch (...) {
      for (const std::string& path : renamed) ::rename((path + kAbandonedSuffix).c_str(), path.c_str());
      throw;
    }
    return renamed;
  }

  // Only after a commit, so nothing else is being written. The save has succeeded: what cannot be removed is said and left.
  void tidy() {
    try {
      prune();
      remove_leftovers(options.output_dir);
    } catch (const std::exception& e) {
      log.warn(std::string("old checkpoints could not be removed: ") + e.what());
    }
  }

  // Keeps the one just committed, the newest others up to save_total_limit in all, and the protected ones. Only folders with a manifest count.
  void prune() {
    if (options.save_total_limit <= 0) return;
    int kept = 1;
    for (const auto& [checkpoint_step, path] : list_checkpoints(options.output_dir)) {
      if (checkpoint_step == step || !is_regular_file(path + "/manifest.json")) continue;
      const std::string name = std::filesystem::path(path).filename().string();
      const bool is_protected = std::find(protected_names.begin(), protected_names.end(), name) != protected_names.end();
      if (kept < options.save_total_limit || is_protected) {
        ++kept;
        continue;
      }
      // Renamed first, so that a crash while it is being removed leaves nothing that looks like a checkpoint.
      const std::string doomed = path + ".old.tmp";
      std::filesystem::remove_all(doomed);
      rename_path(path, doomed);
      std::filesystem::remove_all(doomed);
    }
  }

  void abandon() {
    group.barrier();
    if (group.rank() == 0) remove_folder(temporary);
  }

  // All ranks are done writing: agree, commit.
  void complete() {
    if (worker.joinable()) worker.join();
    active = false;
    timing.step = step;
    timing.bytes = image.bytes();
    try {
      run_on_all_or_fail(group, [&] {
        if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
      });
      std::vector<ManifestFile> entries = gather_shard_entries();
      run_on_all_or_fail(group, [&] {
        if (group.rank() == 0) commit_on_rank_0(std::move(entries));
      });
    } catch (...) {
      abandon();
      throw;
    }
    if (group.rank() == 0) tidy();
    group.barrier();  // removing may take long: the others wait for it here, where the caller may have stopped a watchdog's clock, not in their next step
  }

  bool all_done() {
    const char mine = done ? 1 : 0;
    std::vector<char> all(static_cast<size_t>(group.size()));
    group.all_gather(&mine, all.data(), 1);
    return std::all_of(all.begin(), all.end(), [](char c) { return c != 0; });
  }
};

CheckpointSaver::CheckpointSaver(SaverOptions options, CheckpointContent content, RankGroup& group, Log& log)
    : state_(std::make_unique<State>(std::move(options), std::move(content), group, log)) {}
CheckpointSaver::~CheckpointSaver() = default;

void CheckpointSaver::start(int64_t step, const Fill& fill, const Json& state, std::vector<SideFile> side_files, const WriteMore& write_more) {
  State& s = *state_;
  const double begin = now_seconds();
  finish();
  s.step = step;
  s.final_path = s.options.output_dir + "/checkpoint-" + std::to_string(step);
  s.temporary = s.final_path + ".tmp";
  s.files.clear();
  s.more.clear();
  s.failure = nullptr;
  s.trainer_state = state;
  s.done = false;
  try {
    run_on_all_or_fail(s.group, [&] {
      if (s.group.rank() != 0) return;
      remove_folder(s.temporary);
      make_directories(s.temporary);
    });
    if (write_more) s.more = write_more(s.temporary);
  } catch (...) {
    s.abandon();
    throw;
  }
  fill(s.image);
  s.active = true;
  if (s.options.asynchronous) {
    s.worker = std::thread([&s, sides = std::move(side_files)]() mutable { s.write_files(std::move(sides)); });
  } else {
    s.write_files(std::move(side_files));
    s.complete();
  }
  s.timing.stall_seconds = now_seconds() - begin;
}

bool CheckpointSaver::poll() {
  State& s = *state_;
  if (!s.active || !s.all_done()) return false;
  s.complete();
  return true;
}

void CheckpointSaver::finish() {
  State& s = *state_;
  if (!s.active) return;
  const double begin = now_seconds();
  s.complete();
  s.timing.stall_seconds += now_seconds() - begin;
}

bool CheckpointSaver::under_way() const { return state_->active; }
void CheckpointSaver::protect(const std::string& folder_name) { state_->protected_names.assign(1, folder_name); }
const CheckpointSaver::Timing& CheckpointSaver::last() const { return state_->timing; }

}  // namespace llmtrain
