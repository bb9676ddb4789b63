// The bridge between a running Engine and the checkpoint room: what the shards of the ParameterManager and the optimizer are called in a checkpoint, and
// how they come back at whatever number of ranks.
//
// Thread rules: collective; one thread.
#pragma once

#include <string>

#include "checkpoint/content.h"
#include "checkpoint/resume.h"
#include "checkpoint/shard_image.h"
#include "train/engine.h"

namespace llmtrain {

// Units, tensors and arrays ("weight" of the master type, "adam_m" and "adam_v" of the moments' type; "frozen" in the compute type) of a model over
// `layout.world()` ranks.
CheckpointContent checkpoint_content(const ShardLayout& layout, DType compute, const StateTypes& states = {});

// Copies this rank's shards into the image.
void fill_image(Engine& engine, ShardImage& image);

// InputError naming the first tensor of a checkpoint that does not fit this model, or states of other types.
void check_fits(const ShardLayout& layout, const StateTypes& states, const FoundCheckpoint& checkpoint);

// Weights, moments and step count from a verified checkpoint that fits. InputError on all ranks when one finds a file that this format does not write.
// Collective.
void restore_engine(Engine& engine, RankGroup& group, const FoundCheckpoint& checkpoint, int64_t optimizer_steps);

}  // namespace llmtrain
