// output_dir over the life of a run: what lies there from an earlier one, the checkpoint-<step> folders, and how many of them are kept.
// Thread rules: used by one rank, but for check_all_ranks_share.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/rank_group.h"

namespace llmtrain {

// Whether every rank sees `output_dir` as rank 0 does (a file that rank 0 puts there for a moment) and may write to it. InputError naming `where`, the
// ranks and their hosts that do not: with a node's own disk the first save would fail, hours later. Rank 0 has made the folder. Collective.
void check_all_ranks_share(const std::string& output_dir, const std::string& where, RankGroup& group);

// Whether `path` is an entry of the folder `output_dir`, however both are written, or a link to one.
bool lies_in(const std::string& path, const std::string& output_dir);

// Whether output_dir holds the model and results of the run that wrote the checkpoint in `folder`: the history in output_dir's trainer_state.json begins
// with the checkpoint's. False where the checkpoint has no history to compare.
bool holds_outputs_of(const std::string& output_dir, const std::string& folder);

// What a person should know about an output_dir that is not empty; "" when there is nothing to say.
std::string earlier_run(const std::string& output_dir);

// Removes the results of an earlier run, so that those of a run that ends early are not taken for its own. OperationError.
void remove_results(const std::string& output_dir);

// Removes the given folders. OperationError.
void remove_folders(const std::vector<std::pair<int64_t, std::string>>& folders);

// Removes the oldest checkpoints until at most `limit` are left (0: all are kept, as in transformers), never the one of step `written`.
void keep_newest(const std::string& output_dir, int64_t limit, int64_t written);

}  // namespace llmtrain
