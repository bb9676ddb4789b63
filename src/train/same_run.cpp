#include "train/same_run.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <vector>

#include "checkpoint/digest.h"
#include "core/error.h"
#include "data/sampler.h"

namespace llmtrain {
namespace {

constexpr const char *kRows = "rows_xxh3_128", *kOrder = "order";
// How an epoch's order comes from the seed (data/sampler.h): after a change of it, the rest of an epoch would hold rows that it has held already.
constexpr const char *kAsRead = "as read", *kListed = "torch.randperm", *kFunction = "permutation function";
constexpr int64_t kBlockRows = 8192;  // what one rank reads at a time: the digest is that of the blocks' digests, so ranks may share them out
constexpr size_t kHexDigits = 32;

template <class T>
void add_all(Digest& digest, std::span<const T> values) {
  const uint64_t count = values.size();
  digest.add(&count, sizeof count);
  digest.add(values.data(), values.size_bytes());
}

std::string digest_of_block(const RowSet& rows, int64_t begin, int64_t end) {
  Digest digest;
  for (int64_t i = begin; i < end; ++i) {
    const RowView row = rows.store().row(static_cast<size_t>(i));
    add_all(digest, row.ids);
    add_all(digest, row.trained);
    add_all(digest, row.restarts);
  }
  rows.store().forget_pages();
  return digest.hex();
}

std::string digest_of_rows(const RowSet& rows, RankGroup& group) {
  const int64_t blocks = (rows.size() + kBlockRows - 1) / kBlockRows, world = group.size(), each = (blocks + world - 1) / world;
  std::string mine(static_cast<size_t>(each) * kHexDigits, ' '), all(mine.size() * static_cast<size_t>(world), ' ');
  for (int64_t k = 0; k < each; ++k) {
    const int64_t begin = (group.rank() * each + k) * kBlockRows;
    if (begin < rows.size()) mine.replace(static_cast<size_t>(k) * kHexDigits, kHexDigits, digest_of_block(rows, begin, std::min(begin + kBlockRows, rows.size())));
  }
  group.all_gather(mine.data(), all.data(), mine.size());
  all.resize(static_cast<size_t>(blocks) * kHexDigits);
  return digest_of(std::string(rows.size() > 0 ? name_of(rows.store().info().pack) : "none") + " " + all);
}

Json number_or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

// As config.json has it: 1e-05, not what the float32 is exactly.
double decimal(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", static_cast<double>(value));
  return std::strtod(text, nullptr);
}

Json mathematics_of(const ModelConfig& m) {
  Json json = {{"num_attention_heads", m.num_heads}, {"num_key_value_heads", m.num_kv_heads}, {"head_dim", m.head_dim},
               {"rms_norm_eps", decimal(m.rms_norm_eps)}, {"qk_norm", m.qk_norm},                  {"sliding_window", m.sliding_window}};
  const RopeParameters& r = m.rope;
  json["rotary_dim"] = m.rotary_dim;
  json["rope_type"] = name_of(r.kind);
  json["rope_theta"] = r.theta;
  if (r.kind == RopeKind::none) return json;
  json["max_position_embeddings"] = m.max_position_embeddings;
  json["rope_factor"] = r.factor;
  json["low_freq_factor"] = r.low_freq_factor;
  json["high_freq_factor"] = r.high_freq_factor;
  json["original_max_position_embeddings"] = r.original_max_position_embeddings;
  json["attention_factor"] = number_or_null(r.attention_factor);
  json["beta_fast"] = r.beta_fast;
  json["beta_slow"] = r.beta_slow;
  json["mscale"] = number_or_null(r.mscale);
  json["mscale_all_dim"] = number_or_null(r.mscale_all_dim);
  json["truncate"] = r.truncate;
  json["short_factor"] = r.short_factor;
  json["long_factor"] = r.long_factor;
  return json;
}

// The lines "key: value" of the group "# data" of a resolved configuration, without their origins.
std::map<std::string, std::string> data_keys(const std::string& yaml) {
  std::map<std::string, std::string> found;
  std::istringstream lines(yaml);
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# ")) inside = line == "# data";
    const size_t colon = line.find(": ");
    if (!inside || colon == std::string::npos || line.starts_with("# ")) continue;
    found[line.substr(0, colon)] = line.substr(colon + 2, line.rfind("  # ") == std::string::npos ? std::string::npos : line.rfind("  # ") - colon - 2);
  }
  return found;
}

std::string changed_data_keys(const Json& stored_state, const Config& config) {
  const auto yaml = stored_state.find("config");
  if (yaml == stored_state.end() || !yaml->is_string()) return "";
  const auto then = data_keys(yaml->get<std::string>()), now = data_keys(resolved_yaml(config));
  std::string text;
  for (const auto& [key, value] : now) {
    const auto it = then.find(key);
    if (it != then.end() && it->second != value) text += (text.empty() ? "" : ", ") + key + " was " + it->second + " and is " + value;
  }
  return text;
}

const char* const kAfresh = "or start afresh: overwrite_output_dir: true, without a path in resume_from_checkpoint";

// The first key of both that differs.
std::optional<std::string> first_difference(const Json& then, const Json& now) {
  for (const auto& [key, value] : now.items()) {
    const auto it = then.find(key);
    if (it != then.end() && dump_json(*it) != dump_json(value)) return key;
  }
  return std::nullopt;
}

void refuse_rows(const std::string& folder, const Json& stored_state, const Config& config) {
  const std::string keys = changed_data_keys(stored_state, config);
  throw InputError(folder, "the run began with other training rows than those read now, so its sequence of rows cannot go on" +
                               (keys.empty() ? ": the data files or the tokenizer changed" : ": " + keys),
                   std::string("resume with the data and options that the run began with, ") + kAfresh);
}

const char* order_of(const Config& config, const RowSet& rows) {
  if (!config.shuffles()) return kAsRead;
  return static_cast<uint64_t>(rows.size()) <= Sampler::kMostListed ? kListed : kFunction;
}

void refuse_order(const std::string& folder, const Json& then, const Json& now) {
  throw InputError(folder, "the version of llmtrain that began this run shuffled rows in another way (" + dump_json(then) + ", here it is " + dump_json(now) +
                               "): the rest of the epoch would hold rows that it has held already",
                   std::string("go on with that version, ") + kAfresh);
}

}  // namespace

RunIdentity identity_of(const Config& config, const RowSet& rows, const ModelConfig& model, RankGroup& group) {
  return {{{"seed", config.sampler_seed()},
           {"shuffle", config.shuffles()},
           {"drop_last", config.dataloader_drop_last},
           {kRows, digest_of_rows(rows, group)},
           {kOrder, order_of(config, rows)}},
          mathematics_of(model)};
}

std::string check_same_run(const std::string& folder, const Json& stored_state, const RunIdentity& now, const Config& config) {
  const auto part = [&stored_state](const char* name) {
    const auto it = stored_state.is_object() ? stored_state.find(name) : stored_state.end();
    return stored_state.is_object() && it != stored_state.end() && it->is_object() ? *it : Json::object();
  };
  Json sampler = part("sampler");
  const Json model = part("model");
  const bool in_order = sampler.contains("shuffle") && sampler["shuffle"] == Json(false);
  if (!sampler.empty() && !sampler.contains(kOrder)) sampler[kOrder] = in_order ? kAsRead : kFunction;  // versions that did not write it had no other
  if (const auto key = first_difference(model, now.model)) {
    throw InputError(folder, "this is the checkpoint of another model: its " + *key + " is " + dump_json(model[*key]) + ", here it is " + dump_json(now.model[*key]),
                     std::string("give model_name_or_path (and rope_scaling) what this run began with; ") + kAfresh);
  }
  if (const auto key = first_difference(sampler, now.sampler)) {
    if (*key == kRows) refuse_rows(folder, stored_state, config);
    if (*key == kOrder) refuse_order(folder, sampler[kOrder], now.sampler[kOrder]);
    const bool shuffle = *key == "shuffle";
    const std::string name = shuffle ? "disable_shuffling" : *key == "drop_last" ? "dataloader_drop_last" : config.data_seed ? "data_seed" : "seed";
    const auto value = [&](const Json& of) { return shuffle ? std::string(of[*key] == Json(true) ? "false" : "true") : dump_json(of[*key]); };
    throw InputError(config.origin(name) + ": " + name, "it is " + value(now.sampler) + ", and the run in " + folder + " began with " + value(sampler) +
                         ": its sequence of rows cannot go on", "write " + name + ": " + value(sampler) + ", " + kAfresh);
  }
  std::string missing;
  for (const char* key : {"seed", "shuffle", kRows}) {
    if (!sampler.contains(key)) missing += (missing.empty() ? "" : ", ") + std::string(key == std::string(kRows) ? "a digest of the rows" : key);
  }
  if (model.empty()) missing += (missing.empty() ? "" : ", ") + std::string("the model's mathematics");
  return missing;
}

}  // namespace llmtrain
