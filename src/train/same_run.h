// What makes a resumed run the same run: the sequence of rows it trains on, and the model's mathematics. Both are written into each checkpoint and compared
// before a run goes on from it; the learning rate, the number of steps and when to log, save and evaluate may change.
#pragma once

#include <string>

#include "config/config.h"
#include "core/json.h"
#include "core/rank_group.h"
#include "model/model_config.h"
#include "train/batching.h"

namespace llmtrain {

struct RunIdentity {
  Json sampler;  // seed, shuffle, rows_xxh3_128 (of the rows' ids, trained spans and packing, in their order), and order: how they are shuffled
  Json model;    // the numbers of config.json that no tensor's shape shows, by their names
};

// The same on every rank and whatever their number: each reads a part of the rows, once. Collective.
RunIdentity identity_of(const Config& config, const RowSet& rows, const ModelConfig& model, RankGroup& group);

// InputError naming `folder` and the first key that differs with both values, or for the rows the keys of the data that differ between the configuration
// stored there (resolved_yaml) and this one. Returns what cannot be compared because an earlier version wrote the checkpoint, "" if nothing.
std::string check_same_run(const std::string& folder, const Json& stored_state, const RunIdentity& now, const Config& config);

}  // namespace llmtrain
