// Checkpoints that a run must not go on from, through the program: of another model, of a newer format, and with links or foreign storage inside (every digest
// right). train, inspect and convert refuse them by name. The tricks themselves, all of them, are in tests/checkpoint/hostile_test.cpp.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "checkpoint/digest.h"
#include "checkpoint/hdf5_tools.h"
#include "checkpoint/support.h"
#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const std::vector<std::string> kRun{"max_steps=3", "save_strategy=steps", "save_steps=1", "logging_steps=1"};

// A run of two steps on two ranks; a third is left to do.
const OwnModel& own() {
  static const OwnModel model;
  static const bool made = [] {
    const RunOutcome run = model.train("whole", 2, kRun);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return true;
  }();
  (void)made;
  return model;
}
std::string checkpoint() { return own().output("whole") + "/checkpoint-2"; }

std::string copy_of_checkpoint(const std::string& name) {
  const std::string to = own().output(name) + "/checkpoint-2";
  fs::create_directories(own().output(name));
  fs::copy(checkpoint(), to, fs::copy_options::recursive);
  return to;
}

RunOutcome program(const std::vector<std::string>& words) {
  RunOptions options;
  options.ranks = 0;
  options.folder = own().path();
  return run_llmtrain(words, options);
}

RunOutcome resume(const std::string& from, int ranks, std::vector<std::string> more = {}) {
  more.insert(more.begin(), kRun.begin(), kRun.end());
  more.push_back("resume_from_checkpoint=" + from);
  if (ranks <= 1) more.push_back("gradient_accumulation_steps=4");
  return own().train("resumed", ranks, more);
}

void expect_says(const RunOutcome& run, int code, const std::vector<std::string>& parts) {
  const std::string text = run.out + run.err;
  EXPECT_EQ(run.exit_code, code) << text;
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not said:\n" << text;
  EXPECT_EQ(text.find("step 3/3"), std::string::npos) << "it trained: " << text;
}

// ---- another model

// The tests' model with another value of one key of its configuration; the tokenizer is the same.
std::string other_model(const std::string& name, const std::string& key, int value) {
  Json config = parse_json(read_file(own().path() + "/config.json"), "config.json");
  config[key] = value;
  own().write(name + ".json", dump_json(config));
  const RunOutcome run = program({"init", name + ".json", name, "--tokenizer-from", "data/colours.json", "--vocab-size", "320", "--seed", "5"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  return name;
}

TEST(ForeignCheckpoint, OfAnotherModelIsRefusedWithTheTensorThatDiffersAndWhatToDo) {
  struct Case {
    std::string model;
    std::vector<std::string> says;
  };
  const std::vector<Case> cases{
      {other_model("wider", "intermediate_size", 96), {"model.layers.0.mlp.", "[80, 32] there and [96, 32] here"}},
      {other_model("deeper", "num_hidden_layers", 4), {"it holds no model.layers.3."}},
      {other_model("shallower", "num_hidden_layers", 2), {"tensors, this model has", "model.layers.2."}},
  };
  for (const Case& c : cases) {
    for (const int ranks : {1, 2}) {
      std::vector<std::string> says = c.says;
      says.insert(says.end(), {"checkpoint-2: this is the checkpoint of another model", "model_name_or_path"});
      expect_says(resume(checkpoint(), ranks, {"model_name_or_path=" + c.model}), 2, says);
    }
  }
  // The same where the run would have taken it up by itself: neither used nor passed over in silence.
  std::vector<std::string> words = kRun;
  copy_of_checkpoint("found");
  words.push_back("model_name_or_path=wider");
  expect_says(own().train("found", 2, words), 2, {"another model", "overwrite_output_dir"});
}

// ---- another format

void expect_refused_by_all(const std::string& folder, int inspect_code, const std::vector<std::string>& says) {
  for (const int ranks : {1, 2}) expect_says(resume(folder, ranks), 2, says);
  expect_says(program({"convert", folder, own().output("converted")}), 2, says);
  expect_says(program({"inspect", folder}), inspect_code, says);
  EXPECT_FALSE(is_regular_file(own().output("converted") + "/model.safetensors"));
  fs::remove_all(own().output("converted"));
}

TEST(ForeignCheckpoint, OfANewerFormatIsRefusedWithItsVersion) {
  const std::string folder = copy_of_checkpoint("newer"), path = folder + "/manifest.json";
  Json manifest = parse_json(read_file(path), path);
  manifest.erase("digest");
  manifest["format_version"] = 2;
  manifest["digest"] = digest_of(dump_json(manifest, 1));
  write_text(path, dump_json(manifest, 1) + "\n");
  expect_refused_by_all(folder, 2, {"checkpoint format version 2; this program reads version 1", "newer"});
  // In an output folder: the run does not begin again over it.
  expect_says(own().train("newer", 2, kRun), 2, {"none is usable", "format version 2"});
}

// ---- links and foreign storage

// The checkpoint with one array of rank 1's shard changed, and every digest right again. Returns the array's path in the file.
std::string forge(const std::string& folder, const std::function<void(hid_t file, const std::string& array, hsize_t elements)>& change) {
  Manifest manifest = read_manifest(folder);
  const StoredUnit& unit = manifest.content.units.front();
  const std::string name = shard_file_name(1, 2), array = "/units/" + unit.name + "/weight";
  {
    const hdf5::Handle file(H5Fopen((folder + "/" + name).c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, "H5Fopen", name);
    change(file, array, static_cast<hsize_t>(unit.find("weight")->shard_elements));
  }
  list_file(manifest, folder, name);
  write_text(folder + "/manifest.json", dump_manifest(manifest));
  return array;
}

TEST(ForeignCheckpoint, WithAnExternalLinkInsideIsRefusedByName) {
  const std::string folder = copy_of_checkpoint("linked");
  const std::string array = forge(folder, [](hid_t file, const std::string& path, hsize_t) {
    hdf5::check(H5Ldelete(file, path.c_str(), H5P_DEFAULT), "H5Ldelete", path);
    hdf5::check(H5Lcreate_external("shard-00000-of-00002.h5", path.c_str(), file, path.c_str(), H5P_DEFAULT, H5P_DEFAULT), "H5Lcreate_external", path);
  });
  expect_refused_by_all(folder, 1, {"shard-00001-of-00002.h5", array + " is a soft or external link"});
}

TEST(ForeignCheckpoint, WithExternalStorageInsideIsRefusedByName) {
  const std::string folder = copy_of_checkpoint("stored-elsewhere");
  const std::string array = forge(folder, [](hid_t file, const std::string& path, hsize_t n) {
    hdf5::check(H5Ldelete(file, path.c_str(), H5P_DEFAULT), "H5Ldelete", path);
    const hdf5::Handle dcpl(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate", path), space(H5Screate_simple(1, &n, nullptr), H5Sclose, "H5Screate_simple", path);
    hdf5::check(H5Pset_external(dcpl, "/etc/passwd", 0, 4 * n), "H5Pset_external", path);
    const hdf5::Handle dataset(H5Dcreate2(file, path.c_str(), H5T_IEEE_F32LE, space, H5P_DEFAULT, dcpl, H5P_DEFAULT), H5Dclose, "H5Dcreate", path);
  });
  expect_refused_by_all(folder, 1, {"shard-00001-of-00002.h5:" + array, "external storage"});
}

TEST(ForeignCheckpoint, ATrainerStateThatNoRunCouldHaveIsRefusedByName) {
  const std::string folder = copy_of_checkpoint("state");
  const Manifest good = read_manifest(folder);
  struct Lie {
    const char *part, *key;
    Json value;
  };
  const Lie lies[] = {{"global_batch", "ranks", 0},       {"global_batch", "ranks", UINT64_MAX},       {"global_batch", "accumulation", kMaxStep},
                      {"trainer", "optimizer_steps", -2}, {"trainer", "optimizer_steps", INT64_MAX},   {"trainer", "elapsed_seconds", 1e300},
                      {"trainer", "tokens", -1},          {"trainer", "loss_sums", Json::array({"x"})}};
  for (const Lie& lie : lies) {
    Manifest forged = good;
    forged.state[lie.part][lie.key] = lie.value;
    write_text(folder + "/manifest.json", dump_manifest(forged));
    expect_says(resume(folder, 0), 2, {lie.value.is_array() ? "is not a number" : std::string(lie.key) == "accumulation" ? "global_batch" : lie.key});
  }
  Manifest forged = good;
  forged.run_id = "a\n\x1b[2J";
  write_text(folder + "/manifest.json", dump_manifest(forged));
  expect_says(program({"inspect", folder}), 0, {"run a\\u000a\\u001b[2J"});
}

// The manifest with another state, its digest right again.
void change_state(const std::string& folder, const std::function<void(Json&)>& change) {
  const std::string path = folder + "/manifest.json";
  Json manifest = parse_json(read_file(path), path);
  manifest.erase("digest");
  change(manifest["state"]);
  manifest["digest"] = digest_of(dump_json(manifest, 1));
  write_text(path, dump_json(manifest, 1) + "\n");
}

// A version that shuffled rows in another way: it would have written the same seed and the same rows.
TEST(ForeignCheckpoint, OfAVersionThatShuffledOtherwiseIsRefused) {
  const std::string folder = copy_of_checkpoint("shuffled");
  change_state(folder, [](Json& state) { state["sampler"].erase("order"); });
  expect_says(resume(folder, 2), 2, {"shuffled rows in another way", "torch.randperm"});
}

// Templates that write the date into a prompt with tools take the date that the run began with: else midnight would make it another run.
TEST(ForeignCheckpoint, RowsKeepTheDateThatTheRunBeganWith) {
  own().write("data/tools.json", R"([{"conversations": [{"from": "human", "value": "What colour is grass?"}, {"from": "gpt", "value": "It is green."}],
    "tools": "[{\"name\": \"look\", \"description\": \"looks\", \"parameters\": {\"type\": \"object\", \"properties\": {}}}]"}])");
  own().write("data/dataset_info.json", R"({"colours": {"file_name": "colours.json"},
    "tools": {"file_name": "tools.json", "formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}})");
  const std::vector<std::string> words{"dataset=colours,tools", "cutoff_len=250", "max_steps=2", "save_strategy=steps", "save_steps=1"};
  ASSERT_EQ(own().train("dated", 0, words).exit_code, 0);
  const std::string folder = own().output("dated") + "/checkpoint-1";
  fs::remove_all(own().output("dated") + "/checkpoint-2");
  change_state(folder, [](Json& state) {
    EXPECT_FALSE(state["tool_date"].get<std::string>().empty());
    state["tool_date"] = "01 Jan 1999";
  });
  std::vector<std::string> by_path = words;
  by_path.push_back("resume_from_checkpoint=" + folder);
  for (const std::vector<std::string>& way : {words, by_path}) {
    const RunOutcome run = own().train("dated", 0, way);
    EXPECT_EQ(run.exit_code, 2) << "the rows are made with the date in the checkpoint, so its digest of the rows does not fit: " << run.err;
    EXPECT_NE(run.err.find("other training rows"), std::string::npos) << run.err;
  }
}

}  // namespace
}  // namespace llmtrain
