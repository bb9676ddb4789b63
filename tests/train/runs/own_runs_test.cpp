// Whole runs on a small model of the tests' own: outputs, equality over ranks and settings, evaluation, saving, generation, failing steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

using namespace testing_support;

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

TEST(OwnRun, LearnsWritesEverythingAndAnswers) {
  const RunOutcome run = own().train("learned", 2, {"plot_loss=true", "val_size=4", "eval_strategy=epoch", "num_train_epochs=24", "logging_steps=5"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::string out = own().output("learned");
  for (const char* name : {"trainer_log.jsonl", "trainer_state.json", "train_results.json", "eval_results.json", "all_results.json",
                           "training_loss.png", "training_eval_loss.png", "config.json", "generation_config.json", "model.safetensors",
                           "tokenizer.json", "tokenizer_config.json", "resolved_config.yaml", "version.txt", "memory_plan.txt"})
    EXPECT_TRUE(std::filesystem::is_regular_file(out + "/" + name)) << name;
  for (const auto& entry : std::filesystem::directory_iterator(out)) EXPECT_FALSE(entry.path().string().ends_with(".tmp")) << entry.path();
  const auto losses = logged(out, "loss");
  ASSERT_FALSE(losses.empty());
  EXPECT_LT(losses.rbegin()->second, 0.2 * losses.begin()->second);
  EXPECT_GT(parse_json_file(out + "/all_results.json")["peak_host_bytes_per_rank"].get<int64_t>(), 1 << 20);

  for (const int ranks : {0, 2}) {
    RunOptions options;
    options.ranks = ranks;
    options.folder = own().path();
    const RunOutcome said = run_llmtrain(
        {"generate", "--model", "learned", "--template", "llama3", "--prompt", "What colour is the sky?", "--max-new-tokens", "16"}, options);
    ASSERT_EQ(said.exit_code, 0) << said.err;
    EXPECT_EQ(said.out, "It is blue.\n") << ranks;
    options.input = "What colour is grass?\n";
    const RunOutcome json = run_llmtrain({"generate", "--model", "learned", "--template", "auto", "--max-new-tokens", "16", "--json"}, options);
    ASSERT_EQ(json.exit_code, 0) << json.err;
    const Json answer = parse_json(json.out, "stdout");
    EXPECT_EQ(answer["text"], "It is green.");
    EXPECT_EQ(answer["prompt"], "What colour is grass?");
    EXPECT_EQ(answer["finish"], "stop");
  }
}

TEST(OwnRun, TheSameGlobalBatchGivesTheSameNumbersOnOneToFourRanks) {
  ASSERT_EQ(own().train("ranks1", 1, {"per_device_train_batch_size=12", "gradient_accumulation_steps=1"}).exit_code, 0);
  const auto losses = logged(own().output("ranks1"), "loss"), norms = logged(own().output("ranks1"), "grad_norm");
  ASSERT_EQ(losses.size(), 9u);
  for (const auto& [ranks, batch] : {std::pair{2, 6}, {3, 4}, {4, 3}}) {
    const std::string name = "ranks" + std::to_string(ranks);
    const RunOutcome run = own().train(name, ranks, {"per_device_train_batch_size=" + std::to_string(batch), "gradient_accumulation_steps=1"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    // Sums of float32 products in another order: some 1e-7 a step, and Adam's division by sqrt(v) carries it from step to step.
    for (const auto& [step, loss] : logged(own().output(name), "loss")) EXPECT_NEAR(loss, losses.at(step), 2e-5 * loss) << name << " step " << step;
    for (const auto& [step, norm] : logged(own().output(name), "grad_norm"))
      EXPECT_NEAR(norm, norms.at(step), 2e-4 * norm) << name << " step " << step;
  }
}

// Settings that may change nothing: each against the same run without overlap, with prefetch depth 1 and all activations kept.
TEST(OwnRun, PrefetchOverlapAndRecomputeAreBitwiseEqual) {
  for (const char* precision : {"bf16=false", "bf16=true"}) {
    const std::vector<std::string> common{precision, "max_steps=4", "val_size=5", "eval_strategy=steps", "eval_steps=2"};
    std::string reference;
    for (const char* depth : {"1", "2", "4"}) {
      for (const char* overlap : {"off", "on"}) {
        for (const char* recompute : {"none", "cheap", "full"}) {
          const bool plain = std::string(precision) == "bf16=false";
          // bfloat16: each setting once; float32: all combinations.
          if (!plain && (depth[0] == '1') + (overlap == std::string("off")) + (recompute == std::string("none")) < 2) continue;
          std::vector<std::string> words = common;
          for (const std::string& word :
               {std::string("prefetch_depth=") + depth, std::string("overlap=") + overlap, std::string("recompute=") + recompute})
            words.push_back(word);
          const RunOutcome run = own().train("bits", 2, words);
          ASSERT_EQ(run.exit_code, 0) << run.err;
          const std::string bits = bits_of_run(own().output("bits"));
          ASSERT_GT(bits.size(), 10000u);
          if (reference.empty()) reference = bits;
          EXPECT_TRUE(bits == reference) << precision << " depth " << depth << " overlap " << overlap << " recompute " << recompute;
        }
      }
    }
  }
}

TEST(OwnRun, TheSameRunTwiceIsBitwiseEqualWhateverTheNode) {
  std::string reference;
  for (const char* shape : {"ranks_per_node=0", "ranks_per_node=1", "ranks_per_node=2", "communicator=mpi", "ranks_per_node=0"}) {
    ASSERT_EQ(own().train("again", 3, {"max_steps=4", shape}).exit_code, 0) << shape;
    const std::string bits = bits_of_run(own().output("again"));
    if (reference.empty()) reference = bits;
    EXPECT_TRUE(bits == reference) << shape;
  }
}

TEST(OwnRun, EvaluationAloneGivesTheLossThatTrainingLogged) {
  ASSERT_EQ(own().train("evaluated", 2, {"val_size=7", "per_device_eval_batch_size=2", "eval_strategy=epoch", "num_train_epochs=1"}).exit_code, 0);
  const double logged_loss = logged(own().output("evaluated"), "eval_loss").rbegin()->second;
  for (const int ranks : {1, 3}) {
    const RunOutcome run = own().train(
        "only_eval", ranks, {"model_name_or_path=evaluated", "do_train=false", "do_eval=true", "val_size=7", "per_device_eval_batch_size=2"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const Json results = parse_json_file(own().output("only_eval") + "/eval_results.json");
    EXPECT_NEAR(results["eval_loss"].get<double>(), logged_loss, 1e-6 * logged_loss) << ranks;
    EXPECT_FALSE(std::filesystem::exists(own().output("only_eval") + "/model.safetensors"));
  }
  // Into the folder of the training itself: its logs and results stay, the evaluation joins them.
  const std::string log = read_file(own().output("evaluated") + "/trainer_log.jsonl");
  ASSERT_EQ(own().train("evaluated", 1, {"model_name_or_path=evaluated", "do_train=false", "do_eval=true", "val_size=7"}).exit_code, 0);
  EXPECT_EQ(read_file(own().output("evaluated") + "/trainer_log.jsonl"), log);
  const Json all = parse_json_file(own().output("evaluated") + "/all_results.json");
  EXPECT_TRUE(all.contains("train_loss"));
  EXPECT_EQ(all["epoch"], 1.0);
}

TEST(OwnRun, APlanThatDoesNotFitIsRefusedWithTheTable) {
  RunOptions options;
  options.ranks = 2;
  options.folder = own().path();
  const RunOutcome run = run_llmtrain({"bench", "model", "--seq", "256", "--micro-batch", "4000000", "--steps", "4"}, options);
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_LT(run.seconds, 5);
  EXPECT_NE(run.err.find("memory plan"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("activations"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("recompute: full"), std::string::npos) << run.err;
}

TEST(OwnRun, SavedModelsAreWholeAndTheLimitHolds) {
  const RunOutcome run = own().train(
      "saved", 2, {"save_strategy=steps", "save_steps=2", "save_only_model=true", "save_total_limit=2", "max_steps=7", "overwrite_output_dir=true"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(own().output("saved")))
    if (entry.path().filename().string().starts_with("checkpoint-")) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"checkpoint-6", "checkpoint-7"})) << "the last step is saved too";
  EXPECT_EQ(read_file(own().output("saved") + "/checkpoint-7/model.safetensors"), read_file(own().output("saved") + "/model.safetensors"));
  EXPECT_EQ(count_of(run.err, "cannot be resumed"), 1u);
  // A second run into the same folder begins afresh and removes what the first had saved.
  ASSERT_EQ(own().train("saved", 1, {"max_steps=2", "overwrite_output_dir=true"}).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(own().output("saved") + "/checkpoint-7"));
  EXPECT_EQ(logged(own().output("saved"), "loss").size(), 2u);
}

TEST(OwnRun, FrozenTensorsStayAsTheyWere) {
  ASSERT_EQ(own().train("frozen", 2, {"finetuning_type=freeze", "freeze_trainable_layers=1", "max_steps=3"}).exit_code, 0);
  RunOptions options;
  options.ranks = 0;
  options.folder = own().path();
  // The exported file has the layout of the model's own: the same header, so bytes can be compared.
  const std::string before = read_file(own().path() + "/model/model.safetensors"), after = read_file(own().output("frozen") + "/model.safetensors");
  ASSERT_EQ(before.size(), after.size());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, before.data(), 8);
  const Json header = parse_json(std::string_view(before).substr(8, header_bytes), "header");
  int changed = 0, same = 0;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const uint64_t begin = 8 + header_bytes + entry["data_offsets"][0].get<uint64_t>(),
                   end = 8 + header_bytes + entry["data_offsets"][1].get<uint64_t>();
    const bool equal = before.compare(begin, end - begin, after, begin, end - begin) == 0;
    const bool trained = name.find("layers.2.") != std::string::npos;
    EXPECT_EQ(equal, !trained) << name;
    (equal ? same : changed) += 1;
  }
  EXPECT_GT(changed, 0);
  EXPECT_GT(same, 0);
}

TEST(OwnRun, StepsWithoutAFiniteGradientAreSkippedAndTooManyEndTheRun) {
  // A learning rate that throws every weight far away: from the second step on nothing is finite.
  const RunOutcome run = own().train(
      "exploding", 2, {"learning_rate=1000000", "lr_scheduler_type=constant", "max_grad_norm=0", "weight_decay=1", "num_train_epochs=50"});
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.exit_code, 2);
  EXPECT_GE(count_of(run.err, "the step is skipped"), 1u) << run.err;
  EXPECT_EQ(count_of(run.err, "steps in a row; the run ends"), 1u) << run.err;
}

TEST(OwnRun, FirstStepComesWithinASecond) {
  // The logged phases: what this program does between its start and the first step. The best of three, since other work may share the machine.
  double best = 1e9;
  for (int attempt = 0; attempt < 3; ++attempt) {
    RunOptions options;
    const RunOutcome run = own().train("quick", 2, {"max_steps=1"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    best = std::min(best, run.seconds);
  }
  EXPECT_LT(best, 2.0) << "launch, one step, export and end";
  std::printf("  launch to end of a run of one step: %.2f s\n", best);
}

TEST(OwnRun, DataCommandWritesTheRowsThatWillBeTrainedAndNothingElse) {
  const std::string before = std::filesystem::path(own().path()).string();
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(before)) names.insert(entry.path().string());
  const ScratchFolder out;
  for (const int ranks : {0, 2}) {
    RunOptions options;
    options.ranks = ranks;
    options.folder = own().path();
    const RunOutcome run =
        run_llmtrain({"data", "--config", "train.yaml", "output_dir=" + out.path(), "--out", out / "rows.jsonl", "--json"}, options);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(parse_json(run.out, "stdout")["stores"][0]["rows"], 36);
    const std::string rows = read_file(out / "rows.jsonl");
    EXPECT_EQ(count_of(rows, "\"trained\""), 36u);
    static const std::string first = rows;
    EXPECT_EQ(rows, first);
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(before)) EXPECT_TRUE(names.count(entry.path().string())) << entry.path();
}

TEST(OwnRun, BenchReportsTheKeysThatScriptsUse) {
  RunOptions options;
  options.ranks = 2;
  options.folder = own().path();
  const RunOutcome run = run_llmtrain({"bench", "model", "--seq", "32", "--micro-batch", "2", "--steps", "4", "--warmup", "1", "--json"}, options);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(count_of(run.out, "\n"), 1u) << "one line";
  const Json json = parse_json(run.out, "stdout");
  for (const char* key : {"tokens_per_second", "seconds_per_step", "peak_rss_mib", "params", "world", "losses"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json["world"], 2);
  EXPECT_EQ(json["losses"].size(), 4u);
  EXPECT_NEAR(json["losses"][0].get<double>(), std::log(320.0), 0.3)
      << "random tokens, random weights: the loss is about the logarithm of the vocabulary";
  for (const char* states : {"mixed", "bfloat16"}) {
    const RunOutcome other = run_llmtrain({"bench", "model", "--seq", "32", "--steps", "3", "--warmup", "1", "--states", states, "--json"}, options);
    ASSERT_EQ(other.exit_code, 0) << other.err;
    EXPECT_EQ(parse_json(other.out, "stdout")["states"], states);
  }
}

}  // namespace
}  // namespace llmtrain
