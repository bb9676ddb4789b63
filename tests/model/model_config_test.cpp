// config.json of every family in both styles, what is refused, and rotary frequencies against transformers.
#include "model/model_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "model/families/family.h"
#include "model/rope.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::shared_dir;

Json tiny(const std::string& model_type) {
  Json j = Json::object();
  j["model_type"] = model_type;
  j["vocab_size"] = 320;
  j["hidden_size"] = 64;
  j["intermediate_size"] = 112;
  j["num_hidden_layers"] = 2;
  j["num_attention_heads"] = 4;
  return j;
}
ModelConfig parse(const Json& j) { return parse_model_config(j, "config.json"); }

// The refusal's text; "" where the configuration is accepted.
std::string refusal(const Json& j) {
  try {
    parse(j);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
Json with(Json j, const std::string& key, Json value) {
  j[key] = std::move(value);
  return j;
}
std::vector<TensorRole> roles(const ModelConfig& c) {
  std::vector<TensorRole> all;
  for (const TensorSpec& t : block_tensors(c, 0)) all.push_back(t.role);
  return all;
}

TEST(ModelConfig, MissingKeysHaveTheDefaultsOfTransformers) {
  const auto only_type = [](const char* type) {
    Json j = Json::object();
    j["model_type"] = type;
    return parse(j);
  };
  const ModelConfig llama = only_type("llama");
  EXPECT_EQ(llama.vocab_size, 32000);
  EXPECT_EQ(llama.num_kv_heads, 32);
  EXPECT_EQ(llama.head_dim, 128);
  EXPECT_EQ(llama.max_position_embeddings, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6f);
  EXPECT_EQ(llama.rope.theta, 10000.0);
  EXPECT_EQ(llama.bos_token_id, 1);
  EXPECT_EQ(llama.eos_token_ids, std::vector<int64_t>{2});
  EXPECT_EQ(parameter_count(llama), 6'738'415'616);  // Llama 2 7B
  const ModelConfig mistral = only_type("mistral");
  EXPECT_EQ(mistral.num_kv_heads, 8);
  EXPECT_EQ(mistral.sliding_window, std::vector<int64_t>(32, 4096));
  const ModelConfig qwen2 = only_type("qwen2");
  EXPECT_TRUE(qwen2.attention_bias);
  EXPECT_FALSE(qwen2.attention_output_bias);
  EXPECT_FALSE(qwen2.any_sliding_window());
  EXPECT_TRUE(qwen2.eos_token_ids.empty());
  EXPECT_FALSE(qwen2.bos_token_id.has_value());
  const ModelConfig qwen3 = only_type("qwen3");
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.attention_bias);
  const ModelConfig phi3 = only_type("phi3");
  EXPECT_EQ(phi3.rms_norm_eps, 1e-5f);
  EXPECT_EQ(phi3.pad_token_id, 32000);
  EXPECT_FALSE(phi3.any_sliding_window());
  EXPECT_EQ(parameter_count(phi3), 3'821'079'552);  // Phi-3 mini
}

TEST(ModelConfig, NullAndMissingMeanWhatTheyMeanInTransformers) {
  EXPECT_FALSE(parse(with(with(tiny("mistral"), "num_key_value_heads", 2), "sliding_window", nullptr)).any_sliding_window());
  Json j = tiny("mistral");
  j["num_attention_heads"] = 8;
  EXPECT_EQ(parse(j).num_kv_heads, 8);                                        // the class default
  EXPECT_EQ(parse(with(tiny("mistral"), "num_key_value_heads", nullptr)).num_kv_heads, 4);  // as num_attention_heads
  EXPECT_EQ(parse(with(tiny("qwen3"), "num_key_value_heads", 2)).head_dim, 128);
  EXPECT_EQ(parse(with(with(tiny("qwen3"), "num_key_value_heads", 2), "head_dim", nullptr)).head_dim, 16);
  EXPECT_FALSE(parse(with(tiny("llama"), "pad_token_id", -1)).pad_token_id.has_value());
  EXPECT_EQ(parse(with(tiny("llama"), "eos_token_id", Json::array({5, 7}))).eos_token_ids, (std::vector<int64_t>{5, 7}));
  EXPECT_TRUE(parse(with(tiny("llama"), "eos_token_id", nullptr)).eos_token_ids.empty());
  EXPECT_EQ(parse(with(tiny("llama"), "max_position_embeddings", 8192.0)).max_position_embeddings, 8192);  // LLaMA-Factory writes floats
}

TEST(ModelConfig, DtypeIsReadInBothStylesAndMayBeAbsent) {
  EXPECT_FALSE(parse(tiny("llama")).dtype.has_value());
  EXPECT_EQ(parse(with(tiny("llama"), "torch_dtype", "bfloat16")).dtype, DType::bfloat16);
  EXPECT_EQ(parse(with(tiny("llama"), "dtype", "float16")).dtype, DType::float16);
  EXPECT_NE(refusal(with(tiny("llama"), "dtype", "float8_e4m3fn")).find("float8_e4m3fn"), std::string::npos);
}

TEST(ModelConfig, BlockTensorsStandInCanonicalOrder) {
  using R = TensorRole;
  EXPECT_EQ(roles(parse(tiny("llama"))), (std::vector<R>{R::input_norm, R::q, R::k, R::v, R::o, R::post_norm, R::gate, R::up, R::down}));
  EXPECT_EQ(roles(parse(with(with(tiny("llama"), "attention_bias", true), "mlp_bias", true))),
            (std::vector<R>{R::input_norm, R::q, R::k, R::v, R::q_bias, R::k_bias, R::v_bias, R::o, R::o_bias, R::post_norm, R::gate, R::up,
                            R::gate_bias, R::up_bias, R::down, R::down_bias}));
  EXPECT_EQ(roles(parse(with(tiny("qwen2"), "num_key_value_heads", 2))),
            (std::vector<R>{R::input_norm, R::q, R::k, R::v, R::q_bias, R::k_bias, R::v_bias, R::o, R::post_norm, R::gate, R::up, R::down}));
  EXPECT_EQ(roles(parse(with(tiny("qwen3"), "num_key_value_heads", 2))),
            (std::vector<R>{R::input_norm, R::q, R::k, R::v, R::q_norm, R::k_norm, R::o, R::post_norm, R::gate, R::up, R::down}));
  EXPECT_EQ(roles(parse(tiny("phi3"))), (std::vector<R>{R::input_norm, R::qkv, R::o, R::post_norm, R::gate_up, R::down}));
  const ModelConfig phi = parse(with(tiny("phi3"), "num_key_value_heads", 2));
  EXPECT_EQ(block_tensors(phi, 1)[1].name, "model.layers.1.self_attn.qkv_proj.weight");
  EXPECT_EQ(block_tensors(phi, 1)[1].shape, (Shape{128, 64}));
  EXPECT_EQ(block_tensors(phi, 1)[4].shape, (Shape{224, 64}));
}

TEST(ModelConfig, TheHeadIsATensorOnlyWhereItIsNotTied) {
  EXPECT_EQ(all_tensors(parse(tiny("llama"))).back().name, "lm_head.weight");
  const ModelConfig tied = parse(with(tiny("llama"), "tie_word_embeddings", true));
  EXPECT_EQ(all_tensors(tied).back().name, "model.norm.weight");
  int64_t sum = 0;
  for (const TensorSpec& t : all_tensors(tied)) sum += t.shape.elements();
  EXPECT_EQ(parameter_count(tied), sum);
}

TEST(ModelConfig, SlidingWindowsByLayer) {
  Json j = with(tiny("qwen2"), "num_key_value_heads", 4);
  j["sliding_window"] = 16;
  j["max_window_layers"] = 1;
  EXPECT_EQ(parse(j).sliding_window, (std::vector<int64_t>{0, 0}));  // use_sliding_window is false by default
  j["use_sliding_window"] = true;
  EXPECT_EQ(parse(j).sliding_window, (std::vector<int64_t>{0, 16}));
  j["layer_types"] = {"sliding_attention", "full_attention"};  // wins over max_window_layers
  EXPECT_EQ(parse(j).sliding_window, (std::vector<int64_t>{16, 0}));
  j["use_sliding_window"] = false;
  EXPECT_NE(refusal(j).find("layer_types"), std::string::npos);
  j["layer_types"] = {"full_attention"};
  EXPECT_NE(refusal(j).find("names 1 layers"), std::string::npos);
  j["layer_types"] = {"full_attention", "chunked_attention"};
  EXPECT_NE(refusal(j).find("chunked_attention"), std::string::npos);
  EXPECT_NE(
      refusal(with(with(tiny("mistral"), "num_key_value_heads", 4), "layer_types", {"full_attention", "sliding_attention"})).find("layer_types"),
      std::string::npos);
}

TEST(ModelConfig, WhatIsNotSupportedIsRefusedByNameAndFile) {
  const std::pair<const char*, Json> cases[] = {
      {"hidden_act", "gelu"},   {"num_experts", 8},
      {"num_local_experts", 4}, {"vision_config", Json{{"a", 1}}},
      {"pretraining_tp", 2},    {"quantization_config", Json{{"bits", 4}}},
      {"kv_lora_rank", 64},     {"attn_logit_softcapping", 50.0},
      {"logits_scaling", 8.0},  {"is_encoder_decoder", true},
      {"use_mrope", true},      {"architectures", Json::array({"LlamaForSequenceClassification"})},
      {"lm_head_bias", true},   {"is_causal", false},
  };
  for (const auto& [key, value] : cases) {
    const std::string message = refusal(with(tiny("llama"), key, value));
    EXPECT_EQ(message.rfind("config.json: ", 0), 0u) << key;
    EXPECT_NE(message.find(key), std::string::npos) << key << ": " << message;
  }
  EXPECT_NE(refusal(tiny("gpt2")).find("'gpt2'"), std::string::npos);
  EXPECT_NE(refusal(tiny("qwen3_moe")).find("'qwen3_moe'"), std::string::npos);
  EXPECT_EQ(refusal(with(tiny("llama"), "quantization_config", nullptr)), "");
  EXPECT_EQ(refusal(with(tiny("llama"), "logits_scaling", 1.0)), "");
  EXPECT_NE(refusal(Json::object()).find("model_type"), std::string::npos);
  EXPECT_NE(refusal(Json::array()), "");
}

TEST(ModelConfig, NumbersThatMakeNoSenseAreRefusedWithTheirKey) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                          "head_dim", "max_position_embeddings"}) {
    for (const Json& bad : {Json(0), Json(-4), Json(1e30), Json(9223372036854775807LL), Json(18446744073709551615ULL), Json(2.5), Json("64"),
                            Json(true), Json::array({64})}) {
      EXPECT_NE(refusal(with(tiny("llama"), key, bad)).find(key), std::string::npos) << key << " = " << bad.dump();
    }
  }
  EXPECT_NE(refusal(with(tiny("llama"), "num_key_value_heads", 3)).find("num_key_value_heads"), std::string::npos);
  EXPECT_NE(refusal(with(tiny("llama"), "num_attention_heads", 3)).find("hidden_size"), std::string::npos);
  EXPECT_NE(refusal(with(tiny("llama"), "head_dim", 15)).find("head_dim"), std::string::npos);
  EXPECT_NE(refusal(with(tiny("llama"), "rms_norm_eps", -1.0)).find("rms_norm_eps"), std::string::npos);
  EXPECT_NE(refusal(with(tiny("llama"), "rope_theta", 0)).find("rope_theta"), std::string::npos);
  Json huge = tiny("llama");  // each number is allowed, their product is not
  huge["hidden_size"] = 1 << 20;
  huge["intermediate_size"] = 1 << 24;
  huge["num_hidden_layers"] = 1 << 14;
  EXPECT_NE(refusal(huge), "");
}

TEST(ModelConfig, RopeStylesMeanTheSame) {
  Json older = tiny("llama");
  older["rope_theta"] = 500000.0;
  older["rope_scaling"] = {
      {"type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};
  Json newer = tiny("llama");
  newer["rope_parameters"] = older["rope_scaling"];
  newer["rope_parameters"].erase("type");
  newer["rope_parameters"]["rope_type"] = "llama3";
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  EXPECT_EQ(parse(older).rope, parse(newer).rope);
  EXPECT_EQ(parse(older).rope.kind, RopeKind::llama3);
  older["rope_scaling"] = nullptr;
  EXPECT_EQ(parse(older).rope.kind, RopeKind::none);
  EXPECT_EQ(parse(older).rope.theta, 500000.0);
}

TEST(ModelConfig, EarlyPhiFoldersCallLongropeSu) {
  Json j = tiny("phi3");
  j["rope_scaling"] = {{"type", "su"}, {"short_factor", std::vector<double>(8, 1.0)}, {"long_factor", std::vector<double>(8, 2.0)}};
  j["original_max_position_embeddings"] = 32;
  EXPECT_EQ(parse(j).rope.kind, RopeKind::longrope);
  EXPECT_EQ(parse(j).rope.original_max_position_embeddings, 32);
  j["rope_scaling"]["short_factor"] = {1.0};
  EXPECT_NE(refusal(j).find("rope_scaling.short_factor"), std::string::npos);
}

TEST(ModelConfig, RopeThatCannotBeComputedIsRefused) {
  const auto scaling = [](Json value) { return refusal(with(tiny("llama"), "rope_scaling", std::move(value))); };
  EXPECT_NE(scaling({{"type", "linear"}}).find("rope_scaling.factor"), std::string::npos);
  EXPECT_NE(scaling({{"type", "linear"}, {"factor", 0}}).find("rope_scaling.factor"), std::string::npos);
  EXPECT_NE(scaling({{"type", "ntk"}, {"factor", 2}}).find("'ntk'"), std::string::npos);
  EXPECT_NE(scaling({{"type", "default"}, {"mrope_section", {1, 2, 3}}}).find("mrope_section"), std::string::npos);
  EXPECT_NE(scaling({{"full_attention", {{"rope_type", "default"}}}}).find("full_attention"), std::string::npos);
  EXPECT_NE(scaling({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}).find("high_freq_factor"),
            std::string::npos);
  EXPECT_NE(scaling("linear").find("rope_scaling"), std::string::npos);
  EXPECT_NE(refusal(with(tiny("phi3"), "rope_scaling", {{"type", "linear"}, {"factor", 2}})).find("linear"), std::string::npos);
  EXPECT_NE(refusal(with(tiny("llama"), "partial_rotary_factor", 0.5)).find("partial_rotary_factor"), std::string::npos);
  EXPECT_EQ(parse(with(tiny("phi3"), "partial_rotary_factor", 0.75)).rotary_dim, 12);
}

TEST(ModelConfig, YamlRopeScalingStretchesTheTrainedContext) {
  Json j = tiny("llama");
  j["max_position_embeddings"] = 2048;
  j["torch_dtype"] = "float32";
  ModelConfig c = parse(j);
  EXPECT_FALSE(apply_rope_scaling(c, "linear", 2048));
  EXPECT_EQ(c.rope.kind, RopeKind::none);
  EXPECT_TRUE(apply_rope_scaling(c, "linear", 5000));
  EXPECT_EQ(c.rope.factor, 3.0);
  EXPECT_EQ(c.max_position_embeddings, 6144);
  EXPECT_EQ(c.raw->at("rope_scaling").at("rope_type"), "linear");
  EXPECT_EQ(c.raw->at("max_position_embeddings"), 6144);
  for (const char* kind : {"linear", "dynamic", "yarn", "llama3"}) {  // what is exported reads back as what was trained, in both styles
    for (const bool newer : {false, true}) {
      Json style = j;
      if (newer) style["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 50000.0}};
      ModelConfig stretched = parse(style);
      ASSERT_TRUE(apply_rope_scaling(stretched, kind, 8192));
      EXPECT_EQ(parse(*stretched.raw).rope, stretched.rope) << kind << newer;
      EXPECT_EQ(parse(*stretched.raw).max_position_embeddings, stretched.max_position_embeddings);
    }
  }
  ModelConfig other = parse(j);
  EXPECT_THROW(apply_rope_scaling(other, "ntk", 8192), InputError);
  ModelConfig phi = parse(tiny("phi3"));
  EXPECT_THROW(apply_rope_scaling(phi, "yarn", 8192), InputError);
}

TEST(ModelConfig, TrainingWithDropoutIsRefused) {
  EXPECT_NO_THROW(refuse_dropout(parse(tiny("llama"))));
  EXPECT_THROW(refuse_dropout(parse(with(tiny("llama"), "attention_dropout", 0.1))), InputError);
  EXPECT_THROW(refuse_dropout(parse(with(tiny("phi3"), "resid_pdrop", 0.1))), InputError);
}

TEST(ModelConfig, WhatTransformersIgnoresIsNoted) {
  EXPECT_TRUE(parse(tiny("llama")).notes.empty());
  EXPECT_EQ(parse(with(tiny("llama"), "sliding_window", 128)).notes.size(), 1u);
  EXPECT_EQ(parse(with(tiny("phi3"), "mlp_bias", true)).notes.size(), 1u);
}

// Every number of a config that could matter, as text: the two styles of one model must agree in all of them.
std::string everything(const ModelConfig& c) {
  std::string s = c.model_type;
  for (const int64_t v : {c.vocab_size, c.hidden_size, c.intermediate_size, static_cast<int64_t>(c.num_layers), static_cast<int64_t>(c.num_heads),
                          static_cast<int64_t>(c.num_kv_heads), c.head_dim, c.rotary_dim, c.max_position_embeddings, c.bos_token_id.value_or(-1),
                          c.pad_token_id.value_or(-1)}) {
    s += " " + std::to_string(v);
  }
  for (const int64_t v : c.sliding_window) s += " w" + std::to_string(v);
  for (const int64_t v : c.eos_token_ids) s += " e" + std::to_string(v);
  for (const bool b : {c.tie_word_embeddings, c.attention_bias, c.attention_output_bias, c.mlp_bias, c.qk_norm, c.fused_qkv, c.fused_gate_up})
    s += b ? " t" : " f";
  s += " " + dump_json(Json(c.rms_norm_eps)) + " " + dump_json(Json(c.initializer_range)) + " " + (c.dtype ? name_of(*c.dtype) : "-");
  return s;
}

TEST(ModelConfigShared, BothStylesOfEveryReferenceModelGiveTheSameConfig) {
  SKIP_WITHOUT_SHARED();
  int seen = 0;
  for (const auto& item : std::filesystem::directory_iterator(shared_dir() + "/reference")) {
    const std::string folder = item.path().string();
    if (!std::filesystem::exists(folder + "/config.v4.json")) continue;
    ++seen;
    const ModelConfig newer = load_model_config(folder), older = load_model_config(folder + "/config.v4.json");
    EXPECT_EQ(everything(newer), everything(older)) << folder;
    EXPECT_EQ(newer.rope, older.rope) << folder;
  }
  EXPECT_EQ(seen, 20);
}

// Distance in units in the last place.
int64_t ulps(float a, float b) {
  int32_t x, y;
  std::memcpy(&x, &a, 4);
  std::memcpy(&y, &b, 4);
  return std::abs(static_cast<int64_t>(x) - y);
}

// torch's vectorised powf and the C library's are each within 1 ulp of the true power, so they differ by at most 2, and the division that follows
// rounds once more: 3. yarn and llama3 blend two such terms of one sign (relative errors do not grow) by four more roundings: 7.
TEST(Rope, FrequenciesAreThoseOfTransformers) {
  const Json cases = parse_json_file("tests/data/rope_tables.json");
  ASSERT_GT(cases.size(), 20u);
  for (const Json& one : cases) {
    const ModelConfig c = parse(one["config"]);
    const int64_t length = one["sequence_length"].get<int64_t>();
    const RopeFrequencies f = compute_inv_freq(c, length);
    const std::string what = one["config"].dump() + " length " + std::to_string(length);
    ASSERT_EQ(f.inv_freq.size(), one["inv_freq"].size()) << what;
    for (size_t i = 0; i < f.inv_freq.size(); ++i) {
      const float expected = one["inv_freq"][i].get<float>();
      const bool blends = c.rope.kind == RopeKind::yarn || c.rope.kind == RopeKind::llama3;
      EXPECT_LE(ulps(f.inv_freq[i], expected), blends ? 7 : 3) << what << " [" << i << "] " << f.inv_freq[i] << " " << expected;
    }
    EXPECT_LE(ulps(f.attention_scaling, one["attention_scaling"].get<float>()), 1) << what;
    EXPECT_EQ(rope_depends_on_length(c), c.rope.kind == RopeKind::dynamic || c.rope.kind == RopeKind::longrope);
  }
}

}  // namespace
}  // namespace llmtrain
