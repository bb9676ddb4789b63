// Every golden case of the shared reference data: the ids and trained spans that LLaMA-Factory itself made.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "core/json.h"
#include "core/log.h"
#include "data/prepare.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;
using testing_support::shared_dir;

DataOptions options_of(const Json& c, const std::string& compat, const std::string& store_dir) {
  DataOptions o;
  o.stage = parse_stage(c["stage"].get<std::string>(), "index.json");
  o.template_name = c["template"].get<std::string>();
  std::string names = c["dataset"].get<std::string>();
  for (size_t at; (at = names.find(',')) != std::string::npos; names.erase(0, at + 1)) o.dataset.push_back(names.substr(0, at));
  o.dataset.push_back(names);
  o.dataset_dir = compat + (c["dataset_dir"] == "edge" ? "/edge" : "/llamafactory/data");
  o.store_dir = store_dir;
  o.threads = 1;
  for (auto it = c["options"].begin(); it != c["options"].end(); ++it) {
    const std::string& key = it.key();
    if (key == "cutoff_len") o.cutoff_len = it->get<int64_t>();
    else if (key == "max_samples") o.max_samples = it->get<int64_t>();
    else if (key == "packing") o.packing = it->get<bool>();
    else if (key == "neat_packing") o.neat_packing = it->get<bool>();
    else if (key == "mask_history") o.mask_history = it->get<bool>();
    else if (key == "train_on_prompt") o.train_on_prompt = it->get<bool>();
    else if (key == "enable_thinking") o.enable_thinking = it->get<bool>();
    else if (key == "default_system") o.default_system = it->get<std::string>();
    else ADD_FAILURE() << "unknown option " << key;
  }
  return o;
}

// The day on which the golden lines were made stands in llama3's tool lists.
constexpr const char* kGoldenDate = "20 Nov 2026";

std::vector<Json> lines_of(const std::string& path) {
  std::ifstream in(path);
  std::vector<Json> rows;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) rows.push_back(parse_json(line, path));
  }
  return rows;
}

std::string first_difference(const Json& want, const Json& got) {
  size_t i = 0;
  while (i < want.size() && i < got.size() && want[i] == got[i]) ++i;
  const auto from = [i](const Json& list) {
    std::string text = std::to_string(list.size()) + " entries, from " + std::to_string(i) + ":";
    for (size_t k = i; k < std::min(i + 8, list.size()); ++k) text += " " + list[k].dump();
    return text;
  };
  return "expected " + from(want) + "; got " + from(got);
}

void expect_equal_rows(const std::vector<Json>& want, const std::vector<Json>& got) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) {
    for (auto it = want[i].begin(); it != want[i].end(); ++it) {
      ASSERT_TRUE(got[i].contains(it.key())) << "row " << i << " lacks " << it.key();
      ASSERT_TRUE(*it == got[i][it.key()]) << "row " << i << ": " << it.key() << ": " << first_difference(*it, got[i][it.key()]);
    }
  }
}

TEST(GoldenTokens, EveryCaseIsExact) {
  SKIP_WITHOUT_SHARED();
  const std::string compat = shared_dir() + "/compat";
  const Json index = parse_json_file(compat + "/golden/index.json");
  std::map<std::string, Tokenizer> tokenizers;
  ScratchFolder scratch;
  Log log(0, false);
  ASSERT_GE(index.size(), 88u);
  // The golden lines were made one case after the other in one process, in which LLaMA-Factory writes `default_system` into its table of templates:
  // it stays there for the later cases of that template, although their options do not name it.
  std::map<std::string, std::string> left_in_table;
  for (const Json& c : index) {
    const std::string file = c["file"].get<std::string>(), name = c["tokenizer"].get<std::string>();
    SCOPED_TRACE(file);
    auto it = tokenizers.find(name);
    if (it == tokenizers.end()) it = tokenizers.emplace(name, Tokenizer::load(shared_dir() + "/tokenizers/" + name)).first;
    DataOptions options = options_of(c, compat, scratch / "stores");
    options.tool_date = kGoldenDate;
    if (options.default_system) left_in_table[options.template_name] = *options.default_system;
    if (const auto left = left_in_table.find(options.template_name); left != left_in_table.end()) options.default_system = left->second;
    SoloGroup solo;
    const Dataset data = prepare_data(options, it->second, solo, log);
    EXPECT_EQ(data.train.size(), c["rows"].get<size_t>());
    EXPECT_EQ(data.tokens.eos, c["eos_after"].get<std::string>());
    EXPECT_EQ(data.tokens.pad, c["pad_after"].get<std::string>());
    const std::string out = scratch / "rows.jsonl";
    write_golden_lines(data.train, out);
    expect_equal_rows(lines_of(compat + "/golden/" + file), lines_of(out));
  }
}

}  // namespace
}  // namespace llmtrain
