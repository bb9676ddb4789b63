// The files of a run, as their readers expect them: log lines, state, results, plots, progress texts, checkpoint folders.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "support/shared.h"
#include "checkpoint/manifest.h"
#include "train/output_dir.h"
#include "train/plot.h"
#include "train/progress.h"
#include "train/run_log.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

RunLog sample_log(const std::string& folder) {
  RunShape shape;
  shape.output_dir = folder;
  shape.total_steps = 8;
  shape.logging_steps = 1;
  shape.eval_steps = 4;
  shape.epochs_wanted = 2;
  shape.train_batch_size = 4;
  shape.plot = true;
  RunLog log(shape);
  log.open();
  for (int64_t step = 1; step <= 8; ++step) {
    StepRecord r;
    r.step = step;
    r.epoch = static_cast<double>(step) / 4;
    r.loss = 1.0 / 3 + static_cast<double>(8 - step);
    r.grad_norm = 0.1;
    r.learning_rate = 1e-3 / 7;
    r.elapsed_seconds = 10.0 * static_cast<double>(step);
    r.tokens = 100 * step;
    log.step(r);
    if (step % 4 != 0) continue;
    EvalRecord e;
    e.step = step;
    e.epoch = r.epoch;
    e.loss = 2.5;
    e.seconds = 2;
    e.rows = 32;
    e.batches = 8;
    log.evaluation(e);
  }
  TrainSummary summary;
  summary.step = 8;
  summary.epoch = 2;
  summary.train_loss = 4.25;
  summary.seconds = 80;
  summary.rows = 64;
  summary.tokens = 800;
  summary.total_flos = 1e9;
  log.finish_training(summary);
  log.write_state(folder);
  log.write_results({{"peak_host_bytes_per_rank", 123456789.0}});
  log.write_plots();
  return log;
}

TEST(RunLog, TrainerLogHasOneLineAStepWithTheKeysThatReadersUse) {
  const ScratchFolder folder;
  sample_log(folder.path());
  std::ifstream file(folder / "trainer_log.jsonl");
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(parse_json(line, "line"));
  ASSERT_EQ(lines.size(), 11u) << "8 steps, 2 evaluations, the run as a whole";
  EXPECT_EQ(lines[0]["current_steps"], 1);
  EXPECT_EQ(lines[0]["total_steps"], 8);
  EXPECT_EQ(lines[0]["loss"].get<double>(), 1.0 / 3 + 7) << "floats read back exactly";
  EXPECT_EQ(lines[0]["lr"].get<double>(), 1e-3 / 7);
  EXPECT_EQ(lines[0]["percentage"], 12.5);
  EXPECT_EQ(lines[0]["elapsed_time"], "0:00:10");
  EXPECT_EQ(lines[0]["remaining_time"], "0:01:10");
  EXPECT_EQ(lines[0]["throughput"], 10.0);
  EXPECT_EQ(lines[0]["total_tokens"], 100);
  EXPECT_FALSE(lines[0].contains("eval_loss"));
  EXPECT_EQ(lines[4]["eval_loss"], 2.5);
  EXPECT_FALSE(lines[4].contains("loss"));
  EXPECT_FALSE(lines[10].contains("loss"));
  EXPECT_EQ(lines[10]["current_steps"], 8);
  EXPECT_EQ(lines[10]["percentage"], 100.0);
}

TEST(RunLog, TrainerStateHoldsTheHistory) {
  const ScratchFolder folder;
  sample_log(folder.path());
  const Json state = parse_json_file(folder / "trainer_state.json");
  EXPECT_EQ(state["global_step"], 8);
  EXPECT_EQ(state["max_steps"], 8);
  EXPECT_EQ(state["num_input_tokens_seen"], 800);
  EXPECT_EQ(state["total_flos"], 1e9);
  const Json& history = state["log_history"];
  ASSERT_EQ(history.size(), 11u);  // 8 steps, 2 evaluations, the summary
  EXPECT_EQ(history[1]["step"], 2);
  EXPECT_EQ(history[1]["learning_rate"].get<double>(), 1e-3 / 7);
  EXPECT_EQ(history[4]["eval_samples_per_second"], 16.0);
  EXPECT_EQ(history[10]["train_loss"], 4.25);
  EXPECT_EQ(history[10]["train_samples_per_second"], 0.8);
}

TEST(RunLog, ResultsAndPlotsAreWritten) {
  const ScratchFolder folder;
  sample_log(folder.path());
  const Json all = parse_json_file(folder / "all_results.json");
  EXPECT_EQ(all["eval_loss"], 2.5);
  EXPECT_EQ(all["train_loss"], 4.25);
  EXPECT_EQ(all["peak_host_bytes_per_rank"], 123456789);
  EXPECT_EQ(parse_json_file(folder / "train_results.json")["train_steps_per_second"], 0.1);
  EXPECT_EQ(parse_json_file(folder / "eval_results.json")["eval_steps_per_second"], 4.0);
  for (const char* name : {"/training_loss.png", "/training_eval_loss.png"})
    EXPECT_EQ(read_file(folder.path() + name).substr(0, 8), "\x89PNG\r\n\x1a\n") << name;
}

TEST(Plot, SmoothingIsTheExponentialAverageOfLlamaFactory) {
  const std::vector<double> values{4, 2, 3};
  const double w = 1.8 * (1 / (1 + std::exp(-0.05 * 3)) - 0.5);
  const std::vector<double> s = smooth(values);
  ASSERT_EQ(s.size(), 3u);
  EXPECT_DOUBLE_EQ(s[0], 4);
  EXPECT_DOUBLE_EQ(s[1], 4 * w + (1 - w) * 2);
  EXPECT_DOUBLE_EQ(s[2], s[1] * w + (1 - w) * 3);
  EXPECT_TRUE(smooth({}).empty());
  EXPECT_EQ(smooth({1, NAN, 1}).back(), 1.0) << "a value that is not finite does not hide later ones";
}

TEST(Plot, TicksAreRoundNumbersWithinTheRange) {
  for (const auto& [low, high] : {std::pair{0.0, 1.0}, {3.2, 3.9}, {-5.0, 1000.0}, {1e-6, 3e-6}}) {
    const std::vector<double> ticks = nice_ticks(low, high, 8);
    ASSERT_GE(ticks.size(), 2u) << low;
    ASSERT_LE(ticks.size(), 9u) << low;
    EXPECT_GE(ticks.front(), low - 1e-12);
    EXPECT_LE(ticks.back(), high + 1e-12);
  }
  EXPECT_TRUE(nice_ticks(1, 1, 8).empty());
}

TEST(Plot, DrawsEmptySingleAndBrokenCurves) {
  EXPECT_GT(draw_curve({}, "t", "loss").size(), 100u);
  EXPECT_GT(draw_curve({{1}, {2}}, "t", "loss").size(), 100u);
  EXPECT_GT(draw_curve({{1, 2, 3}, {2, NAN, INFINITY}}, "t", "loss").size(), 100u);
}

TEST(Progress, DurationsAndNumbersReadAsPeopleWriteThem) {
  EXPECT_EQ(duration_text(0), "0:00:00");
  EXPECT_EQ(duration_text(3723.9), "1:02:03");
  EXPECT_EQ(duration_text(90061), "1 day, 1:01:01");
  EXPECT_EQ(duration_text(2 * 86400), "2 days, 0:00:00");
  EXPECT_EQ(duration_text(-1), "0:00:00");
  EXPECT_EQ(duration_text(NAN), "0:00:00");
  EXPECT_EQ(short_number(950.4), "950");
  EXPECT_EQ(short_number(12345), "12.3k");
  EXPECT_EQ(short_number(4.5e6), "4.5M");
}

TEST(Progress, KindIsCheckedByName) {
  EXPECT_EQ(parse_progress("auto"), ProgressKind::automatic);
  EXPECT_EQ(parse_progress("bar"), ProgressKind::bar);
  EXPECT_THROW(parse_progress("dots"), InputError);
}

TEST(OutputDir, ACheckpointLiesInItHoweverItIsWritten) {
  const ScratchFolder folder;
  const std::string out = folder / "out", inside = out + "/checkpoint-4";
  std::filesystem::create_directories(inside);
  std::filesystem::create_directories(folder / "other/checkpoint-4");
  std::filesystem::create_symlink(out, folder / "link");
  std::filesystem::create_symlink(inside, folder / "best");
  std::filesystem::create_symlink(folder / "other/checkpoint-4", out + "/checkpoint-5");
  for (const std::string& path : {inside, inside + "/", out + "/./checkpoint-4", out + "/x/../checkpoint-4", folder / "link/checkpoint-4", folder / "best", out + "/checkpoint-5"}) {
    EXPECT_TRUE(lies_in(path, out)) << path;
    EXPECT_TRUE(lies_in(path, out + "/")) << path;
    EXPECT_TRUE(lies_in(path, folder / "link")) << path;
  }
  for (const std::string& path : {folder / "other/checkpoint-4", out, folder.path(), inside + "/deeper", std::string("checkpoint-4")}) EXPECT_FALSE(lies_in(path, out)) << path;
}

TEST(OutputDir, OutputsAreACheckpointsWhereItsHistoryBeginsTheirs) {
  const ScratchFolder folder;
  const std::string checkpoint = folder / "checkpoint-2", saved = R"({"log_history": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]})";
  std::filesystem::create_directories(checkpoint);
  for (const char* name : {"all_results.json", "model.safetensors"}) std::ofstream(folder / name) << "{}";
  std::ofstream(checkpoint + "/trainer_state.json") << saved;
  const auto holds = [&](const std::string& state) {
    std::ofstream(folder / "trainer_state.json") << state;
    return holds_outputs_of(folder.path(), checkpoint);
  };
  EXPECT_TRUE(holds(saved));
  EXPECT_TRUE(holds(R"({"log_history": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}, {"train_loss": 2}]})"));
  EXPECT_FALSE(holds(R"({"log_history": [{"step": 1, "loss": 2.5}]})")) << "of an earlier step";
  EXPECT_FALSE(holds(R"({"log_history": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.25}]})")) << "of another run";
  for (const char* broken : {"{}", "[1]", R"({"log_history": 7})", "{"}) EXPECT_FALSE(holds(broken)) << broken;
  ASSERT_TRUE(holds(saved));
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_FALSE(holds(saved)) << "not exported";
}

TEST(OutputDir, FindsAndKeepsTheNewestCheckpoints) {
  const ScratchFolder folder;
  for (const char* name : {"checkpoint-5", "checkpoint-10", "checkpoint-100", "checkpoint-x", "checkpoint-7b", "other"})
    std::filesystem::create_directory(folder / name);
  std::ofstream(folder / "checkpoint-3") << "a file, not a folder";
  const auto found = list_checkpoints(folder.path());
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].first, 100) << "newest first";
  EXPECT_EQ(found[2].first, 5);
  keep_newest(folder.path(), 0, 100);
  EXPECT_EQ(list_checkpoints(folder.path()).size(), 3u) << "0 keeps all";
  keep_newest(folder.path(), 2, 100);
  EXPECT_EQ(list_checkpoints(folder.path()).back().first, 10);
  keep_newest(folder.path(), 1, 10);
  EXPECT_EQ(list_checkpoints(folder.path()).front().first, 10) << "the one just written stays, whatever its step";
  EXPECT_TRUE(std::filesystem::exists(folder / "checkpoint-x"));
  EXPECT_NE(earlier_run(folder.path()), "");
  const ScratchFolder empty;
  EXPECT_EQ(earlier_run(empty.path()), "");
}

}  // namespace
}  // namespace llmtrain
