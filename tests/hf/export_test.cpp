// Exports: what is written reads back, whoever wrote which part, in every type and shard size; nothing is half-written.
#include "hf/export.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <signal.h>

#include <algorithm>
#include <map>
#include <random>

#include "core/json.h"
#include "hf/copy_tensors.h"
#include "hf/model_folder.h"
#include "hf/support.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using namespace testing_support;
namespace fs = std::filesystem;

const std::vector<NamedShape> kModel = {{"embed", {50, 8}}, {"w0", {16, 8}}, {"n0", {8}}, {"w1", {16, 8}}, {"head", {50, 8}}};

std::vector<float> values_of(const std::string& name, int64_t n) {
  std::mt19937 random(static_cast<unsigned>(std::hash<std::string>{}(name)));
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = normal(random);
  return v;
}

// Each rank writes its own stripe of every tensor.
void write_stripes(RankGroup& group, FolderExport& out) {
  for (const NamedShape& t : kModel) {
    const int64_t n = t.shape.elements();
    const std::vector<float> all = values_of(t.name, n);
    const int64_t begin = n * group.rank() / group.size(), end = n * (group.rank() + 1) / group.size();
    out.write_range(t.name, begin, end - begin, all.data() + begin, DType::float32);
  }
}

std::map<std::string, std::string> content_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& item : fs::directory_iterator(folder)) files[item.path().filename().string()] = read_text(item.path().string());
  return files;
}

void expect_model(const std::string& folder, DType dtype) {
  const ModelFolder m = ModelFolder::open(folder);
  EXPECT_TRUE(m.check(kModel).empty());
  for (const NamedShape& t : kModel) {
    EXPECT_EQ(m.entry(t.name).dtype, dtype);
    const std::vector<float> expected = values_of(t.name, t.shape.elements());
    std::vector<char> rounded(expected.size() * size_of(dtype));
    convert_elements(expected.data(), DType::float32, rounded.data(), dtype, expected.size());
    std::vector<char> got(rounded.size());
    m.read_range(t.name, 0, t.shape.elements(), got.data(), dtype);
    EXPECT_EQ(got, rounded) << t.name;
  }
}

TEST(Export, RoundTripsInEveryTypeShardSizeAndRankCount) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const uint64_t shard : {uint64_t{1}, uint64_t{2048}, kDefaultMaxShardBytes}) {
      std::map<std::string, std::string> by_one;
      for (const int ranks : {1, 3}) {
        const ScratchFolder folder;
        ThreadRanks(ranks).run([&](RankGroup& group) {
          FolderExport out(group, ExportPlan(kModel, dtype, shard), folder.path());
          write_stripes(group, out);
          out.finish({{"config.json", "{}"}});
        });
        expect_model(folder.path(), dtype);
        const auto files = content_of(folder.path());
        EXPECT_EQ(files.count("config.json"), 1u);
        EXPECT_EQ(files.count("model.safetensors"), shard == kDefaultMaxShardBytes ? 1u : 0u);
        if (by_one.empty()) by_one = files;
        EXPECT_EQ(files, by_one) << "the rank count must not change a byte";
      }
    }
  }
}

TEST(Export, FilesAreSplitAsTheHubDoes) {
  const std::vector<NamedShape> t = {{"a", {100}}, {"b", {100}}, {"big", {1000}}, {"c", {50}}, {"d", {150}}};
  const ExportPlan plan(t, DType::float32, 800);
  ASSERT_EQ(plan.files().size(), 3u);
  EXPECT_EQ(plan.files()[0].tensors.size(), 2u);
  EXPECT_EQ(plan.files()[1].tensors.size(), 1u);  // larger than the limit: alone
  EXPECT_EQ(plan.files()[2].name, "model-00003-of-00003.safetensors");
  const Json index = parse_json(plan.index_json(), "index");
  EXPECT_EQ(index["metadata"]["total_size"], 5600);
  EXPECT_EQ(index["weight_map"]["c"], "model-00003-of-00003.safetensors");
  EXPECT_EQ(plan.total_bytes(), 5600u);
}

TEST(Export, NothingIsSeenBeforeFinishAndNothingIsLeftWhenDropped) {
  const ScratchFolder folder;
  SoloGroup solo;
  write_text(folder / "model.safetensors", "the old model");
  {
    FolderExport out(solo, ExportPlan(kModel, DType::float32, 1000), folder.path());
    write_stripes(solo, out);
    EXPECT_EQ(read_text(folder / "model.safetensors"), "the old model");
    for (const auto& [name, content] : content_of(folder.path())) EXPECT_TRUE(name == "model.safetensors" || name.ends_with(".tmp")) << name;
  }
  EXPECT_EQ(content_of(folder.path()).size(), 1u);
  EXPECT_EQ(read_text(folder / "model.safetensors"), "the old model");
}

TEST(Export, AnOldModelOfAnotherLayoutIsReplacedWhole) {
  const ScratchFolder folder;
  SoloGroup solo;
  const auto write = [&](uint64_t shard) {
    FolderExport out(solo, ExportPlan(kModel, DType::float32, shard), folder.path());
    write_stripes(solo, out);
    out.finish({});
    expect_model(folder.path(), DType::float32);
  };
  write_text(folder / "model-00001-of-00003.safetensors.tmp", "left by a killed run");
  write_text(folder / "notes.txt", "mine");
  write(kDefaultMaxShardBytes);
  EXPECT_EQ(content_of(folder.path()).size(), 2u);
  write(1);
  EXPECT_EQ(content_of(folder.path()).size(), kModel.size() + 2);
  write(2000);
  write(kDefaultMaxShardBytes);
  EXPECT_EQ(content_of(folder.path()).size(), 2u);
  EXPECT_EQ(read_text(folder / "notes.txt"), "mine");
}

// A file-size limit stands for a full disk: the write fails with EFBIG on the rank that meets it.
TEST(Export, AFailedWriteIsThrownOnAllRanksByFinishAndLeavesTheOldModel) {
  const ScratchFolder folder;
  write_text(folder / "model.safetensors", "the old model");
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  int failures = 0;
  std::mutex mutex;
  ThreadRanks(3).run([&](RankGroup& group) {
    FolderExport out(group, ExportPlan(kModel, DType::float32, kDefaultMaxShardBytes), folder.path());
    group.barrier();
    if (group.rank() == 0) {
      rlimit small = before;
      small.rlim_cur = 3000;
      ::setrlimit(RLIMIT_FSIZE, &small);
    }
    group.barrier();
    write_stripes(group, out);
    try {
      out.finish({});
    } catch (const OperationError& e) {
      const std::lock_guard lock(mutex);
      ++failures;
      EXPECT_NE(std::string(e.what()).find("model.safetensors.tmp"), std::string::npos) << e.what();
    }
    group.barrier();
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(failures, 3);
  EXPECT_EQ(content_of(folder.path()), (std::map<std::string, std::string>{{"model.safetensors", "the old model"}}));
}

TEST(Export, AFolderThatCannotBeMadeFailsOnAllRanks) {
  const ScratchFolder folder;
  write_text(folder / "file", "");
  int failures = 0;
  std::mutex mutex;
  ThreadRanks(2).run([&](RankGroup& group) {
    try {
      FolderExport out(group, ExportPlan(kModel, DType::float32), folder / "file/x");
    } catch (const InputError&) {
      const std::lock_guard lock(mutex);
      ++failures;
    }
  });
  EXPECT_EQ(failures, 2);
}

TEST(Export, ShardSizesAreReadAsTransformersWritesThem) {
  EXPECT_EQ(parse_shard_size("5GB", "k"), 5'000'000'000u);
  EXPECT_EQ(parse_shard_size("2GiB", "k"), 2147483648u);
  EXPECT_EQ(parse_shard_size("500MB", "k"), 500'000'000u);
  EXPECT_EQ(parse_shard_size("1000", "k"), 1000u);
  for (const char* bad : {"", "GB", "0GB", "-1GB", "5gb2", "1.5GB", "99999999999999TB", "999999999999999999999"}) {
    EXPECT_NE(refusal([&] { parse_shard_size(bad, "--max-shard-size"); }).find("--max-shard-size"), std::string::npos) << bad;
  }
}

class Vector : public TensorSource {
 public:
  const std::vector<NamedShape>& tensors() const override { return kModel; }
  DType dtype() const override { return DType::float32; }
  void verify(RankGroup&) const override {}
  void read_range(const std::string& name, int64_t begin, int64_t count, void* out, DType type) const override {
    const auto t = std::find_if(kModel.begin(), kModel.end(), [&](const NamedShape& x) { return x.name == name; });
    std::vector<float> v = values_of(name, t->shape.elements());
    if (name == poisoned) v[5] = 70000.0f;
    convert_elements(v.data() + begin, DType::float32, out, type, static_cast<size_t>(count));
  }
  std::string poisoned;
};

TEST(CopyTensors, CopiesEveryElementOnAnyRankCount) {
  for (const int ranks : {1, 3}) {
    const ScratchFolder folder;
    ThreadRanks(ranks).run([&](RankGroup& group) {
      FolderExport out(group, ExportPlan(kModel, DType::bfloat16), folder.path());
      copy_tensors(group, Vector(), out);
      out.finish({});
    });
    expect_model(folder.path(), DType::bfloat16);
  }
}

TEST(CopyTensors, ANumberThatFloat16CannotHoldIsRefusedAndNothingWritten) {
  const ScratchFolder folder;
  SoloGroup solo;
  Vector source;
  source.poisoned = "w1";
  const std::string message = refusal([&] {
    FolderExport out(solo, ExportPlan(kModel, DType::float16), folder.path());
    copy_tensors(solo, source, out);
  });
  EXPECT_NE(message.find("w1: holds 70000"), std::string::npos) << message;
  EXPECT_TRUE(content_of(folder.path()).empty());
}

// ---- the small files

Json file_of(const std::vector<SmallFile>& files, const std::string& name) {
  for (const SmallFile& f : files) {
    if (f.name == name) return parse_json(f.content, name);
  }
  return {};
}
ExportChoices choices_of(Json config, const std::string& source = "") {
  ExportChoices c;
  c.config = std::make_shared<const Json>(std::move(config));
  c.source_folder = source;
  c.dtype = DType::bfloat16;
  return c;
}

TEST(ExportFiles, ConfigKeepsItsKeysAndStyle) {
  const Json older = file_of(
      make_small_files(choices_of({{"model_type", "llama"}, {"torch_dtype", "float32"}, {"my_key", {1, 2}}, {"rope_theta", 5e5}})), "config.json");
  EXPECT_EQ(older, Json({{"model_type", "llama"}, {"torch_dtype", "bfloat16"}, {"my_key", {1, 2}}, {"rope_theta", 5e5}}));
  const Json newer = file_of(make_small_files(choices_of({{"dtype", "float32"}, {"rope_parameters", Json::object()}})), "config.json");
  EXPECT_EQ(newer["dtype"], "bfloat16");
  EXPECT_FALSE(newer.contains("torch_dtype"));
  EXPECT_EQ(file_of(make_small_files(choices_of({{"rope_theta", 1.0}})), "config.json")["torch_dtype"], "bfloat16");
}

TEST(ExportFiles, GenerationConfigHoldsTheIds) {
  const ScratchFolder source;
  write_text(source / "generation_config.json", R"({"temperature": 0.6, "eos_token_id": 9, "bos_token_id": 1})");
  ExportChoices c = choices_of({{"eos_token_id", 2}}, source.path());
  EXPECT_EQ(file_of(make_small_files(c), "generation_config.json"), Json({{"temperature", 0.6}, {"eos_token_id", 9}, {"bos_token_id", 1}}));
  c.eos_token_ids = {7};
  c.pad_token_id = 7;
  EXPECT_EQ(file_of(make_small_files(c), "generation_config.json")["eos_token_id"], 7);
  EXPECT_EQ(file_of(make_small_files(c), "config.json")["pad_token_id"], 7);
  c.eos_token_ids = {7, 8};
  EXPECT_EQ(file_of(make_small_files(c), "generation_config.json")["eos_token_id"], Json({7, 8}));
  EXPECT_EQ(file_of(make_small_files(choices_of({{"eos_token_id", 2}, {"pad_token_id", nullptr}})), "generation_config.json"),
            Json({{"_from_model_config", true}, {"eos_token_id", 2}}));
}

TEST(ExportFiles, TokenizerFilesAreCopiedAndTheTemplatesTokensPutIn) {
  const ScratchFolder source;
  write_text(source / "tokenizer.json", "{\"model\": {}}");
  write_text(source / "tokenizer.model", std::string("\0\1\2", 3));
  write_text(
      source / "tokenizer_config.json",
      R"({"eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false}, "model_max_length": 1000000000000000019884624838656, "pad_token": null})");
  write_text(source / "special_tokens_map.json", R"({"eos_token": "</s>"})");
  write_text(source / "chat_template.jinja", "old");
  write_text(source / "secret.py", "print()");
  ExportChoices c = choices_of(Json::object(), source.path());
  c.eos_token = "<|im_end|>";
  c.pad_token = "<|endoftext|>";
  c.chat_template = "{{ messages }}";
  const std::vector<SmallFile> files = make_small_files(c);
  const Json tokenizer = file_of(files, "tokenizer_config.json");
  EXPECT_EQ(tokenizer["eos_token"]["content"], "<|im_end|>");
  EXPECT_EQ(tokenizer["eos_token"]["lstrip"], false);
  EXPECT_EQ(tokenizer["pad_token"], "<|endoftext|>");
  EXPECT_EQ(tokenizer["chat_template"], "{{ messages }}");
  EXPECT_EQ(tokenizer["model_max_length"].get<double>(), 1e30);
  EXPECT_EQ(file_of(files, "special_tokens_map.json")["eos_token"], "<|im_end|>");
  std::map<std::string, std::string> by_name;
  for (const SmallFile& f : files) by_name[f.name] = f.content;
  EXPECT_EQ(by_name.at("tokenizer.json"), "{\"model\": {}}");
  EXPECT_EQ(by_name.at("tokenizer.model"), std::string("\0\1\2", 3));
  EXPECT_EQ(by_name.at("chat_template.jinja"), "{{ messages }}");
  EXPECT_EQ(by_name.count("secret.py"), 0u);
}

TEST(ExportFiles, ABrokenSourceIsNamedBeforeTraining) {
  const ScratchFolder source;
  write_text(source / "tokenizer_config.json", "[1]");
  EXPECT_NE(refusal([&] { make_small_files(choices_of(Json::object(), source.path())); }).find("tokenizer_config.json"), std::string::npos);
  write_text(source / "tokenizer_config.json", "{");
  EXPECT_NE(refusal([&] { make_small_files(choices_of(Json::object(), source.path())); }).find("tokenizer_config.json"), std::string::npos);
}

}  // namespace
}  // namespace llmtrain
