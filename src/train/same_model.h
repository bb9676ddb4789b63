// Whether all ranks read the same model. A node with a copy of its own (a local disk, a stale cache) would otherwise train, or convert, a mixture of two.
#pragma once

#include <string>

#include "core/rank_group.h"
#include "train/model_setup.h"

namespace llmtrain {

// A line "<name> <XXH3-128>" for config.json (whole) and each file of weights: its size, the shapes and types in its header, and 16 pieces of 4 KiB spread evenly
// over its data. Copies of one model have the same print; so do, by design, weights that differ in no piece.
std::string print_of_model(const std::string& folder, const ModelFolder& weights);

// InputError on every rank where one has another print than rank 0: names the file, the folder and the rank. Collective.
void check_same_model(RankGroup& group, const std::string& folder, const ModelFolder& weights);
inline void check_same_model(RankGroup& group, const ModelSetup& model) { check_same_model(group, model.folder, *model.weights); }

}  // namespace llmtrain
