// Finding models by folder and in Hugging Face's cache, and reading them over shards.
#include "hf/model_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "hf/support.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using namespace testing_support;
namespace fs = std::filesystem;

std::string tensor(const std::string& name, const std::vector<float>& v) {
  return safetensors(
      "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[" + std::to_string(v.size()) + "],\"data_offsets\":[0," + std::to_string(4 * v.size()) + "]}}",
      bytes_of(v));
}
std::string index_of(const std::string& weight_map) { return "{\"metadata\":{\"total_size\":1},\"weight_map\":" + weight_map + "}"; }

// Sets environment variables for one test.
class Environment {
 public:
  void set(const char* name, const std::string& value) {
    keep(name);
    ::setenv(name, value.c_str(), 1);
  }
  void clear(const char* name) {
    keep(name);
    ::unsetenv(name);
  }
  ~Environment() {
    for (const auto& [name, value] : before_) value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }

 private:
  void keep(const char* name) {
    const char* v = ::getenv(name);
    before_.emplace_back(name, v ? std::optional<std::string>(v) : std::nullopt);
  }
  std::vector<std::pair<std::string, std::optional<std::string>>> before_;
};

class ModelFolderTest : public ::testing::Test {
 protected:
  std::string refuse() {
    return refusal([&] { ModelFolder::open(folder_.path()); });
  }
  ScratchFolder folder_;
};

TEST_F(ModelFolderTest, ShardsAreReadAsOneModel) {
  write_text(folder_ / "model-00001-of-00002.safetensors", tensor("a", {1, 2}));
  write_text(folder_ / "model-00002-of-00002.safetensors", tensor("b", {3, 4, 5}));
  write_text(folder_ / "model.safetensors.index.json",
             index_of(R"({"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"})"));
  const ModelFolder m = ModelFolder::open(folder_.path());
  EXPECT_EQ(m.names(), (std::vector<std::string>{"a", "b"}));
  float v = 0;
  m.read_range("b", 1, 1, &v, DType::float32);
  EXPECT_EQ(v, 4);
  EXPECT_EQ(m.check({{"a", {2}}}), std::vector<std::string>{"b"});
}

TEST_F(ModelFolderTest, WhatIsMissingOrDifferentIsListedOnce) {
  write_text(folder_ / "model.safetensors", tensor("a", {1, 2}));
  const ModelFolder m = ModelFolder::open(folder_.path());
  const std::string message = refusal([&] { m.check({{"a", {3}}, {"x1", {1}}, {"x2", {1}}, {"x3", {1}}, {"x4", {1}}, {"x5", {1}}, {"x6", {1}}}); });
  EXPECT_NE(message.find("6 of 7 tensors are missing"), std::string::npos) << message;
  EXPECT_NE(message.find("x5"), std::string::npos);
  EXPECT_EQ(message.find("x6"), std::string::npos);
  EXPECT_NE(message.find("and 1 more"), std::string::npos);
  EXPECT_NE(message.find("a is [2], config.json needs [3]"), std::string::npos);
}

TEST_F(ModelFolderTest, AnIndexMayOnlyNamePlainFilesOfTheFolder) {
  write_text(folder_ / "s.safetensors", tensor("a", {1}));
  for (const std::string file : {"../x.safetensors", "/etc/passwd", "d/s.safetensors", "..", "", "a\\u0000b", "a\\nb"}) {
    write_text(folder_ / "model.safetensors.index.json", index_of("{\"a\":\"" + file + "\"}"));
    EXPECT_NE(refuse().find("plain file name"), std::string::npos) << file;
  }
  write_text(folder_ / "model.safetensors.index.json", index_of(R"({"a":3})"));
  EXPECT_NE(refuse().find("plain file name"), std::string::npos);
  write_text(folder_ / "model.safetensors.index.json", index_of(R"({"a":"gone.safetensors"})"));
  EXPECT_NE(refuse().find("gone.safetensors"), std::string::npos);
  write_text(folder_ / "model.safetensors.index.json", index_of(R"({"b":"s.safetensors"})"));
  EXPECT_NE(refuse().find("\"b\" is not in s.safetensors"), std::string::npos);
  write_text(folder_ / "model.safetensors.index.json", index_of(R"({"a":"s.safetensors","a":"s.safetensors"})"));
  EXPECT_NE(refuse().find("twice"), std::string::npos);
  write_text(folder_ / "model.safetensors.index.json", "[]");
  EXPECT_NE(refuse().find("weight_map"), std::string::npos);
}

TEST_F(ModelFolderTest, FoldersWithoutSafetensorsAreRefusedWithAdvice) {
  EXPECT_NE(refuse().find("neither model.safetensors"), std::string::npos);
  write_text(folder_ / "consolidated.safetensors", tensor("a", {1}));
  EXPECT_NE(refuse().find("other safetensors files"), std::string::npos);
  write_text(folder_ / "m.gguf", "GGUF");
  EXPECT_NE(refuse().find("GGUF"), std::string::npos);
  write_text(folder_ / "pytorch_model.bin", "PK\x03\x04");
  EXPECT_NE(refuse().find("save_pretrained"), std::string::npos);
  write_text(folder_ / "adapter_config.json", "{}");
  EXPECT_NE(refuse().find("adapter_name_or_path"), std::string::npos);
  EXPECT_NE(refusal([&] { ModelFolder::open(folder_ / "absent"); }).find("no such model folder"), std::string::npos);
}

// The cache as huggingface_hub lays it out: snapshots hold links into blobs.
class HubCache : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) environment_.clear(name);
    environment_.set("HOME", folder_ / "home");
  }
  std::string make(const std::string& hub) {
    const std::string model = hub + "/models--Org--Tiny-1.0_x";
    fs::create_directories(model + "/blobs");
    fs::create_directories(model + "/refs");
    fs::create_directories(model + "/snapshots/abc123");
    write_text(model + "/blobs/77aa", tensor("a", {7}));
    write_text(model + "/refs/main", "abc123\n");
    fs::create_symlink("../../blobs/77aa", model + "/snapshots/abc123/model.safetensors");
    return model + "/snapshots/abc123";
  }
  ScratchFolder folder_;
  Environment environment_;
};

TEST_F(HubCache, ANameIsFoundWhereTheVariablesPointAndItsLinksAreFollowed) {
  const std::string name = "Org/Tiny-1.0_x";
  const std::string home = make(folder_ / "home/.cache/huggingface/hub");
  EXPECT_EQ(resolve_model(name), home);
  const std::string xdg = make(folder_ / "xdg/huggingface/hub");
  environment_.set("XDG_CACHE_HOME", folder_ / "xdg");
  EXPECT_EQ(resolve_model(name), xdg);
  const std::string hf = make(folder_ / "hf/hub");
  environment_.set("HF_HOME", folder_ / "hf");
  EXPECT_EQ(resolve_model(name), hf);
  const std::string cache = make(folder_ / "cache");
  environment_.set("HF_HUB_CACHE", folder_ / "cache");
  EXPECT_EQ(resolve_model(name), cache);
  float v = 0;
  ModelFolder::open(resolve_model(name)).read_range("a", 0, 1, &v, DType::float32);
  EXPECT_EQ(v, 7);
}

TEST_F(HubCache, AnAbsentModelComesWithTheCommandThatDownloadsIt) {
  const std::string message = refusal([] { resolve_model("Qwen/Qwen3-4B", "model_name_or_path"); });
  EXPECT_EQ(message.rfind("model_name_or_path: ", 0), 0u);
  EXPECT_NE(message.find("hf download Qwen/Qwen3-4B"), std::string::npos);
  for (const std::string bad : {"/no/such/folder", "../no-such-model", "a/b/c", "", "a/../b", "x;rm -rf", "a/", ".hidden"}) {
    const std::string m = refusal([&] { resolve_model(bad); });
    EXPECT_NE(m, "") << bad;
    EXPECT_EQ(m.find("hf download"), std::string::npos) << bad;
  }
}

TEST_F(HubCache, ABrokenCacheIsNamed) {
  const std::string snapshot = make(folder_ / "home/.cache/huggingface/hub");
  fs::remove(snapshot + "/../../blobs/77aa");
  EXPECT_NE(refusal([&] { ModelFolder::open(resolve_model("Org/Tiny-1.0_x")); }).find("leads nowhere"), std::string::npos);
  write_text(snapshot + "/../../refs/main", "../../../etc");
  EXPECT_NE(refusal([] { resolve_model("Org/Tiny-1.0_x"); }).find("refs/main"), std::string::npos);
  write_text(snapshot + "/../../refs/main", "def");
  EXPECT_NE(refusal([] { resolve_model("Org/Tiny-1.0_x"); }).find("lacks its snapshot def"), std::string::npos);
}

TEST_F(HubCache, AFolderWinsOverTheCache) {
  EXPECT_EQ(resolve_model(folder_.path()), folder_.path());
  write_text(folder_ / "f", "x");
  EXPECT_NE(refusal([&] { resolve_model(folder_ / "f"); }).find("is a file"), std::string::npos);
}

}  // namespace
}  // namespace llmtrain
