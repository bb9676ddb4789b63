// What the configuration says about data, as the data room wants it.
#pragma once

#include "config/config.h"
#include "data/options.h"

namespace llmtrain {

// `threads`: of this rank, 0: all. The token store lies in `store_dir` unless tokenized_path is given.
DataOptions make_data_options(const Config& config, const std::string& store_dir, int threads);

}  // namespace llmtrain
