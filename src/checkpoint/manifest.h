// manifest.json: what makes a folder a checkpoint. It names every file with its size and digest, and carries a digest of itself, so that every byte on
// disk is checked before anything is used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/content.h"
#include "core/error.h"
#include "core/rank_group.h"

namespace llmtrain {

struct ManifestFile {
  std::string name;  // in the checkpoint's folder
  uint64_t bytes = 0;
  std::string digest;
};

// Steps, rows and rows a step lie below: sums of a few of them still fit in 64 bits, and each is exact as a double.
inline constexpr int64_t kMaxStep = (int64_t{1} << 53) - 1;

struct Manifest {
  std::string run_id;        // of the run that wrote it; kept across resumes
  int64_t step = 0;          // 0 … kMaxStep
  CheckpointContent content;
  std::vector<ManifestFile> files;
  Json state;                // the trainer's: sampler position, schedule, counters, configuration
  std::string build;         // --version block of the program that wrote it
  std::string digest;        // of itself, where it was read; dump_manifest() makes its own
};

// The checkpoint is not damaged: a newer version of this program wrote it.
class NewerFormat : public InputError {
 public:
  using InputError::InputError;
};

// It holds the whole log history, about 600 bytes a logged step: this is enough for 1.7 million.
inline constexpr size_t kMostManifestBytes = size_t{1} << 30;

// OperationError where the text would be longer than read_manifest() takes: such a checkpoint could never be used.
std::string dump_manifest(const Manifest& manifest, size_t most_bytes = kMostManifestBytes);
// InputError naming the file and the fault: missing, broken, changed since it was written, of an unknown format version (NewerFormat
// where it is a later one), without a digest of each shard.
Manifest read_manifest(const std::string& folder);

// Checks size and digest of every file the manifest names, the work shared among the ranks. Returns "" or the first fault ("shard-00001-of-00002.h5:
// digest differs …"), the same on every rank. Collective.
std::string verify_files(const std::string& folder, const Manifest& manifest, RankGroup& group);

// "checkpoint-4.replaced": the old checkpoint while a new one of the same step takes its place on a file system that cannot exchange two names at once.
inline constexpr const char* kReplacedSuffix = ".replaced";

// "checkpoint-20.abandoned": it was later than the checkpoint that a run began from, and was put aside when that run committed its first one. Left to the
// person; it can be named in resume_from_checkpoint.
inline constexpr const char* kAbandonedSuffix = ".abandoned";

// Folders output_dir/checkpoint-<step> that hold a manifest.json or might once have (no ".tmp"), largest step first.
std::vector<std::pair<int64_t, std::string>> list_checkpoints(const std::string& output_dir);

}  // namespace llmtrain
