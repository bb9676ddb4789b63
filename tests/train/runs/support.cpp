#include "train/runs/support.h"

#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "core/file.h"

namespace llmtrain::testing_support {

namespace fs = std::filesystem;

namespace {

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string chosen(const char* variable, const char* otherwise) {
  const char* named = std::getenv(variable);
  return named && *named ? named : otherwise;
}

bool trains(const std::vector<std::string>& words) { return !words.empty() && (words[0] == "train" || words[0] == "--config"); }

bool names(const std::vector<std::string>& words, const std::string& key) {
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) { return word.starts_with(key + "="); });
}

// The words that LLMTRAIN_TEST_DEVICE adds; a test's own word for a key stands.
std::vector<std::string> device_words(const std::vector<std::string>& words, int ranks) {
  std::vector<std::string> more;
  if (!on_gpu() || !trains(words) || names(words, "device")) return more;
  more = {"device=cuda", "use_cpu=false"};
  if (ranks > 1 && !names(words, "communicator")) more.push_back("communicator=" + chosen("LLMTRAIN_TEST_COMMUNICATOR", "staged"));
  return more;
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

bool on_gpu() { return chosen("LLMTRAIN_TEST_DEVICE", "cpu") == "cuda"; }

RunOutcome run_llmtrain(const std::vector<std::string>& words, const RunOptions& options) {
  const ScratchFolder scratch;
  std::ofstream(scratch / "in", std::ios::binary) << options.input;
  std::string command = "cd " + quoted(options.folder.empty() ? source_dir() : options.folder) + " && exec env";
  std::map<std::string, std::string> environment{{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
  for (const auto& [name, value] : options.environment) environment[name] = value;
  for (const auto& [name, value] : environment) command += " " + name + "=" + quoted(value);
  command += " timeout -k 5 " + std::to_string(options.limit_seconds);
  if (options.ranks > 0) command += " " + quoted(chosen("LLMTRAIN_TEST_MPIEXEC", LLMTRAIN_TEST_MPIEXEC)) + " --oversubscribe -np " + std::to_string(options.ranks);
  if (!options.wrapper.empty()) command += " sh " + quoted(options.wrapper);
  command += " " + quoted(fs::absolute(chosen("LLMTRAIN_TEST_BINARY", LLMTRAIN_TEST_BINARY)).string());
  for (const std::string& word : words) command += " " + quoted(word);
  for (const std::string& word : device_words(words, options.ranks)) command += " " + quoted(word);
  command += " <" + quoted(scratch / "in") + " >" + quoted(scratch / "out") + " 2>" + quoted(scratch / "err");
  RunOutcome outcome;
  const auto begin = std::chrono::steady_clock::now();
  const int status = std::system(command.c_str());
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = content(scratch / "out");
  outcome.err = content(scratch / "err");
  return outcome;
}

CompatFolder::CompatFolder() {
  const fs::path compat = fs::path(shared_dir()) / "compat";
  for (const auto& entry : fs::directory_iterator(compat)) {
    if (entry.path().filename() != "models") fs::create_symlink(entry.path(), scratch_ / entry.path().filename().string());
  }
  for (const auto& model : fs::directory_iterator(compat / "models")) {
    const fs::path to = fs::path(scratch_.path()) / "models" / model.path().filename();
    fs::create_directories(to);
    for (const auto& file : fs::directory_iterator(model.path())) {
      fs::path target = file.path();
      if (fs::file_size(target) < 200) {
        const std::string text = content(target.string());
        if (text.starts_with("../")) target = fs::weakly_canonical(target.parent_path() / text);
      }
      fs::create_symlink(target, to / file.path().filename());
    }
  }
}

std::string Comparison::text() const {
  std::string line;
  for (const auto& [key, value] : worst) {
    char number[32];
    std::snprintf(number, sizeof number, "%.1e", value);
    line += (line.empty() ? "" : "  ") + key + " " + number;
  }
  return line;
}

Comparison compare_run(const std::string& expected_json, const std::string& output_dir, const Tolerances& t) {
  const Json expected = parse_json_file(expected_json)["log_history"];
  std::map<std::pair<int64_t, bool>, Json> got;  // a step has up to three entries: training, evaluation, the summary
  const Json state = parse_json_file(output_dir + "/trainer_state.json");
  for (const Json& entry : state["log_history"]) got[{entry["step"].get<int64_t>(), entry.contains("eval_loss")}].update(entry);
  Comparison result;
  for (const Json& entry : expected) {
    const int64_t step = entry["step"];
    const auto found = got.find({step, entry.contains("eval_loss")});
    for (const auto& [key, value] : entry.items()) {
      if (key != "loss" && key != "grad_norm" && key != "learning_rate" && key != "eval_loss" && !(key == "epoch" && t.epochs)) continue;
      if (found == got.end() || !found->second.contains(key)) {
        if (result.first_out.empty()) result.first_out = "step " + std::to_string(step) + ": no " + key;
        continue;
      }
      const double want = value, have = found->second[key].get<double>();
      const double difference = std::abs(have - want) / std::max(std::abs(want), key == "learning_rate" ? 1e-12 : 1e-2);
      const double tolerance = key == "grad_norm" ? t.norm : key == "learning_rate" || key == "epoch" ? t.rate : t.loss;
      result.worst[key] = std::isnan(difference) ? difference : std::max(result.worst[key], difference);
      if (!(difference <= tolerance) && result.first_out.empty()) {  // NaN is out of tolerance
        char text[200];
        std::snprintf(text, sizeof text, "step %lld: %s is %.9g, expected %.9g (relative %.2g, tolerance %.0e)", static_cast<long long>(step),
                      key.c_str(), have, want, difference, tolerance);
        result.first_out = text;
      }
    }
  }
  return result;
}

std::string bits_of_run(const std::string& output_dir) {
  std::string bits;
  const Json state = parse_json_file(output_dir + "/trainer_state.json");
  for (const Json& entry : state["log_history"]) {
    for (const char* key : {"loss", "grad_norm", "eval_loss"})
      if (entry.contains(key)) bits += entry["step"].dump() + " " + key + " " + dump_json(entry[key]) + "\n";
  }
  return bits + content(output_dir + "/model.safetensors");
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

std::map<int64_t, double> logged(const std::string& output_dir, const std::string& key) {
  std::map<int64_t, double> values;
  const Json state = parse_json_file(output_dir + "/trainer_state.json");
  for (const Json& entry : state["log_history"])
    if (entry.contains(key)) values[entry["step"].get<int64_t>()] = entry[key].get<double>();
  return values;
}

}  // namespace llmtrain::testing_support
