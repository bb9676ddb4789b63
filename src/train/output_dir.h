// output_dir over the life of a run: what lies there from an earlier one, the checkpoint-<step> folders, and how many of them are kept.
// Thread rules: used by one rank.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace llmtrain {

// What a person should know about an output_dir that is not empty; "" when there is nothing to say.
std::string earlier_run(const std::string& output_dir);

// Removes the results of an earlier run, so that those of a run that ends early are not taken for its own. OperationError.
void remove_results(const std::string& output_dir);

// Removes the given folders. OperationError.
void remove_folders(const std::vector<std::pair<int64_t, std::string>>& folders);

// Removes the oldest checkpoints until at most `limit` are left (0: all are kept, as in transformers).
void keep_newest(const std::string& output_dir, int64_t limit);

}  // namespace llmtrain
