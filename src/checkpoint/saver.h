// CheckpointSaver: writes checkpoint-<step> folders so that a crash at any moment leaves either the old state or the new, never half of one.
//
//   start()   collective, at a step boundary: the snapshot is copied into the image; from here on training may change its state.
//             An I/O thread (or, with asynchronous = false, start() itself) writes checkpoint-<step>.tmp/: each rank its shard, fsynced and checked;
//             rank 0 also index.h5 and the side files.
//   poll()    collective, at a later step boundary, the same one on every rank: when all ranks' threads are done they agree, and rank 0 commits:
//             manifest, fsync of file and folder, rename to checkpoint-<step>, fsync of output_dir, `latest` by temporary name and rename; only then
//             are older checkpoints pruned (never the one just committed), and what a killed save left behind removed, while all ranks wait.
//   finish()  collective: waits for the save that is under way and commits it.
//
// A failed write, fsync or rename anywhere: every rank throws OperationError with path and errno, the .tmp folder is removed, and the checkpoints that
// were there are as they were. (What fails after the rename, the fsync of output_dir or `latest`, leaves the new one in place beside them.)
// The I/O thread makes no MPI call. Thread rules: one thread calls.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/shard_image.h"
#include "core/log.h"
#include "core/rank_group.h"

namespace llmtrain {

struct SaverOptions {
  std::string output_dir;
  std::string run_id;
  std::string build;           // --version block
  bool asynchronous = true;
  int save_total_limit = 0;    // 0: keep all
  // The step of the checkpoint that this run began from. Checkpoints of later steps in output_dir are of a course that was left (or damaged): the first
  // commit puts them aside (kAbandonedSuffix), or the next start would take them for the newest. Nothing: a fresh start, all stay.
  std::optional<int64_t> begun_at = std::nullopt;
};

// A small file that rank 0 puts beside the shards (trainer_state.json, config.json, tokenizer files).
struct SideFile {
  std::string name;
  std::string content;
};

class CheckpointSaver {
 public:
  // Builds the image: bytes of ShardImage. Collective.
  CheckpointSaver(SaverOptions options, CheckpointContent content, RankGroup& group, Log& log);
  ~CheckpointSaver();

  // `fill` puts every array of this rank into the image. `state` and `side_files` matter on rank 0 only; `extra_files`, in the same .tmp folder, may be
  // written by `write_more` (collective, called before the snapshot; it returns the names of the files it wrote, the same on every rank).
  using Fill = std::function<void(ShardImage& image)>;
  using WriteMore = std::function<std::vector<std::string>(const std::string& folder)>;
  void start(int64_t step, const Fill& fill, const Json& state, std::vector<SideFile> side_files, const WriteMore& write_more = nullptr);
  // True when this call committed a checkpoint. Nothing under way: false at once, without communication.
  bool poll();
  void finish();
  bool under_way() const;
  // Checkpoints that pruning may not remove (the best one so far).
  void protect(const std::string& folder_name);

  struct Timing {
    int64_t step = 0;
    double stall_seconds = 0;   // training stood still: snapshot, and waiting in start() / finish()
    double write_seconds = 0;   // of this rank's files, fsync included
    double digest_seconds = 0;  // of these: checksums and digest of this rank's shard
    size_t bytes = 0;
  };
  const Timing& last() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmtrain
