// What an operator does to runs beyond killing them: time that runs out during an evaluation, model folders in the place of checkpoints, copies of checkpoints.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

const std::vector<std::string> kBatch{"max_steps=4", "save_strategy=steps", "save_steps=2"};
const std::vector<std::string> kEvaluating = with(kBatch, {"eval_strategy=steps", "eval_steps=1", "eval_dataset=colours", "per_device_eval_batch_size=4"});

// The steps of the history in its order; those of evaluations with a minus.
std::vector<int64_t> history(const std::string& output) {
  std::vector<int64_t> steps;
  const Json state = parse_json_file(own().output(output) + "/trainer_state.json");
  for (const Json& entry : state["log_history"]) {
    if (entry.contains("loss")) steps.push_back(entry["step"].get<int64_t>());
    if (entry.contains("eval_loss")) steps.push_back(-entry["step"].get<int64_t>());
  }
  return steps;
}

// As a run left it that was killed after checkpoint `step` of `from`.
void as_killed_after(const std::string& from, int step, const std::string& name) {
  fs::create_directories(own().output(name));
  const std::string checkpoint = "/checkpoint-" + std::to_string(step);
  fs::copy(own().output(from) + checkpoint, own().output(name) + checkpoint, fs::copy_options::recursive);
}

// An evaluation may take longer than what is left after a request to stop: it is given up, and made first when the run goes on.
TEST(Operator, AnEvaluationGivesWayToARequestToStop) {
  ASSERT_EQ(own().train("evaluated", 2, kEvaluating).exit_code, 0);
  ASSERT_EQ(history("evaluated"), (std::vector<int64_t>{1, -1, 2, -2, 3, -3, 4, -4}));
  const RunOutcome first = own().train("stopped", 2, with(kEvaluating, {"max_hours=0.00001"}));
  EXPECT_EQ(first.exit_code, 85) << first.err;
  EXPECT_EQ(history("stopped"), std::vector<int64_t>{1}) << "without the evaluation";
  const RunOutcome again = own().train("stopped", 2, with(kEvaluating, {"max_hours=0.00001"}));
  EXPECT_EQ(again.exit_code, 85) << again.err;
  const RunOutcome last = own().train("stopped", 2, kEvaluating);
  EXPECT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(history("stopped"), history("evaluated"));
  EXPECT_EQ(bits_of_run(own().output("stopped")), bits_of_run(own().output("evaluated")));
  EXPECT_EQ(logged(own().output("stopped"), "eval_loss"), logged(own().output("evaluated"), "eval_loss"));
}

// The last step is trained and saved, whatever save_strategy says; what remains is the evaluation and the export.
TEST(Operator, TheEvaluationAtTheEndGivesWayToo) {
  for (const std::string strategy : {"no", "steps"}) {
    const std::string output = "at-the-end-" + strategy, checkpoint = own().output(output) + "/checkpoint-1/manifest.json";
    const std::vector<std::string> words{"max_steps=1", "do_eval=true", "eval_dataset=colours", "save_strategy=" + strategy};
    const RunOutcome first = own().train(output, 0, with(words, {"max_hours=0.00001"}));
    EXPECT_EQ(first.exit_code, 85) << first.err;
    ASSERT_TRUE(is_regular_file(checkpoint)) << first.err;
    EXPECT_FALSE(fs::exists(own().output(output) + "/model.safetensors"));
    const auto saved = fs::last_write_time(checkpoint);
    EXPECT_EQ(own().train(output, 0, with(words, {"max_hours=0.00001"})).exit_code, 85);
    EXPECT_EQ(fs::last_write_time(checkpoint), saved) << "nothing was gained: slurm/train.sbatch counts such starts";
    const RunOutcome last = own().train(output, 0, words);
    EXPECT_EQ(last.exit_code, 0) << last.err;
    EXPECT_EQ(history(output), (std::vector<int64_t>{1, -1}));
    EXPECT_TRUE(is_regular_file(own().output(output) + "/model.safetensors"));
  }
}

// A run that goes back and writes plain model folders must not put them into checkpoints of the course that it left: their manifests would still be right.
TEST(Operator, AModelFolderReplacesACheckpointOfTheSameStep) {
  ASSERT_EQ(own().train("replaced", 2, kBatch).exit_code, 0);
  const std::string out = own().output("replaced");
  for (const char* killed : {"4", "9"}) fs::create_directories(out + "/checkpoint-" + killed + ".tmp");
  std::ofstream(out + "/checkpoint-4.tmp/shard-00000-of-00002.h5") << "of a save that was killed";
  const RunOutcome run = own().train("replaced", 2, with(kBatch, {"save_only_model=true", "learning_rate=0.001", "resume_from_checkpoint=" + out + "/checkpoint-2"}));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(is_regular_file(out + "/checkpoint-2/manifest.json"));
  EXPECT_TRUE(is_regular_file(out + "/checkpoint-4/model.safetensors"));
  EXPECT_TRUE(is_regular_file(out + "/checkpoint-4/trainer_state.json"));
  for (const auto& entry : fs::directory_iterator(out + "/checkpoint-4")) {
    EXPECT_NE(entry.path().extension(), ".h5") << entry.path();
    EXPECT_NE(entry.path().filename(), "manifest.json");
  }
  for (const auto& entry : fs::directory_iterator(out)) EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
}

// What scripts read at the end, but for times and memory.
Json without_times(const Json& json) {
  Json out = json.is_array() ? Json::array() : Json::object();
  for (const auto& [key, value] : json.items()) {
    if (key.find("runtime") != std::string::npos || key.find("_per_") != std::string::npos) continue;
    Json& place = json.is_array() ? out.emplace_back() : out[key];
    place = value;
    if (value.is_structured()) place = without_times(value);
  }
  return out;
}
Json results_of(const std::string& output) {
  const std::string folder = own().output(output);
  return {{"state", without_times(parse_json_file(folder + "/trainer_state.json"))}, {"results", without_times(parse_json_file(folder + "/all_results.json"))}};
}

void expect_near(const Json& a, const Json& b, const std::string& at) {
  if (at.ends_with("/epoch")) return;  // its fractions depend on how rows are dealt to ranks
  ASSERT_EQ(a.type(), b.type()) << at;
  ASSERT_EQ(a.size(), b.size()) << at;
  if (a.is_number_float()) {
    // Sums of a step in another grouping: some float32 roundings in each gradient, which later steps carry on. grad_norm has fewer terms that cancel.
    EXPECT_NEAR(a.get<double>(), b.get<double>(), 1e-3 * std::abs(a.get<double>())) << at;
  } else if (a.is_structured()) {
    for (const auto& [key, value] : a.items()) expect_near(value, a.is_array() ? b.at(std::stoul(key)) : b.at(key), at + "/" + key);
  } else {
    EXPECT_EQ(a, b) << at;
  }
}

// A checkpoint between two lines of the log, and between two evaluations: losses that are not logged yet, counters, history and results go on, at the same
// number of ranks as if nothing had happened, at others within rounding.
TEST(Operator, EverythingThatResultsAreMadeOfGoesOn) {
  const std::vector<std::string> words{"max_steps=9", "save_strategy=steps", "save_steps=1", "logging_steps=3", "eval_strategy=steps", "eval_steps=4", "eval_dataset=colours"};
  ASSERT_EQ(own().train("counted", 2, words).exit_code, 0);
  const Json whole = results_of("counted");
  for (const int step : {4, 9}) {  // 9: trained and evaluated, not yet exported
    const std::string name = "from" + std::to_string(step);
    as_killed_after("counted", step, name);
    const RunOutcome run = own().train(name, 2, words);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const Json resumed = results_of(name);
    EXPECT_EQ(dump_json(resumed, 1), dump_json(whole, 1)) << "from step " << step;
    const Json manifest = parse_json_file(own().output(name) + "/checkpoint-" + std::to_string(step) + "/manifest.json");
    EXPECT_GE(parse_json_file(own().output(name) + "/all_results.json")["train_runtime"].get<double>(), manifest["state"]["trainer"]["elapsed_seconds"].get<double>());
  }
  const std::string unlogged = "/checkpoint-5/trainer_state.json";  // saved before the resumed run logged anything
  EXPECT_EQ(dump_json(without_times(parse_json_file(own().output("from4") + unlogged))), dump_json(without_times(parse_json_file(own().output("counted") + unlogged))));
  for (const int ranks : {1, 4}) {
    const std::string name = "at" + std::to_string(ranks);
    as_killed_after("counted", 4, name);
    const RunOutcome run = own().train(name, ranks, words);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const Json resumed = results_of(name);
    expect_near(whole, resumed, std::to_string(ranks) + " ranks");
  }
}

// What `run` gives when the program is started by a script that does `before` on rank 1.
template <class Run>
RunOutcome with_rank_1(const std::string& before, Run&& run) {
  const char* set = std::getenv("LLMTRAIN_TEST_BINARY");
  const std::string program = fs::absolute(set && *set ? set : LLMTRAIN_TEST_BINARY).string(), script = own().output("start.sh");
  own().write("start.sh", "#!/bin/sh\nif [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then " + before + "; fi\nexec '" + program + "' \"$@\"\n");
  fs::permissions(script, fs::perms::owner_all);
  ::setenv("LLMTRAIN_TEST_BINARY", script.c_str(), 1);
  const RunOutcome outcome = run();
  set ? ::setenv("LLMTRAIN_TEST_BINARY", program.c_str(), 1) : ::unsetenv("LLMTRAIN_TEST_BINARY");
  return outcome;
}

// A node with its own, older copy under the same path: the ranks would go on from different steps, and wait for each other for ever.
TEST(Operator, ANodeThatSeesAnotherCheckpointIsNamed) {
  ASSERT_EQ(own().train("two", 2, kBatch).exit_code, 0);
  const fs::path node = own().output("node");
  fs::create_directories(node / "two");
  for (const char* name : {"model", "data", "train.yaml"}) fs::create_symlink(fs::path(own().path()) / name, node / name);
  fs::copy(own().output("two") + "/checkpoint-2", node / "two/checkpoint-4", fs::copy_options::recursive);
  const RunOutcome run = with_rank_1("cd " + node.string(), [] {
    return own().train(own().output("from-two"), 2, with(kBatch, {"max_steps=6", "resume_from_checkpoint=two/checkpoint-4"}));
  });
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_LT(run.seconds, 60);
  EXPECT_NE(run.err.find("this rank sees another checkpoint there (step 2) than rank 0 (step 4)"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("(rank 1 on "), std::string::npos) << run.err;
}

// Each rank reads its part: from another copy it would make a mixture of two models.
TEST(Operator, ANodesOwnCopyOfTheModelIsRefusedByOtherCommandsToo) {
  const fs::path node = own().output("other-node");
  fs::create_directories(node);
  RunOptions options;
  options.ranks = 0;
  options.folder = own().path();
  ASSERT_EQ(run_llmtrain({"init", "config.json", node / "model", "--tokenizer-from", "data/colours.json", "--vocab-size", "320", "--seed", "6"}, options).exit_code, 0);
  const std::vector<std::string> commands[] = {{"convert", "model", own().output("mixture")}, {"generate", "--model", "model", "--prompt", "x", "--max-new-tokens", "1"}};
  for (const std::vector<std::string>& words : commands) {
    options.ranks = 2;
    const RunOutcome run = with_rank_1("cd " + node.string(), [&] { return run_llmtrain(words, options); });
    EXPECT_EQ(run.exit_code, 2) << words[0] << ": " << run.err;
    EXPECT_NE(run.err.find("model.safetensors is not the one that rank 0 reads"), std::string::npos) << words[0] << ": " << run.err;
  }
  EXPECT_FALSE(fs::exists(own().output("mixture") + "/model.safetensors"));
}

// Rounds of all ranks that are not whole are left out: at 2 ranks of 2 rows none of 36 rows, at 4 ranks four.
TEST(Operator, RowsThatAreDroppedAtAnotherRankCountAreARefusal) {
  const std::vector<std::string> words = with(kBatch, {"dataloader_drop_last=true"});
  ASSERT_EQ(own().train("dropped", 2, words).exit_code, 0);
  as_killed_after("dropped", 2, "dropped4");
  const RunOutcome four = own().train("dropped4", 4, words);
  EXPECT_EQ(four.exit_code, 2) << four.err;
  EXPECT_NE(four.err.find("36 of 36 rows"), std::string::npos) << four.err;
  EXPECT_NE(four.err.find("here they would have 32"), std::string::npos) << four.err;
  as_killed_after("dropped", 2, "dropped1");
  const RunOutcome one = own().train("dropped1", 0, words);
  EXPECT_EQ(one.exit_code, 0) << one.err;
}

// What people name in place of a checkpoint.
TEST(Operator, WhatIsNoCheckpointIsToldApart) {
  ASSERT_EQ(own().train("three", 1, kBatch).exit_code, 0);
  fs::copy(own().output("three") + "/checkpoint-4", own().output("three") + "/checkpoint-6.tmp", fs::copy_options::recursive);
  fs::remove(own().output("three") + "/checkpoint-6.tmp/manifest.json");
  RunOptions options;
  options.ranks = 0;
  options.folder = own().path();
  const std::pair<const char*, const char*> cases[] = {{"three", "name a checkpoint in it, such as three/checkpoint-4"}, {"three/checkpoint-6.tmp/", "is being written"}, {"model", "plain model folder"},
                                                       {"data", "holds no checkpoint"}, {"nowhere", "no such checkpoint folder"}};
  for (const auto& [name, says] : cases) {
    const RunOutcome inspected = run_llmtrain({"inspect", name}, options), resumed = own().train("four", 0, with(kBatch, {"resume_from_checkpoint=" + std::string(name)}));
    for (const RunOutcome* run : {&inspected, &resumed}) {
      EXPECT_EQ(run->exit_code, 2) << name << ": " << run->err;
      EXPECT_NE(run->err.find(says), std::string::npos) << name << ": " << run->err;
    }
  }
  fs::remove(own().output("three") + "/checkpoint-2/manifest.json");
  const RunOutcome damaged = run_llmtrain({"inspect", "three/checkpoint-2"}, options);
  EXPECT_EQ(damaged.exit_code, 1) << "its shards are there: damaged, not none\n" << damaged.out;
  EXPECT_NE(damaged.out.find("manifest.json"), std::string::npos) << damaged.out;
}

// More elements of one tensor than are restored at once.
TEST(Operator, ALargeTensorIsRestoredInPieces) {
  Json config = parse_json_file(own().path() + "/config.json");
  config["intermediate_size"] = 33000;
  config["num_hidden_layers"] = 1;
  own().write("large.json", dump_json(config));
  RunOptions options;
  options.ranks = 0;
  options.folder = own().path();
  const RunOutcome made = run_llmtrain({"init", "large.json", "large", "--tokenizer-from", "data/colours.json", "--vocab-size", "320", "--seed", "6"}, options);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const std::vector<std::string> words{"model_name_or_path=large", "max_steps=3", "save_strategy=steps", "save_steps=2"};
  ASSERT_EQ(own().train("large-whole", 0, words).exit_code, 0);
  const Json manifest = parse_json_file(own().output("large-whole") + "/checkpoint-2/manifest.json");
  ASSERT_GT(manifest["content"]["units"][1]["arrays"][0]["shard_elements"].get<int64_t>(), 3 << 20) << "else this shows nothing";
  as_killed_after("large-whole", 2, "large-resumed");
  const RunOutcome run = own().train("large-resumed", 0, words);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(bits_of_run(own().output("large-resumed")) == bits_of_run(own().output("large-whole"))) << "megabytes, which nobody wants to see";
}

}  // namespace
}  // namespace llmtrain
