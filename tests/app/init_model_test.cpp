// llmtrain init: the folder it makes, and what it refuses.
#include "app/init_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "hf/model_folder.h"
#include "model/model_config.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

constexpr const char* kConfig = R"({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 320, "hidden_size": 64,
  "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
  "initializer_range": 0.05, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"})";
constexpr const char* kText = "The ranks of a node read each other's shards. The ranks of different nodes send messages.\n";

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

class InitModel : public testing::Test {
 protected:
  void SetUp() override { write(scratch / "config.json", kConfig); }
  InitOptions options(const std::string& out) {
    InitOptions o;
    o.source = scratch / "config.json";
    o.out = scratch / out;
    return o;
  }
  InitResult run(const InitOptions& o) { return init_model(o, group, log); }
  std::vector<float> tensor(const std::string& out, const std::string& name) {
    const ModelFolder folder = ModelFolder::open(scratch / out);
    std::vector<float> values(static_cast<size_t>(folder.entry(name).shape.elements()));
    folder.read_range(name, 0, static_cast<int64_t>(values.size()), values.data(), DType::float32);
    return values;
  }
  ScratchFolder scratch;
  SoloGroup group;
  Log log{0, false};
};

TEST_F(InitModel, HoldsEveryTensorOfTheModelWithItsShape) {
  const InitResult result = run(options("out"));
  const ModelConfig config = load_model_config(scratch / "out");
  std::vector<NamedShape> expected;
  for (const TensorSpec& t : all_tensors(config)) expected.push_back({t.name, t.shape});
  EXPECT_TRUE(ModelFolder::open(scratch / "out").check(expected).empty());
  EXPECT_EQ(result.parameters, parameter_count(config));
  EXPECT_EQ(config.dtype, DType::float32);
}

TEST_F(InitModel, AFolderThatCannotBeMadeIsWrongInput) {
  write(scratch / "text.txt", kText);
  InitOptions o = options("config.json/out");
  EXPECT_THROW(run(o), InputError);
  o.tokenizer_from = scratch / "text.txt";
  o.vocab_size = 300;
  EXPECT_THROW(run(o), InputError);
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
}

TEST_F(InitModel, MatricesAreNormalNormsOneBiasesZero) {
  run(options("out"));
  for (const float w : tensor("out", "model.layers.0.input_layernorm.weight")) ASSERT_EQ(w, 1.0f);
  for (const float b : tensor("out", "model.layers.1.self_attn.q_proj.bias")) ASSERT_EQ(b, 0.0f);
  const std::vector<float> w = tensor("out", "model.embed_tokens.weight");
  double sum = 0, squares = 0, fourth = 0;
  for (const float v : w) sum += v, squares += static_cast<double>(v) * v, fourth += std::pow(v, 4);
  const double n = static_cast<double>(w.size()), deviation = 0.05;
  // Standard errors of mean, variance and fourth moment of n normal numbers; five of them.
  EXPECT_NEAR(sum / n, 0, 5 * deviation / std::sqrt(n));
  EXPECT_NEAR(squares / n, deviation * deviation, 5 * deviation * deviation * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 3 * std::pow(deviation, 4), 5 * std::pow(deviation, 4) * std::sqrt(96 / n));
}

TEST_F(InitModel, SameSeedSameWeightsOtherSeedOthers) {
  InitOptions other = options("c");
  other.seed = 43;
  run(options("a"));
  run(options("b"));
  run(other);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  EXPECT_EQ(tensor("a", name), tensor("b", name));
  EXPECT_NE(tensor("a", name), tensor("c", name));
}

TEST_F(InitModel, LearnsATokenizerThatFitsTheModel) {
  write(scratch / "text.txt", kText);
  InitOptions o = options("out");
  o.tokenizer_from = scratch / "text.txt";
  o.vocab_size = 290;
  const InitResult result = run(o);
  EXPECT_TRUE(result.has_tokenizer);
  const Tokenizer tokenizer = Tokenizer::load(scratch / "out");
  const ModelConfig config = load_model_config(scratch / "out");
  EXPECT_EQ(tokenizer.vocab_size(), 290);
  EXPECT_EQ(config.vocab_size, tokenizer.vocab_size());
  EXPECT_EQ(config.bos_token_id, tokenizer.bos_id());
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{tokenizer.eos_id()});
  EXPECT_GE(tokenizer.id_of("<|eot_id|>"), 256);
  EXPECT_FALSE(tokenizer.chat_template().empty());
  EXPECT_EQ(parse_json_file(scratch / "out/generation_config.json").at("eos_token_id"), tokenizer.eos_id());
  Encoder encoder(tokenizer);
  std::vector<int32_t> ids;
  encoder.encode(kText, ids);
  EXPECT_LT(ids.size(), std::strlen(kText));
  EXPECT_EQ(tokenizer.decode(ids, false), kText);
  EXPECT_FALSE(std::filesystem::exists(scratch / "out.tokenizer.tmp"));
}

TEST_F(InitModel, TextOfADatasetIsItsStringsWithoutKeys) {
  write(scratch / "rows.json", R"([{"instruction": "one", "output": "two", "n": 3, "history": [["four", "five"]]}])");
  EXPECT_EQ(text_of_dataset(scratch / "rows.json"), "one\ntwo\nfour\nfive\n");
  write(scratch / "rows.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"two\"}");
  EXPECT_EQ(text_of_dataset(scratch / "rows.jsonl"), "one\ntwo\n");
  write(scratch / "broken.jsonl", "{\"text\": \"one\"}\n{\"text\": ");
  EXPECT_THROW(text_of_dataset(scratch / "broken.jsonl"), InputError);
  write(scratch / "empty.json", "[1, 2]");
  EXPECT_THROW(text_of_dataset(scratch / "empty.json"), InputError);
}

TEST_F(InitModel, LeavesAFolderAloneThatIsNotEmpty) {
  std::filesystem::create_directories(scratch / "out");
  write(scratch / "out/notes.txt", "mine");
  EXPECT_THROW(run(options("out")), InputError);
  EXPECT_FALSE(std::filesystem::exists(scratch / "out/config.json"));
  InitOptions forced = options("out");
  forced.force = true;
  run(forced);
  EXPECT_TRUE(std::filesystem::exists(scratch / "out/notes.txt"));
}

TEST_F(InitModel, RefusesWhatMakesNoSense) {
  InitOptions size_without_text = options("a");
  size_without_text.vocab_size = 512;
  EXPECT_THROW(run(size_without_text), InputError);
  InitOptions too_small = options("a");
  write(scratch / "text.txt", kText);
  too_small.tokenizer_from = scratch / "text.txt";
  too_small.vocab_size = 200;
  EXPECT_THROW(run(too_small), InputError);
  InitOptions nowhere = options("a");
  nowhere.source = scratch / "no-such-folder";
  EXPECT_THROW(run(nowhere), InputError);
  EXPECT_FALSE(std::filesystem::exists(scratch / "a"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "a.tokenizer.tmp"));
}

TEST_F(InitModel, CutsLargeModelsIntoFiles) {
  InitOptions o = options("out");
  o.max_shard_bytes = 100'000;
  o.dtype = DType::bfloat16;
  run(o);
  EXPECT_GT(ModelFolder::open(scratch / "out").files().size(), 1u);
  EXPECT_EQ(load_model_config(scratch / "out").dtype, DType::bfloat16);
}

}  // namespace
}  // namespace llmtrain
