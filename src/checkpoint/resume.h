// Which checkpoint a run goes on from.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "checkpoint/manifest.h"
#include "core/log.h"
#include "core/rank_group.h"

namespace llmtrain {

struct FoundCheckpoint {
  std::string folder;
  Manifest manifest;
};

// InputError saying why `folder` is no checkpoint, where it has none of what a checkpoint holds, or what cannot be one yet: missing, being written, a plain
// model, an output folder with checkpoints inside.
void check_is_checkpoint(const std::string& folder);

// The checkpoint in `folder`, every byte verified, the same on every rank. InputError naming what is wrong. Collective.
FoundCheckpoint open_checkpoint(const std::string& folder, RankGroup& group);

// The newest valid checkpoint of output_dir. Damaged ones are named in the log with what is wrong, and the one before is tried. None at all
// (an empty folder, logs or .tmp only, plain model folders): nothing. Checkpoints there, but none valid: InputError naming each. Collective.
// `wanted` (asked on rank 0; empty: all are): the others are passed over. One whose manifest cannot be read counts as wanted.
std::optional<FoundCheckpoint> find_checkpoint(const std::string& output_dir, RankGroup& group, Log& log,
                                               const std::function<bool(const Manifest&)>& wanted = nullptr);

}  // namespace llmtrain
