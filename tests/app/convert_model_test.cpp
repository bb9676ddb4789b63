// llmtrain convert's work: types, shard sizes, what is copied beside the weights, what is refused.
#include "app/convert_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "hf/model_folder.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using namespace testing_support;
namespace fs = std::filesystem;

class ConvertModel : public ::testing::Test {
 protected:
  // A tiny Llama folder with numbers that float16 and bfloat16 round differently.
  void SetUp() override {
    const Json config = {{"model_type", "llama"},    {"architectures", {"LlamaForCausalLM"}},
                         {"vocab_size", 40},         {"hidden_size", 8},
                         {"intermediate_size", 12},  {"num_hidden_layers", 2},
                         {"num_attention_heads", 2}, {"torch_dtype", "float32"},
                         {"my_key", "kept"}};
    std::vector<NamedShape> tensors = {{"model.embed_tokens.weight", {40, 8}}, {"model.norm.weight", {8}}, {"lm_head.weight", {40, 8}}};
    for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
      for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) tensors.push_back({layer + norm, {8}});
      for (const char* p : {"q", "k", "v", "o"}) tensors.push_back({layer + "self_attn." + p + "_proj.weight", {8, 8}});
      for (const char* p : {"gate", "up"}) tensors.push_back({layer + "mlp." + p + "_proj.weight", {12, 8}});
      tensors.push_back({layer + "mlp.down_proj.weight", {8, 12}});
      tensors.push_back({layer + "self_attn.rotary_emb.inv_freq", {2}});
    }
    FolderExport out(solo_, ExportPlan(tensors, DType::float32), folder_ / "in");
    for (const NamedShape& t : tensors) {
      std::vector<float> v(static_cast<size_t>(t.shape.elements()));
      for (size_t i = 0; i < v.size(); ++i) v[i] = 1.0f / static_cast<float>(3 + i) * (i % 2 ? -1.0f : 1.0f);
      out.write_range(t.name, 0, t.shape.elements(), v.data(), DType::float32);
    }
    ExportChoices choices;
    choices.config = std::make_shared<const Json>(config);
    out.finish(make_small_files(choices));
    std::ofstream(folder_ / "in/tokenizer.json") << "{}";
    options_.source = folder_ / "in";
    options_.out = folder_ / "out";
  }
  std::string refuse() {
    try {
      convert_model(options_, solo_, log_);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }
  ScratchFolder folder_;
  SoloGroup solo_;
  Log log_{0, false};
  ConvertOptions options_;
};

TEST_F(ConvertModel, TypesAndShardsChangeAndNothingElse) {
  options_.dtype = DType::bfloat16;
  options_.max_shard_bytes = 700;
  const ConvertResult r = convert_model(options_, solo_, log_);
  EXPECT_GT(r.files, 2u);
  EXPECT_EQ(r.bytes, static_cast<uint64_t>(r.parameters) * 2);
  EXPECT_EQ(r.parameters, 40 * 8 * 2 + 8 + 2 * (2 * 8 + 4 * 64 + 3 * 96));
  const ModelFolder in = ModelFolder::open(options_.source), out = ModelFolder::open(options_.out);
  EXPECT_FALSE(out.has("model.layers.0.self_attn.rotary_emb.inv_freq"));
  for (const std::string& name : out.names()) {
    const int64_t n = in.entry(name).shape.elements();
    std::vector<float> before(static_cast<size_t>(n)), after(static_cast<size_t>(n));
    in.read_range(name, 0, n, before.data(), DType::float32);
    out.read_range(name, 0, n, after.data(), DType::float32);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(static_cast<float>(bfloat16(before[i])), after[i]) << name;
  }
  const Json config = parse_json_file(options_.out + "/config.json");
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["my_key"], "kept");
  EXPECT_TRUE(fs::exists(options_.out + "/tokenizer.json"));
  // and back, without naming a type: as it is stored
  ConvertOptions back;
  back.source = options_.out;
  back.out = folder_ / "back";
  EXPECT_EQ(convert_model(back, solo_, log_).dtype, DType::bfloat16);
}

TEST_F(ConvertModel, RefusesWhatWouldOverwriteAModel) {
  options_.out = options_.source + "/";
  EXPECT_NE(refuse().find("is the folder that is read"), std::string::npos);
  options_.out = folder_ / "other";
  fs::create_directories(options_.out);
  std::ofstream(options_.out + "/mine") << "x";
  EXPECT_NE(refuse().find("not empty"), std::string::npos);
  options_.force = true;
  EXPECT_EQ(refuse(), "");
  EXPECT_TRUE(fs::exists(options_.out + "/mine"));
  std::ofstream(options_.out + "/manifest.json") << "{}";
  EXPECT_NE(refuse().find("is a checkpoint"), std::string::npos) << "its digests cover config.json and the tokenizer";
  options_.source = folder_ / "absent";
  EXPECT_NE(refuse().find("SRC"), std::string::npos);
}

TEST_F(ConvertModel, AFolderThatCannotBeMadeIsWrongInput) {
  std::ofstream(folder_ / "file") << "x";
  options_.out = folder_ / "file/out";
  EXPECT_NE(refuse().find("cannot be made"), std::string::npos);
}

TEST_F(ConvertModel, ADamagedSourceLeavesNothingBehind) {
  fs::resize_file(options_.source + "/model.safetensors", fs::file_size(options_.source + "/model.safetensors") - 1);
  EXPECT_NE(refuse().find("truncated"), std::string::npos);
  EXPECT_FALSE(fs::exists(options_.out));
}

TEST(ConvertModelShared, EveryReferenceModelKeepsItsTensorsBitForBit) {
  SKIP_WITHOUT_SHARED();
  SoloGroup solo;
  Log log(0, false);
  for (const auto& item : fs::directory_iterator(shared_dir() + "/reference")) {
    if (!fs::exists(item.path() / "config.json")) continue;
    const ScratchFolder folder;
    ConvertOptions options;
    options.source = item.path().string();
    options.out = folder / "out";
    options.max_shard_bytes = 30000;
    convert_model(options, solo, log);
    const ModelFolder in = ModelFolder::open(options.source), out = ModelFolder::open(options.out);
    EXPECT_EQ(in.names().size(), out.names().size());
    for (const std::string& name : in.names()) {
      const size_t n = static_cast<size_t>(in.entry(name).shape.elements());
      std::vector<float> a(n), b(n);
      in.read_range(name, 0, static_cast<int64_t>(n), a.data(), DType::float32);
      out.read_range(name, 0, static_cast<int64_t>(n), b.data(), DType::float32);
      EXPECT_EQ(a, b) << options.source << " " << name;
    }
  }
}

}  // namespace
}  // namespace llmtrain
