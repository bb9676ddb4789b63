// Rotary parameters of config.json in both styles, and the YAML's rope_scaling. Priorities and defaults follow transformers'
// RotaryEmbeddingConfigMixin (standardize_rope_params, convert_rope_params_to_dict) and Phi3Config.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/model_config_internal.h"

namespace llmtrain {
namespace {

constexpr double kMaxScale = 1e9;
constexpr int64_t kMaxContext = int64_t{1} << 40;

RopeKind parse_kind(const ConfigReader& rope, const Family& family) {
  const std::string key = rope.has("rope_type") ? "rope_type" : "type";
  std::string name = rope.text(key, "default");
  // Early Phi-3 folders say "su" or "yarn" and mean longrope (Phi3Config.convert_rope_params_to_dict).
  if (family.model_type == "phi3" && (name == "su" || name == "yarn")) name = "longrope";
  for (const RopeKind kind : every_rope_kind()) {
    if (name != name_of(kind)) continue;
    if (std::find(family.rope_kinds.begin(), family.rope_kinds.end(), kind) == family.rope_kinds.end()) {
      rope.refuse(key, "'" + name + "' is not supported for " + family.model_type + " models");
    }
    return kind;
  }
  std::string known;
  for (const RopeKind kind : family.rope_kinds) known += std::string(known.empty() ? "" : ", ") + name_of(kind);
  rope.refuse(key, "'" + name + "' is not supported", "supported for " + family.model_type + ": " + known);
}

double need_number(const ConfigReader& rope, const std::string& key, const RopeParameters& p, double low, double high) {
  if (!rope.has(key)) rope.refuse(key, std::string("is missing; rope type '") + name_of(p.kind) + "' needs it");
  return rope.number(key, 0, low, high);
}

void check_factors(const ConfigReader& rope, const std::string& key, std::vector<double>& factors, int64_t wanted) {
  factors = rope.numbers(key, 1e-9, kMaxScale);
  if (static_cast<int64_t>(factors.size()) != wanted) {
    rope.refuse(key, "has " + std::to_string(factors.size()) + " numbers; half the rotated head size is " + std::to_string(wanted));
  }
}

void read_scaling(const ConfigReader& rope, const ModelConfig& config, RopeParameters& p) {
  const std::string kind = name_of(p.kind);
  if (p.kind == RopeKind::linear || p.kind == RopeKind::dynamic || p.kind == RopeKind::llama3)
    p.factor = need_number(rope, "factor", p, 1e-6, kMaxScale);
  if (p.kind == RopeKind::dynamic && config.rotary_dim <= 2) rope.refuse("rope_type", "dynamic needs a rotated head size above 2");
  if (p.kind == RopeKind::llama3) {
    p.low_freq_factor = need_number(rope, "low_freq_factor", p, 1e-6, kMaxScale);
    p.high_freq_factor = need_number(rope, "high_freq_factor", p, 1e-6, kMaxScale);
    if (p.high_freq_factor <= p.low_freq_factor) rope.refuse("high_freq_factor", "must be greater than low_freq_factor");
  }
  if (p.kind == RopeKind::yarn) {
    if (!rope.has("factor")) rope.refuse("factor", "is missing; rope type 'yarn' needs it");
    const double ratio = static_cast<double>(config.max_position_embeddings) / static_cast<double>(p.original_max_position_embeddings);
    p.factor = rope.optional_number("factor", 1e-6, kMaxScale).value_or(ratio);
    const auto or_default = [&](const char* key, double otherwise) {  // as Python's `value or default`: 0 and null mean the default
      const double v = rope.optional_number(key, 0, kMaxScale).value_or(0);
      return v == 0 ? otherwise : v;
    };
    p.beta_fast = or_default("beta_fast", 32);
    p.beta_slow = or_default("beta_slow", 1);
    p.mscale = rope.optional_number("mscale", 0, kMaxScale);
    p.mscale_all_dim = rope.optional_number("mscale_all_dim", 0, kMaxScale);
    p.truncate = rope.boolean("truncate", true);
  }
  if (p.kind == RopeKind::longrope) {
    if (p.original_max_position_embeddings < 2) rope.refuse("original_max_position_embeddings", "must be at least 2 for longrope");
    p.factor = rope.optional_number("factor", 1e-6, kMaxScale).value_or(0);
    check_factors(rope, "short_factor", p.short_factor, config.rotary_dim / 2);
    check_factors(rope, "long_factor", p.long_factor, config.rotary_dim / 2);
  }
  if (p.kind == RopeKind::yarn || p.kind == RopeKind::longrope) p.attention_factor = rope.optional_number("attention_factor", 0, kMaxScale);
}

// Rope types that know a trained context take config.json's outer key first (Phi-3 keeps it there), then the inner one.
int64_t read_original_context(const ConfigReader& reader, const ConfigReader& rope, const Family& family, const ModelConfig& config) {
  const int64_t outer = family.default_original_max_position_embeddings;
  if (outer > 0 || reader.is_set("original_max_position_embeddings"))
    return reader.integer("original_max_position_embeddings", outer, 1, kMaxContext);
  return rope.integer("original_max_position_embeddings", config.max_position_embeddings, 1, kMaxContext);
}

void read_rotary_dim(const ConfigReader& reader, const ConfigReader& rope, const Family& family, ModelConfig& config) {
  const double outer = reader.optional_number("partial_rotary_factor", 0, 1).value_or(1.0);
  const double partial = rope.is_set("partial_rotary_factor") ? rope.number("partial_rotary_factor", 1, 0, 1) : outer;
  if (partial != 1.0 && !family.partial_rotary) {
    reader.refuse("partial_rotary_factor", "below 1 is not supported for " + family.model_type + " models (transformers cannot run them either)");
  }
  config.rope.partial_rotary_factor = partial;
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * partial);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0) {
    reader.refuse("partial_rotary_factor", "rotates " + std::to_string(config.rotary_dim) + " of " + std::to_string(config.head_dim) +
                                               " elements of a head; an even number above 0 is needed");
  }
}

const Json& rope_object(const ConfigReader& reader, const Json& empty, std::string& prefix) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {  // rope_scaling wins where both are filled, as in transformers
    if (!reader.is_set(key)) continue;
    const Json& value = *reader.find(key);
    if (!value.is_object()) reader.refuse(key, "an object is expected");
    if (value.empty()) continue;
    prefix = std::string(key) + ".";
    return value;
  }
  prefix = "rope_parameters.";
  return empty;
}

}  // namespace

const char* name_of(RopeKind kind) {
  switch (kind) {
    case RopeKind::none: return "default";
    case RopeKind::linear: return "linear";
    case RopeKind::dynamic: return "dynamic";
    case RopeKind::yarn: return "yarn";
    case RopeKind::llama3: return "llama3";
    case RopeKind::longrope: return "longrope";
  }
  LLMTRAIN_ASSERT(false, "rope kind");
}

void read_rope(const ConfigReader& reader, const Family& family, ModelConfig& config) {
  const Json empty = Json::object();
  std::string prefix;
  const Json& object = rope_object(reader, empty, prefix);
  const ConfigReader rope(object, reader.where(), prefix);
  if (rope.is_set("mrope_section")) rope.refuse("mrope_section", "multimodal rotary positions are not supported");
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) rope.refuse(key, "rotary parameters for each kind of layer are not supported");
  }
  RopeParameters& p = config.rope;
  p.kind = parse_kind(rope, family);
  const double outer_theta = reader.number("rope_theta", 10000.0, 1.0001, 1e15);
  p.theta = rope.number("rope_theta", outer_theta, 1.0001, 1e15);
  read_rotary_dim(reader, rope, family, config);
  if (p.kind == RopeKind::yarn || p.kind == RopeKind::llama3 || p.kind == RopeKind::longrope) {
    p.original_max_position_embeddings = read_original_context(reader, rope, family, config);
  }
  read_scaling(rope, config, p);
}

namespace {

// The scaling as config.json carries it, in the style that `raw` has.
void write_scaling(Json& raw, const RopeParameters& p, int64_t old_max, int64_t new_max) {
  Json scaling = Json::object();
  scaling["rope_type"] = name_of(p.kind);
  scaling["factor"] = p.factor;
  if (p.kind == RopeKind::llama3) {
    scaling["low_freq_factor"] = p.low_freq_factor;
    scaling["high_freq_factor"] = p.high_freq_factor;
  }
  if (p.kind == RopeKind::yarn || p.kind == RopeKind::llama3) scaling["original_max_position_embeddings"] = old_max;
  raw["max_position_embeddings"] = new_max;
  if (raw.contains("original_max_position_embeddings")) raw["original_max_position_embeddings"] = old_max;  // it wins over the inner key
  if (raw.contains("rope_parameters") && raw["rope_parameters"].is_object()) {
    scaling["rope_theta"] = p.theta;
    raw["rope_parameters"] = std::move(scaling);
    raw.erase("rope_scaling");
  } else {
    raw["rope_theta"] = p.theta;
    raw["rope_scaling"] = std::move(scaling);
  }
}

}  // namespace

bool apply_rope_scaling(ModelConfig& config, const std::string& kind_name, int64_t cutoff_len) {
  const std::string where = "rope_scaling";
  RopeParameters p;
  for (const RopeKind kind : {RopeKind::linear, RopeKind::dynamic, RopeKind::yarn, RopeKind::llama3}) {
    if (kind_name == name_of(kind)) p.kind = kind;
  }
  if (p.kind == RopeKind::none) throw InputError(where, "'" + kind_name + "' is not known", "known: linear, dynamic, yarn, llama3");
  const Family& family = find_family(config.model_type, config.path);
  if (std::find(family.rope_kinds.begin(), family.rope_kinds.end(), p.kind) == family.rope_kinds.end()) {
    throw InputError(where, "'" + kind_name + "' is not possible for " + config.model_type + " models",
                     "transformers' class for them refuses it; remove rope_scaling");
  }
  const int64_t old_max = config.max_position_embeddings;
  if (cutoff_len <= old_max) return false;
  if (p.kind == RopeKind::dynamic && config.rotary_dim <= 2) throw InputError(where, "dynamic needs a rotated head size above 2");
  p.theta = config.rope.theta;
  p.partial_rotary_factor = config.rope.partial_rotary_factor;
  const int64_t factor = (cutoff_len + old_max - 1) / old_max;
  if (factor > kMaxContext / old_max) throw InputError(where, "cutoff_len " + std::to_string(cutoff_len) + " is not a sensible value");
  p.factor = static_cast<double>(factor);
  if (p.kind == RopeKind::llama3 || p.kind == RopeKind::yarn) p.original_max_position_embeddings = old_max;
  // The dynamic kind measures a sequence against the trained context: raising that would switch the scaling off.
  if (p.kind != RopeKind::dynamic) config.max_position_embeddings = old_max * factor;
  config.rope = p;
  Json raw = config.raw ? *config.raw : Json::object();
  write_scaling(raw, p, old_max, config.max_position_embeddings);
  config.raw = std::make_shared<const Json>(std::move(raw));
  return true;
}

}  // namespace llmtrain
