// The weights of a folder under canonical names: tied heads in every arrangement, and what does not belong.
#include "model/model_weights.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "hf/export.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;
using testing_support::shared_dir;

ModelConfig tiny(bool tied) {
  return parse_model_config({{"model_type", "llama"}, {"vocab_size", 40}, {"hidden_size", 8}, {"intermediate_size", 12}, {"num_hidden_layers", 1},
                             {"num_attention_heads", 2}, {"tie_word_embeddings", tied}}, "config.json");
}

// Element i of each tensor is i; of those named in `shifted`, i + 0.5.
void write_folder(const std::string& folder, const std::vector<NamedShape>& tensors, const std::vector<std::string>& shifted = {}) {
  SoloGroup solo;
  FolderExport out(solo, ExportPlan(tensors, DType::float32), folder);
  for (const NamedShape& t : tensors) {
    std::vector<float> v(static_cast<size_t>(t.shape.elements()));
    const float shift = std::find(shifted.begin(), shifted.end(), t.name) != shifted.end() ? 0.5f : 0.0f;
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i) + shift;
    out.write_range(t.name, 0, t.shape.elements(), v.data(), DType::float32);
  }
  out.finish({});
}
std::vector<NamedShape> shapes(const ModelConfig& c) {
  std::vector<NamedShape> all;
  for (const TensorSpec& t : all_tensors(c)) all.push_back({t.name, t.shape});
  return all;
}

TEST(ModelWeights, ExtraTensorsAreListedNotUsed) {
  const ScratchFolder folder;
  const ModelConfig c = tiny(false);
  auto tensors = shapes(c);
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}});
  write_folder(folder.path(), tensors);
  const ModelWeights w(c, folder.path());
  EXPECT_EQ(w.ignored(), std::vector<std::string>{"model.layers.0.self_attn.rotary_emb.inv_freq"});
  EXPECT_EQ(w.tensors().size(), all_tensors(c).size());
  EXPECT_EQ(w.dtype(), DType::float32);
}

TEST(ModelWeights, ATiedFolderMayHoldTheHeadInstead) {
  const ScratchFolder folder;
  const ModelConfig c = tiny(true);
  auto tensors = shapes(c);
  tensors[0].name = "lm_head.weight";
  write_folder(folder.path(), tensors, {"lm_head.weight"});
  const ModelWeights w(c, folder.path());
  float v = 0;
  w.read_range("model.embed_tokens.weight", 3, 1, &v, DType::float32);
  EXPECT_EQ(v, 3.5f);
}

TEST(ModelWeights, ATiedHeadThatDiffersIsRefused) {
  SoloGroup solo;
  const ModelConfig c = tiny(true);
  const ScratchFolder folder;
  auto tensors = shapes(c);
  tensors.push_back({"lm_head.weight", {40, 8}});
  write_folder(folder.path(), tensors, {"lm_head.weight"});
  const ModelWeights w(c, folder.path());
  EXPECT_EQ(w.ignored(), std::vector<std::string>{"lm_head.weight"});
  EXPECT_THROW(w.verify(solo), InputError);
  write_folder(folder.path(), tensors);  // the same numbers in both
  EXPECT_NO_THROW(ModelWeights(c, folder.path()).verify(solo));
}

TEST(ModelWeights, AnUntiedModelNeedsItsHead) {
  const ScratchFolder folder;
  write_folder(folder.path(), shapes(tiny(true)));
  try {
    ModelWeights(tiny(false), folder.path());
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("lm_head.weight"), std::string::npos);
  }
}

TEST(ModelWeightsShared, EveryReferenceModelHasWhatItsConfigDeclares) {
  SKIP_WITHOUT_SHARED();
  int seen = 0;
  for (const char* root : {"/reference", "/compat/models"}) {
    for (const auto& item : std::filesystem::directory_iterator(shared_dir() + root)) {
      const std::string folder = item.path().string();
      if (!std::filesystem::exists(folder + "/config.json")) continue;
      ++seen;
      const ModelWeights w(load_model_config(folder), folder);
      EXPECT_TRUE(w.ignored().empty()) << folder;
    }
  }
  EXPECT_EQ(seen, 23);
}

}  // namespace
}  // namespace llmtrain
