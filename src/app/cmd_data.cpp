// llmtrain data: tokenises the datasets of a configuration and shows what became of them.
#include <stdlib.h>

#include <boost/program_options/value_semantic.hpp>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include "app/cleanup_on_signal.h"
#include "app/commands.h"
#include "app/help.h"
#include "app/ranks.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/prepare.h"
#include "hf/model_folder.h"
#include "train/data_options.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

// Where the token store lies when the configuration names neither output_dir nor tokenized_path: removed at the end. Every rank makes the folder of
// rank 0's name on its own machine.
class TemporaryStore {
 public:
  explicit TemporaryStore(RankGroup& group) {
    std::string made;
    run_on_all_or_fail(group, [&] {
      if (group.rank() != 0) return;
      made = (std::filesystem::temp_directory_path() / "llmtrain-data-XXXXXX").string();
      if (!::mkdtemp(made.data())) throw_errno("mkdtemp", made, errno);
    });
    path_ = broadcast_string(group, made, 0);
    std::error_code ignored;
    std::filesystem::create_directories(path_, ignored);
    ended_.emplace([this] { remove(); });
  }
  ~TemporaryStore() {
    ended_.reset();
    remove();
  }
  TemporaryStore(const TemporaryStore&) = delete;
  TemporaryStore& operator=(const TemporaryStore&) = delete;
  const std::string& path() const { return path_; }

 private:
  // Another thread may yet be writing into it.
  void remove() const {
    constexpr int kTries = 20;
    std::error_code error;
    for (int i = 0; i < kTries; ++i) {
      std::filesystem::remove_all(path_, error);
      if (!error) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  std::string path_;
  std::optional<CleanupOnSignal> ended_;
};

// Before minutes of tokenising: --out can become a file.
void check_out(const std::string& out) {
  if (is_directory(out)) throw InputError("--out " + out, "is a folder, a file is expected");
  const std::string parent = std::filesystem::path(out).parent_path().string();
  if (!parent.empty() && !is_directory(parent)) throw InputError("--out " + out, "there is no folder " + parent);
}

// A line for each row: of the training set in the order before shuffling, then of the evaluation sets.
void write_rows(const Dataset& data, const std::string& out) {
  std::vector<TokenStore> stores;
  if (!data.train.empty()) stores.push_back(data.train);
  for (const EvalSet& e : data.eval) stores.push_back(e.store);
  write_golden_lines(stores, out);
}

}  // namespace

int command_data(const std::vector<std::string>& args, App& app) {
  CommandLine line(
      "data", "--config F [--out rows.jsonl] [--json] [key=value…]",
      "Tokenises the datasets of a configuration exactly as train would, and reports for each what became of its rows. The model folder needs\n"
      "tokenizer files only. The token store lies under output_dir or tokenized_path, or in a temporary folder where neither is given.");
  line.options.add_options()("config", po::value<std::string>(), "the YAML file")(
      "out", po::value<std::string>(), "write every row there, one JSON object a line: {\"ids\": …, \"trained\": …}; rows of evaluation sets come last")(
      "json", "print the report as one JSON object");
  line.take_words("key=value", -1);
  if (!line.parse(args, app)) return kExitDone;
  return run_on_ranks(app, [&](MpiRuntime&, RankGroup& group) {
    Config config;
    std::unique_ptr<Tokenizer> tokenizer;
    DataOptions options;
    run_on_all_or_fail(group, [&] {
      if (!line.has("config")) throw InputError("llmtrain data", "--config is missing", "name the YAML file: llmtrain data --config F");
      if (line.has("out") && group.rank() == 0) check_out(line.get<std::string>("out"));
      config = load_config(line.get<std::string>("config"), line.words());
      check_tokenizable(config);
      tokenizer = std::make_unique<Tokenizer>(
          Tokenizer::load(resolve_model(config.model_name_or_path, config.origin("model_name_or_path") + ": model_name_or_path")));
      options = make_data_options(config, config.output_dir, 0);
    });
    std::optional<TemporaryStore> temporary;
    if (config.output_dir.empty() && options.tokenized_path.empty()) {
      temporary.emplace(group);
      options.store_dir = temporary->path();
    }
    const Dataset data = prepare_data(options, *tokenizer, group, app.log);
    run_on_all_or_fail(group, [&] {
      if (line.has("out") && group.rank() == 0) write_rows(data, line.get<std::string>("out"));
    });
    if (line.has("json")) app.print(dump_json(reports_json(data.reports)) + "\n");
    group.barrier();  // nobody removes a temporary store that another still reads
    return int{kExitDone};
  });
}

}  // namespace llmtrain
