// The one way into the data room: from options to token stores, by all ranks together.
#pragma once

#include <string>
#include <vector>

#include "core/rank_group.h"
#include "data/options.h"
#include "data/report.h"
#include "data/store.h"
#include "data/templates.h"
#include "data/tokenizer.h"

namespace llmtrain {

class Log;

struct EvalSet {
  std::string name;                  // "eval", or the dataset's name under eval_on_each_dataset
  TokenStore store;
};

struct Dataset {
  TokenStore train;                  // empty where only evaluation sets are given
  std::vector<EvalSet> eval;
  std::vector<StoreReport> reports;  // of train, then of each evaluation set
  Template tmpl;                     // as chosen, default_system and tool_format applied
  std::string date;                  // what llama3's tool lists say: "20 Nov 2026"
  SpecialTokens tokens;              // which EOS and pad the exported tokenizer gets
};

// Collective. Reads dataset_info.json, tokenises what no token store holds yet, opens the stores, splits off val_size, and logs the report. Every
// rank throws the same InputError or OperationError when any rank fails.
Dataset prepare_data(const DataOptions& options, const Tokenizer& tokenizer, RankGroup& group, Log& log);

// The reports as one JSON object: {"stores": [...]}.
Json reports_json(const std::vector<StoreReport>& reports);

}  // namespace llmtrain
