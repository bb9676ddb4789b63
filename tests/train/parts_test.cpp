// Parts of training and generation that need no ranks: random weights, freezing, sampling, streaming text.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "support/shared.h"
#include "train/generate.h"
#include "train/random_weights.h"
#include "train/trainable.h"

namespace llmtrain {
namespace {

ModelConfig small_model() {
  const Json json = {{"model_type", "llama"},
                     {"architectures", {"LlamaForCausalLM"}},
                     {"vocab_size", 64},
                     {"hidden_size", 16},
                     {"intermediate_size", 24},
                     {"num_hidden_layers", 3},
                     {"num_attention_heads", 4},
                     {"num_key_value_heads", 2},
                     {"max_position_embeddings", 64},
                     {"rms_norm_eps", 1e-5},
                     {"hidden_act", "silu"},
                     {"tie_word_embeddings", false},
                     {"attention_bias", true},
                     {"initializer_range", 0.05}};
  return parse_model_config(json, "test");
}

TEST(RandomWeights, AnyPartEqualsThatPartOfTheWhole) {
  std::vector<float> whole(1000);
  random_normal(7, "a.weight", 1.0f, 0, 1000, whole.data());
  for (const auto& [begin, count] : {std::pair{0, 1}, {1, 3}, {3, 6}, {997, 3}, {4, 8}, {500, 0}}) {
    std::vector<float> part(static_cast<size_t>(count));
    random_normal(7, "a.weight", 1.0f, begin, count, part.data());
    for (int i = 0; i < count; ++i) EXPECT_EQ(part[static_cast<size_t>(i)], whole[static_cast<size_t>(begin + i)]) << begin << "+" << i;
  }
}

TEST(RandomWeights, SeedAndNameDecideAndTheNumbersAreNormal) {
  const int n = 100000;
  std::vector<float> a(n), b(n), c(n);
  random_normal(7, "a.weight", 0.5f, 0, n, a.data());
  random_normal(8, "a.weight", 0.5f, 0, n, b.data());
  random_normal(7, "b.weight", 0.5f, 0, n, c.data());
  EXPECT_NE(a[0], b[0]);
  EXPECT_NE(a[0], c[0]);
  double mean = 0, square = 0, product = 0;
  int within = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    mean += a[i] / n;
    square += static_cast<double>(a[i]) * a[i] / n;
    product += static_cast<double>(a[i]) * b[i] / n;
    within += std::abs(a[i]) < 0.5f;
  }
  // Five standard errors of n draws: sigma/sqrt(n), sigma^2 sqrt(2/n), sigma^2/sqrt(n), sqrt(p(1-p)/n).
  EXPECT_NEAR(mean, 0, 5 * 0.5 / std::sqrt(n));
  EXPECT_NEAR(square, 0.25, 5 * 0.25 * std::sqrt(2.0 / n));
  EXPECT_NEAR(product, 0, 5 * 0.25 / std::sqrt(n));
  EXPECT_NEAR(static_cast<double>(within) / n, 0.682689, 5 * std::sqrt(0.6827 * 0.3173 / n));
}

TEST(RandomWeights, NormsAreOneAndBiasesZero) {
  const ModelConfig config = small_model();
  const RandomWeights weights(config, 1);
  for (const TensorSpec& tensor : all_tensors(config)) {
    float value = -1;
    weights.fill(tensor.name, 2, 1, &value);
    if (tensor.name.find("norm") != std::string::npos) {
      EXPECT_EQ(value, 1.0f) << tensor.name;
    } else if (tensor.name.ends_with("bias")) {
      EXPECT_EQ(value, 0.0f) << tensor.name;
    } else {
      EXPECT_NE(value, 0.0f) << tensor.name;
      EXPECT_LT(std::abs(value), 0.5f) << tensor.name;
    }
  }
}

std::set<std::string> chosen(const FreezeChoice& choice) {
  const ModelConfig config = small_model();
  const auto trained = frozen_training(config, choice);
  std::set<std::string> names;
  for (const TensorSpec& tensor : all_tensors(config))
    if (trained(tensor.name)) names.insert(tensor.name);
  return names;
}

TEST(Freeze, TakesTheLastBlocksOrTheFirstWhenNegative) {
  for (const std::string& name : chosen({2, {"all"}, {}}))
    EXPECT_TRUE(name.find("layers.1.") != std::string::npos || name.find("layers.2.") != std::string::npos) << name;
  for (const std::string& name : chosen({-1, {"all"}, {}})) EXPECT_NE(name.find("layers.0."), std::string::npos) << name;
  EXPECT_EQ(chosen({100, {"all"}, {}}).size(), chosen({3, {"all"}, {}}).size());
  EXPECT_EQ(chosen({2, {"all"}, {}}).size(), 2 * chosen({1, {"all"}, {}}).size());
}

TEST(Freeze, TakesModulesAndExtraModules) {
  const std::set<std::string> names = chosen({1, {"self_attn"}, {"embed_tokens", "norm"}});
  EXPECT_TRUE(names.count("model.embed_tokens.weight"));
  EXPECT_TRUE(names.count("model.norm.weight"));
  EXPECT_FALSE(names.count("lm_head.weight"));
  EXPECT_TRUE(names.count("model.layers.2.self_attn.q_proj.weight"));
  EXPECT_FALSE(names.count("model.layers.2.mlp.up_proj.weight"));
  EXPECT_TRUE(names.count("model.layers.0.input_layernorm.weight")) << "LLaMA-Factory finds \"norm\" in this name too";
  EXPECT_FALSE(names.count("model.layers.0.self_attn.q_proj.weight"));
}

TEST(Freeze, UnknownModulesAreRefusedWithTheList) {
  try {
    chosen({1, {"attention"}, {}});
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("self_attn"), std::string::npos) << e.what();
  }
  EXPECT_THROW(chosen({1, {"all"}, {"wte"}}), InputError);
  EXPECT_THROW(chosen({0, {"all"}, {}}), InputError);
}

TEST(Sampling, GreedyTakesTheLargestAndTheFirstOfEquals) {
  const std::vector<float> logits{1, 3, 2, 3};
  EXPECT_EQ(choose_token(logits, {}, 0), 1);
}

TEST(Sampling, TopKAndTopPKeepOnlyTheLikely) {
  const std::vector<float> logits{0, 5, 4, -3, 3};
  SamplingOptions k;
  k.temperature = 1;
  k.top_k = 2;
  SamplingOptions p;
  p.temperature = 1;
  p.top_p = 0.6;  // the first has 0.665
  for (int64_t position = 0; position < 300; ++position) {
    const int32_t by_k = choose_token(logits, k, position);
    EXPECT_TRUE(by_k == 1 || by_k == 2) << by_k;
    EXPECT_EQ(choose_token(logits, p, position), 1);
  }
}

TEST(Sampling, FrequenciesFollowTheSoftmaxAtItsTemperature) {
  const std::vector<float> logits{0, 1, 2};
  SamplingOptions o;
  o.temperature = 0.7;
  o.seed = 3;
  double weights[3], total = 0;
  for (int i = 0; i < 3; ++i) total += weights[i] = std::exp(logits[static_cast<size_t>(i)] / 0.7);
  const int n = 20000;
  int counts[3] = {0, 0, 0};
  for (int position = 0; position < n; ++position) ++counts[choose_token(logits, o, position)];
  for (int i = 0; i < 3; ++i) {
    const double p = weights[i] / total;
    EXPECT_NEAR(static_cast<double>(counts[i]) / n, p, 5 * std::sqrt(p * (1 - p) / n)) << i;
  }
}

TEST(Sampling, TheSameSeedAndPositionGiveTheSameToken) {
  std::vector<float> logits(100);
  std::iota(logits.begin(), logits.end(), 0.0f);
  for (float& l : logits) l = std::sin(l);
  SamplingOptions o;
  o.temperature = 2;
  o.seed = 11;
  std::set<int32_t> seen;
  for (int64_t position = 0; position < 50; ++position) {
    EXPECT_EQ(choose_token(logits, o, position), choose_token(logits, o, position));
    seen.insert(choose_token(logits, o, position));
  }
  EXPECT_GT(seen.size(), 10u);
}

TEST(Sampling, WrongFlagsAreRefused) {
  SamplingOptions o;
  o.temperature = -1;
  EXPECT_THROW(check_sampling(o), InputError);
  o = {};
  o.top_p = 0;
  EXPECT_THROW(check_sampling(o), InputError);
  o = {};
  o.top_k = -1;
  EXPECT_THROW(check_sampling(o), InputError);
}

// A byte-level tokenizer learned from nothing but bytes: every character beyond ASCII is several tokens.
TEST(TextStream, NeverEndsInsideACharacterAndLosesNothing) {
  const testing_support::ScratchFolder folder;
  BpeTrainingOptions options;
  options.vocab_size = 258;
  train_byte_level_bpe("abc", options, folder.path());
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  const std::string text = "Grüße, 世界! 👩‍🚀 ok";
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode(text, ids);
  ASSERT_GT(ids.size(), text.size() / 2);
  TextStream stream(tokenizer, {});
  std::string joined;
  for (const int32_t id : ids) {
    const std::string piece = stream.add(id);
    EXPECT_EQ(piece.find("\xEF\xBF\xBD"), std::string::npos) << "a broken character was shown";
    joined += piece;
  }
  joined += stream.finish();
  EXPECT_EQ(joined, text);
}

TEST(TextStream, AnUnfinishedCharacterComesOutAtTheEnd) {
  const testing_support::ScratchFolder folder;
  BpeTrainingOptions options;
  options.vocab_size = 258;
  train_byte_level_bpe("abc", options, folder.path());
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode("x世", ids);
  ids.pop_back();
  TextStream stream(tokenizer, {});
  std::string joined;
  for (const int32_t id : ids) joined += stream.add(id);
  EXPECT_EQ(joined, "x");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace llmtrain
