// `llmtrain config`, the choice of commands and their exit codes, and the documents that are made from the program itself.
// LLMTRAIN_REGENERATE=1 writes docs/configuration.md and docs/compatibility.md anew in place of comparing them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "app/app.h"
#include "app/commands.h"
#include "app/config_check.h"
#include "app/version.h"
#include "config/config.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "optim/schedules.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;
using testing_support::shared_dir;

struct Outcome {
  int code;
  std::string out, err;
};

Outcome run(const std::vector<std::string>& words, int rank = 0) {
  App app;
  app.launcher_rank = rank;
  app.log.set_rank(rank, app.speaks());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = run_app(words, app);
  return {code, ::testing::internal::GetCapturedStdout(), ::testing::internal::GetCapturedStderr()};
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::string kGood = "model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: full\ndataset: a,b\noutput_dir: out\n";

TEST(Program, UnknownCommandsAndOptionsNameTheNearest) {
  EXPECT_EQ(run({"confg"}).code, kExitInput);
  EXPECT_TRUE(has(run({"confg"}).err, "nearest: config"));
  EXPECT_TRUE(has(run({"config", "--confg", "x"}).err, "nearest: --config"));
  EXPECT_EQ(run({"config", "--conf", "x"}).code, kExitInput);  // no guessing of shortened options
  EXPECT_EQ(run({"config"}).code, kExitInput);
  EXPECT_EQ(run({}).code, kExitInput);
}

TEST(Program, HelpGoesToStdoutAndEndsWithZero) {
  const Outcome all = run({"--help"});
  EXPECT_EQ(all.code, kExitDone);
  for (const Command& command : commands()) {
    EXPECT_TRUE(has(all.out, command.name));
    const Outcome one = run({command.name, "--help"});
    EXPECT_EQ(one.code, kExitDone) << command.name;
    EXPECT_TRUE(has(one.out, std::string("usage: llmtrain ") + command.name)) << one.out;
    EXPECT_EQ(one.err, "");
  }
  EXPECT_TRUE(has(run({"config", "-h"}).out, "cutoff_len"));
}

TEST(Program, OneRankSpeaks) {
  const Outcome silent = run({"config", "--config", "/nonexistent.yaml"}, 1);
  EXPECT_EQ(silent.code, kExitInput);
  EXPECT_EQ(silent.out + silent.err, "");
  EXPECT_TRUE(has(run({"config", "--config", "/nonexistent.yaml"}, 0).err, "/nonexistent.yaml"));
}

TEST(Program, ReportShowsTheLastTrainingLossEvenWhereAnEvaluationCameAfterIt) {
  ScratchFolder folder;
  write_file_atomically(folder / "trainer_log.jsonl",
                        "{\"current_steps\": 10, \"total_steps\": 20, \"loss\": 4.5}\n{\"current_steps\": 20, \"total_steps\": 20, \"loss\": 2.25}\n"
                        "{\"current_steps\": 20, \"total_steps\": 20, \"eval_loss\": 3.5}\n{\"current_st");
  const Outcome outcome = run({"report", folder.path()});
  EXPECT_EQ(outcome.code, kExitDone);
  EXPECT_TRUE(has(outcome.out, "20/20  2.25")) << outcome.out;
}

TEST(Program, ReportNamesABrokenRunAndShowsTheOthers) {
  ScratchFolder folder;
  for (const char* run : {"a", "b", "c"}) std::filesystem::create_directory(folder / run);
  write_file_atomically(folder / "a/all_results.json", "{\"train_loss\": 1.25");
  write_file_atomically(folder / "b/all_results.json", "{\"train_loss\": 2.5}");
  write_file_atomically(folder / "b/trainer_log.jsonl", "{\"current_steps\": \"\\u001b[2J\", \"total_steps\": 20, \"loss\": 4.5}\n");
  write_file_atomically(folder / "c/all_results.json", "[1]");
  const std::vector<std::string> words{"report", folder / "a", folder / "b", folder / "c", folder / "none"};
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.code, kExitInput);
  EXPECT_TRUE(has(outcome.out, "2.5")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "broken")) << outcome.out;
  EXPECT_FALSE(has(outcome.out, "\x1b")) << "no control character reaches the terminal";
  for (const char* broken : {"a/all_results.json", "c/all_results.json", "none"}) EXPECT_TRUE(has(outcome.err, folder / broken)) << outcome.err;
  std::vector<std::string> as_json = words;
  as_json.push_back("--json");
  const Outcome json = run(as_json);
  EXPECT_EQ(json.code, kExitInput);
  const Json runs = parse_json(json.out, "report --json")["runs"];
  EXPECT_EQ(runs[0]["state"], "broken");
  EXPECT_TRUE(runs[0].contains("fault"));
  EXPECT_EQ(runs[1]["state"], "done");
}

TEST(Program, TheVersionNamesLibrariesCompiledAndFound) {
  const Outcome text = run({"--version"});
  EXPECT_EQ(text.code, kExitDone);
  for (const char* name :
       {"llmtrain", "commit", "compiler", "flags", "Open MPI", "CUDA", "driver", "NCCL", "cuDNN", "HDF5", "oneDNN", "architectures"}) {
    EXPECT_TRUE(has(text.out, name)) << name << "\n" << text.out;
  }
  const Json json = parse_json(run({"--version", "--json"}).out, "--version --json");
  EXPECT_FALSE(json["version"].get<std::string>().empty());
  for (const char* name : {"HDF5", "oneDNN"}) {
    EXPECT_TRUE(json["libraries"][name]["compiled"].is_string());
    EXPECT_TRUE(json["libraries"][name]["found"].is_string());
  }
  EXPECT_EQ(run({"--version", "--jsn"}).code, kExitInput);
}

class ConfigCommand : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    write_file_atomically(folder_ / name, text);
    return folder_ / name;
  }
  ScratchFolder folder_;
};

TEST_F(ConfigCommand, PrintsTheResolvedYamlWhichParsesToTheSame) {
  const std::string file = write("c.yaml", kGood + "ddp_timeout: 180000000\n");
  const Outcome o = run({"config", "--config", file, "--no-files", "cutoff_len=77"});
  EXPECT_EQ(o.code, kExitDone) << o.err;
  EXPECT_TRUE(has(o.err, "ddp_timeout: accepted without effect"));
  EXPECT_TRUE(has(o.out, "cutoff_len: 77  # command line"));
  EXPECT_TRUE(same_values(parse_config(o.out, "resolved"), load_config(file, {"cutoff_len=77"})));
}

TEST_F(ConfigCommand, ChecksDatasetNamesAndTheDeepSpeedFile) {
  const std::string file = write("c.yaml", kGood + "dataset_dir: " + folder_.path() + "\n");
  EXPECT_TRUE(has(run({"config", "--config", file}).err, "dataset_info.json"));
  write("dataset_info.json", "{\"a\": {\"file_name\": \"a.json\"}, \"bb\": {\"file_name\": \"b.json\"}}");
  const Outcome wrong = run({"config", "--config", file});
  EXPECT_EQ(wrong.code, kExitInput);
  EXPECT_TRUE(has(wrong.err, ":5: dataset: 'b' does not stand in") && has(wrong.err, "nearest: ")) << wrong.err;
  EXPECT_EQ(run({"config", "--config", file, "dataset=a,bb"}).code, kExitDone);  // the data files need not exist
  const std::string ds = write("ds.json", "{\"train_micro_batch_size_per_gpu\": 3, \"zero_optimization\": {\"stage\": 3, \"overlap_comm\": true}}");
  const Outcome with = run({"config", "--config", file, "dataset=a", "deepspeed=" + ds});
  EXPECT_EQ(with.code, kExitDone) << with.err;
  EXPECT_TRUE(has(with.out, "per_device_train_batch_size: 3"));
  EXPECT_TRUE(has(with.err, "overlap_comm: accepted without effect"));
  EXPECT_EQ(run({"config", "--config", file, "dataset=a", "deepspeed=" + folder_.path() + "/none.json"}).code, kExitInput);
  write("ds.json", "{\"zero_optimization\": {\"stage\": 2}}");
  EXPECT_EQ(run({"config", "--config", file, "dataset=a", "deepspeed=" + ds}).code, kExitInput);
  EXPECT_EQ(run({"config", "--config", file, "--no-files", "dataset=x", "deepspeed=/none.json"}).code, kExitDone);
}

TEST_F(ConfigCommand, RefusesWhatTrainWouldRefuse) {
  const auto refusal = [&](const std::string& lines) {
    const Outcome o = run({"config", "--no-files", "--config", write("c.yaml", kGood + lines)});
    EXPECT_EQ(o.code, kExitInput) << lines;
    EXPECT_EQ(o.out, "") << lines;
    return o.err;
  };
  EXPECT_TRUE(has(refusal("template: lama3\n"), "c.yaml:7"));
  EXPECT_TRUE(has(refusal("lr_scheduler_kwargs: {min_lr_rat: 0.1}\n"), "min_lr_rat"));
  EXPECT_TRUE(has(refusal("lr_scheduler_type: cosine_with_min_lr\n"), "min_lr"));
  EXPECT_TRUE(has(refusal("use_galore: true\n"), "GaLore"));
  EXPECT_TRUE(has(refusal("quantization_bit: 4\n"), "quantization_bit"));
  EXPECT_TRUE(has(refusal("cutoff_len: -1\n"), "cutoff_len"));
  EXPECT_TRUE(has(refusal("bf16: [\n"), "c.yaml:"));
  EXPECT_TRUE(has(refusal("cutof_len: 1\n"), "cutoff_len"));
}

TEST(Documents, TheCommandLinePageNamesEveryCommand) {
  const std::string page = read_file("docs/cli.md");
  for (const Command& command : commands()) EXPECT_TRUE(has(page, std::string("`") + command.name)) << command.name;
}

TEST(Schedules, TheTableOffersWhatTheOptimizerKnows) {
  for (const std::string& name : Schedule::names()) EXPECT_NO_THROW(parse_config("lr_scheduler_type: " + name, "c")) << name;
}

// Compares a document with the one in docs/, or writes it.
void expect_document(const std::string& name, const std::string& text) {
  if (const char* again = std::getenv("LLMTRAIN_REGENERATE"); again && std::string(again) == "1") {
    write_file_atomically("docs/" + name, text);
    return;
  }
  EXPECT_EQ(read_file("docs/" + name), text) << "docs/" << name << " is older than the program: run this test with LLMTRAIN_REGENERATE=1";
}

TEST(Documents, TheConfigurationPageIsTheTable) { expect_document("configuration.md", configuration_markdown()); }

// One line without the folder, which differs from machine to machine.
std::string reason_of(const std::string& root, const std::string& file) {
  try {
    check_configuration(root + "/" + file, {}, false);
    return "accepted";
  } catch (const InputError& e) {
    std::string text = e.what();
    for (size_t at; (at = text.find(root + "/" + file + ":")) != std::string::npos;) text.replace(at, root.size() + file.size() + 2, "line ");
    for (size_t at; (at = text.find("\n  ")) != std::string::npos;) text.replace(at, 3, "; ");
    const auto more = std::count(text.begin(), text.end(), '\n');
    if (more > 3) text = text.substr(0, text.find('\n')) + "<br>(and more faults of the same kind)";
    for (size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "<br>");
    for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
    return "refused: " + text;
  }
}

TEST(Documents, EveryExampleOfLLaMAFactoryIsAcceptedOrRefusedByName) {
  SKIP_WITHOUT_SHARED();
  const std::string root = shared_dir() + "/compat/llamafactory/examples";
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().extension() == ".yaml") files.push_back(std::filesystem::relative(entry.path(), root).string());
  }
  std::sort(files.begin(), files.end());
  ASSERT_GE(files.size(), 30u);
  std::string text =
      "# LLaMA-Factory's example configurations\n\n"
      "What `llmtrain config --no-files --config F` says to each file of LLaMA-Factory's `examples/`. A test makes this table and compares it.\n"
      "Files under `accelerate/` configure another program (the launcher of accelerate) and are no training configurations.\n\n"
      "| file | llmtrain |\n|---|---|\n";
  int accepted = 0;
  for (const std::string& file : files) {
    const std::string reason = reason_of(root, file);
    accepted += reason == "accepted";
    text += "| `" + file + "` | " + reason + " |\n";
  }
  EXPECT_GE(accepted, 1);
  expect_document("compatibility.md", text);
}

}  // namespace
}  // namespace llmtrain
