// From dataset_info.json to token stores: converters, reports, several ranks, caches, damage.
#include "data/prepare.h"

#include <filesystem>
#include <set>

#include "data/dataset_info.h"
#include "data_support.h"

namespace llmtrain {
namespace {

using namespace testing_support;

class Prepare : public DataFolderTest {
 protected:
  void dataset(const std::string& info, const std::string& file, const std::string& content) {
    write_text(scratch / ("data/" + file), content);
    write_text(scratch / "data/dataset_info.json", info);
  }
  // `n` rows "r<i>" -> "answer <i>", in one file.
  void numbered(int n) {
    std::string rows;
    for (int i = 0; i < n; ++i)
      rows += "{\"instruction\":\"r" + std::to_string(i) + "\",\"output\":\"answer " + std::string(static_cast<size_t>(i % 7), 'x') + "\"}\n";
    dataset(R"({"d": {"file_name": "d.jsonl"}})", "d.jsonl", rows);
  }
  Dataset prepare() {
    SoloGroup solo;
    return prepare_data(options, tokenizer, solo, quiet);
  }
  std::string lines(const TokenStore& store) {
    write_golden_lines(store, scratch / "out.jsonl");
    return read_text(scratch / "out.jsonl");
  }
  std::string text(const RowView& v) { return tokenizer.decode(v.ids, false); }
  std::string refused() {
    return input_error([&] { prepare(); });
  }
};

TEST_F(Prepare, AlpacaRowsWithHistoryAndTheColumnsTrap) {
  const std::string row = R"([{"instruction": "i", "input": "n", "output": "o", "system": "S", "history": [["a", "b"]]}])";
  dataset(R"({"d": {"file_name": "d.json"}})", "d.json", row);
  EXPECT_EQ(text(prepare().train.row(0)), "i\nno");  // history and system are not default columns
  dataset(R"({"d": {"file_name": "d.json", "columns": {"prompt": "instruction", "response": "output", "history": "history", "system": "system"}}})",
          "d.json", row);
  const Dataset all = prepare();
  EXPECT_EQ(text(all.train.row(0)), "Sabio");  // query is not listed, so it is absent
  EXPECT_EQ(all.train.trained_tokens(0), 2u);
}

TEST_F(Prepare, SharegptDropsBadRowsAndNamesTheFirstOfEachKind) {
  dataset(R"({"d": {"file_name": "d.jsonl", "formatting": "sharegpt"}})", "d.jsonl",
          R"({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
{"conversations": [{"from": "human", "value": "q"}]}
{"conversations": [{"from": "gpt", "value": "q"}, {"from": "human", "value": "a"}]}
{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt"}]}
{"conversations": [{"from": "human", "value": "q"}]}
{"conversations": 7}
)");
  const Dataset data = prepare();
  ASSERT_EQ(data.train.size(), 1u);
  EXPECT_EQ(text(data.train.row(0)), "Sqa");
  const DatasetReport& d = data.reports[0].datasets[0];
  EXPECT_EQ(d.rows, 6u);
  EXPECT_EQ(d.dropped_rows(), 5u);
  const RowNote& odd = d.dropped.at("an odd number of messages (the last question has no answer)");
  EXPECT_EQ(odd.count, 2u);
  EXPECT_EQ(odd.row, 2u);
  EXPECT_EQ(d.dropped.size(), 4u);
}

TEST_F(Prepare, OpenaiRowsWithToolCalls) {
  dataset(R"({"d": {"file_name": "d.json", "formatting": "openai", "columns": {"messages": "messages", "tools": "tools"},
             "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function", "system_tag": "system"}}})",
          "d.json", R"([{"tools": [{"name": "f", "parameters": {"properties": {}}}], "messages": [{"role": "user", "content": "q"},
            {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x":1}}}]},
            {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, {"role": "assistant", "content": "a"}]},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}])");
  options.template_name = "qwen3_nothink";
  const Dataset data = prepare();
  ASSERT_EQ(data.train.size(), 2u);
  EXPECT_SAYS(text(data.train.row(0)), "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>\n");
  EXPECT_SAYS(text(data.train.row(0)), "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>");
  EXPECT_EQ(text(data.train.row(1)).substr(0, 52), "<|im_start|>system\ndetailed thinking off<|im_end|>\n<");
}

TEST_F(Prepare, RankingsGiveTwoSequencesARow) {
  dataset(R"({"d": {"file_name": "d.json", "ranking": true, "columns": {"prompt": "p", "chosen": "c", "rejected": "r"}}})", "d.json",
          R"([{"p": "q", "c": "good", "r": "bad"}, {"p": "q", "c": "good", "r": null}])");
  options.stage = Stage::dpo;
  const Dataset data = prepare();
  ASSERT_EQ(data.train.size(), 1u);
  EXPECT_EQ(text(data.train.row(0)), "qgood");
  EXPECT_EQ(text(data.train.rejected(0)), "qbad");
  EXPECT_EQ(data.train.tokens(0), 9u);
  EXPECT_EQ(data.train.trained_tokens(0), 7u);
  const Json line = parse_json(lines(data.train), "line");
  EXPECT_EQ(line["chosen_trained"], Json::parse("[[1,5]]"));
  EXPECT_EQ(line["rejected_trained"], Json::parse("[[1,4]]"));
  options.stage = Stage::sft;
  EXPECT_SAYS(refused(), "has rankings");
}

TEST_F(Prepare, PretrainingBlocksDropTheRemainderAndPadsCarryNoLoss) {
  dataset(R"({"d": {"file_name": "d.txt", "columns": {"prompt": "text"}}})", "d.txt", "abc\ndefgh\n");
  options.stage = Stage::pt;
  options.cutoff_len = 4;
  const Dataset blocks = prepare();  // abc E defg | h E: 10 tokens, two blocks
  ASSERT_EQ(blocks.train.size(), 2u);
  EXPECT_EQ(text(blocks.train.row(0)), "abc<|im_end|>");
  EXPECT_EQ(blocks.train.trained_tokens(0), 3u);  // the pad is the EOS here
  options.packing = true;  // written: one token less
  EXPECT_EQ(text(prepare().train.row(1)), "<|im_end|>de");
  options.packing = false;
  const Dataset rows = prepare();
  EXPECT_EQ(text(rows.train.row(1)), "defg");
  EXPECT_EQ(rows.reports[0].datasets[0].truncated.count, 1u);
  options.packing.reset();
  options.cutoff_len = 64;
  EXPECT_SAYS(refused(), "fewer tokens than one block");
}

TEST_F(Prepare, PacksAreFilledWithPadsInTheGoldenLines) {
  dataset(R"({"d": {"file_name": "d.jsonl"}})", "d.jsonl",
          "{\"instruction\":\"q\",\"output\":\"aa\"}\n{\"instruction\":\"q\",\"output\":\"bbbb\"}\n");
  options.neat_packing = true;
  options.cutoff_len = 10;
  const Dataset data = prepare();
  ASSERT_EQ(data.train.size(), 1u);
  EXPECT_EQ(data.train.info().pack, PackKind::neat);
  EXPECT_EQ(text(data.train.row(0)), "qbbbbqaa");
  EXPECT_EQ(data.train.padded_tokens(0), 10u);
  const Json line = parse_json(lines(data.train), "line");
  EXPECT_EQ(line["ids"].size(), 10u);
  EXPECT_EQ(line["positions_restart"], Json::parse("[0,5,8,9]"));
  EXPECT_EQ(line["trained"], Json::parse("[[1,5],[6,8]]"));
}

TEST_F(Prepare, PacksDoNotCrossBatchesOrWorkers) {
  numbered(40);
  options.packing = true;
  options.cutoff_len = 60;
  const size_t together = prepare().train.size();
  options.preprocessing_batch_size = 3;
  EXPECT_GT(prepare().train.size(), together);
  options.preprocessing_batch_size = 1000;
  options.preprocessing_num_workers = 40;
  EXPECT_EQ(prepare().train.size(), 40u);
}

TEST_F(Prepare, TruncationDropsOrRefusesWhereAsked) {
  numbered(10);
  const TokenStore whole = prepare().train;
  const uint64_t cutoff = whole.tokens(4);  // rows 5 and 6 are longer, by one and two tokens; 7 to 9 begin anew
  options.cutoff_len = static_cast<int64_t>(cutoff);
  EXPECT_EQ(prepare().reports[0].datasets[0].truncated.count, 2u);
  options.truncation = Truncation::drop;
  EXPECT_EQ(prepare().train.size(), 8u);
  options.truncation = Truncation::error;
  EXPECT_SAYS(refused(), "d.jsonl: row 6: is longer than cutoff_len");
}

TEST_F(Prepare, EveryWorldAndThreadCountGivesTheSameRows) {
  numbered(700);
  const std::string want = lines(prepare().train);
  for (const bool packed : {false, true}) {
    options.packing = packed;
    options.preprocessing_batch_size = 100;
    options.cutoff_len = 64;
    options.overwrite_cache = true;
    options.threads = 1;
    const std::string alone = lines(prepare().train);
    if (!packed) {
      EXPECT_EQ(alone, want);
    }
    for (const int n : {2, 3, 5}) {
      ThreadRanks ranks(n);
      options.threads = n == 3 ? 3 : 1;
      std::vector<Dataset> data(static_cast<size_t>(n));
      ranks.run([&](RankGroup& group) {
        Log log(group.rank(), false);
        data[static_cast<size_t>(group.rank())] = prepare_data(options, tokenizer, group, log);
      });
      for (const Dataset& d : data) {
        EXPECT_EQ(lines(d.train), alone) << n << " ranks";
        EXPECT_EQ(d.reports[0].datasets[0].used, 700u);
      }
    }
  }
}

TEST_F(Prepare, RanksWithoutASharedFileSystemSendEachOtherTheirParts) {
  numbered(300);
  const std::string want = lines(prepare().train);
  const int n = 4;
  ThreadRanks ranks(n);
  std::vector<std::string> got(static_cast<size_t>(n));
  ranks.run([&](RankGroup& group) {
    DataOptions mine = options;
    mine.store_dir = scratch / ("node" + std::to_string(group.rank() / 2));  // two "nodes" of two ranks
    Log log(group.rank(), false);
    const Dataset d = prepare_data(mine, tokenizer, group, log);
    group.barrier();
    for (int r = 0; r < n; ++r) {
      if (r == group.rank()) got[static_cast<size_t>(r)] = lines(d.train);
      group.barrier();
    }
  });
  for (const std::string& g : got) EXPECT_EQ(g, want);
}

TEST_F(Prepare, AnErrorOnOneRankReachesAll) {
  numbered(10);
  const int n = 3;
  ThreadRanks ranks(n);
  std::vector<std::string> says(static_cast<size_t>(n));
  ranks.run([&](RankGroup& group) {
    DataOptions mine = options;
    if (group.rank() == 1) mine.dataset_dir = scratch / "missing";
    Log log(group.rank(), false);
    says[static_cast<size_t>(group.rank())] = input_error([&] { prepare_data(mine, tokenizer, group, log); });
  });
  for (const std::string& s : says) EXPECT_SAYS(s, "missing/dataset_info.json");
  EXPECT_EQ(says[0], says[2]);
}

TEST_F(Prepare, RanksThatSeeOtherFilesAreToldWhichOne) {
  numbered(10);
  make_directories(scratch / "other");
  write_text(scratch / "other/dataset_info.json", read_text(scratch / "data/dataset_info.json"));
  write_text(scratch / "other/d.jsonl", read_text(scratch / "data/d.jsonl") + "{\"instruction\":\"x\",\"output\":\"y\"}\n");
  ThreadRanks ranks(2);
  std::vector<std::string> says(2);
  ranks.run([&](RankGroup& group) {
    DataOptions mine = options;
    if (group.rank() == 1) mine.dataset_dir = scratch / "other";
    Log log(group.rank(), false);
    says[static_cast<size_t>(group.rank())] = input_error([&] { prepare_data(mine, tokenizer, group, log); });
  });
  EXPECT_SAYS(says[0], "d.jsonl: rank 1 sees another content than rank 0");
}

std::vector<std::string> entries_of(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(folder)) names.push_back(e.path().filename().string());
  return names;
}

TEST_F(Prepare, AStoreIsFoundAgainUntilSomethingThatMattersChanges) {
  numbered(10);
  prepare();
  const auto first = entries_of(scratch / "out/stores");
  ASSERT_EQ(first.size(), 1u);
  const auto written = std::filesystem::last_write_time(scratch / ("out/stores/" + first[0] + "/manifest.json"));
  prepare();
  EXPECT_EQ(entries_of(scratch / "out/stores"), first);
  EXPECT_EQ(std::filesystem::last_write_time(scratch / ("out/stores/" + first[0] + "/manifest.json")), written);
  options.overwrite_cache = true;
  prepare();
  EXPECT_EQ(entries_of(scratch / "out/stores"), first);
  EXPECT_NE(std::filesystem::last_write_time(scratch / ("out/stores/" + first[0] + "/manifest.json")), written);
  options.overwrite_cache = false;
  options.cutoff_len = 9;
  prepare();
  EXPECT_EQ(entries_of(scratch / "out/stores").size(), 2u);
  numbered(11);
  prepare();
  EXPECT_EQ(entries_of(scratch / "out/stores").size(), 3u);
}

TEST_F(Prepare, ADamagedStoreIsMadeAnew) {
  numbered(10);
  const std::string want = lines(prepare().train);
  const std::string folder = scratch / ("out/stores/" + entries_of(scratch / "out/stores")[0]), part = folder + "/part-00000.tokens";
  const std::string whole = read_text(part);
  for (const size_t at : {size_t{3}, size_t{20}, size_t{70}, whole.size() / 2, whole.size() - 12}) {
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    write_text(part, bad);
    EXPECT_THROW(TokenStore::open(folder, true), InputError) << "byte " << at;
    EXPECT_EQ(lines(prepare().train), want);
  }
  for (size_t keep = 0; keep < whole.size(); keep += 97) {
    write_text(part, whole.substr(0, keep));
    EXPECT_THROW(TokenStore::open(folder, false), InputError) << keep;
  }
}

TEST_F(Prepare, TokenizedPathIsFilledThenTakenAsItIs) {
  numbered(10);
  options.tokenized_path = scratch / "tokenized";
  options.val_size = 3;
  const Dataset first = prepare();
  EXPECT_EQ(first.train.size(), 7u);
  ASSERT_EQ(first.eval.size(), 1u);
  EXPECT_EQ(first.eval[0].store.size(), 3u);
  options.cutoff_len = 5;  // not looked at
  options.val_size = 0;
  const Dataset second = prepare();
  EXPECT_EQ(lines(second.train), lines(first.train));
  EXPECT_EQ(lines(second.eval[0].store), lines(first.eval[0].store));
  options.stage = Stage::pt;
  EXPECT_SAYS(refused(), "was made for stage sft");
  options.stage = Stage::sft;
  options.tokenized_path = scratch / "arrow";
  make_directories(options.tokenized_path);
  write_text(options.tokenized_path + "/dataset_dict.json", "{}");
  EXPECT_SAYS(refused(), "Arrow");
}

TEST_F(Prepare, ValidationRowsAreHeldOutOnce) {
  numbered(20);
  options.val_size = 0.11;  // ceil(2.2) = 3
  const Dataset data = prepare();
  EXPECT_EQ(data.eval[0].store.size(), 3u);
  std::set<std::string> all;
  for (size_t i = 0; i < data.train.size(); ++i) all.insert(text(data.train.row(i)));
  for (size_t i = 0; i < 3; ++i) all.insert(text(data.eval[0].store.row(i)));
  EXPECT_EQ(all.size(), 20u);
  options.val_size = 20;
  EXPECT_SAYS(refused(), "val_size");
}

TEST_F(Prepare, SamplesMixesAndEvaluationSets) {
  write_text(scratch / "data/a.jsonl",
             "{\"instruction\":\"a\",\"output\":\"0\"}\n{\"instruction\":\"a\",\"output\":\"1\"}\n{\"instruction\":\"a\",\"output\":\"2\"}\n");
  write_text(scratch / "data/b.csv", "instruction,output\nb,0\nb,1\n");
  write_text(scratch / "data/dataset_info.json",
             R"({"a": {"file_name": "a.jsonl"}, "b": {"file_name": "b.csv"}, "a5": {"file_name": "a.jsonl", "num_samples": 5}})");
  const auto all = [&](const TokenStore& s) {
    std::string t;
    for (size_t i = 0; i < s.size(); ++i) t += text(s.row(i)) + " ";
    return t;
  };
  options.dataset = {"a", "b"};
  EXPECT_EQ(all(prepare().train), "a0 a1 a2 b0 b1 ");
  options.max_samples = 1;
  EXPECT_EQ(all(prepare().train), "a0 b0 ");
  options.max_samples.reset();
  options.mix_strategy = MixStrategy::interleave_over;
  EXPECT_EQ(all(prepare().train), "a0 b0 a1 b1 a2 b0 ");
  options.dataset = {"a5"};
  const std::string drawn = all(prepare().train);
  EXPECT_EQ(drawn.size(), 15u);
  for (const char* each : {"a0", "a1", "a2"}) EXPECT_SAYS(drawn, each);
  options.eval_dataset = {"a", "b"};
  options.mix_strategy = MixStrategy::concat;
  EXPECT_EQ(all(prepare().eval.at(0).store), "a0 a1 a2 b0 b1 ");
  options.eval_on_each_dataset = true;
  const Dataset each = prepare();
  ASSERT_EQ(each.eval.size(), 2u);
  EXPECT_EQ(each.eval[1].name, "b");
  EXPECT_EQ(all(each.eval[1].store), "b0 b1 ");
}

TEST_F(Prepare, AFolderOfFilesIsReadInTheOrderOfNames) {
  make_directories(scratch / "data/parts");
  write_text(scratch / "data/parts/2.jsonl", "{\"instruction\":\"x\",\"output\":\"2\"}\n");
  write_text(scratch / "data/parts/1.jsonl", "[{\"instruction\":\"x\",\"output\":\"1\"}]");
  write_text(scratch / "data/dataset_info.json", R"({"d": {"file_name": "parts"}})");
  const Dataset data = prepare();
  EXPECT_EQ(text(data.train.row(0)) + text(data.train.row(1)), "x1x2");
  write_text(scratch / "data/parts/3.txt", "x");
  EXPECT_SAYS(refused(), "files of several kinds");
}

TEST_F(Prepare, AStoreFolderThatCannotBeMadeIsWrongInput) {
  dataset(R"({"d": {"file_name": "d.jsonl"}})", "d.jsonl", "{\"instruction\":\"q\",\"output\":\"a\"}\n");
  write_text(scratch / "file", "x");
  options.store_dir = scratch / "file/below";
  EXPECT_SAYS(refused(), "file/below: this folder cannot be made or written to");
}

TEST_F(Prepare, WrongDatasetInfoIsRefusedByName) {
  const auto with = [&](const std::string& info) {
    dataset(info, "d.jsonl", "{\"instruction\":\"q\",\"output\":\"a\"}\n");
    return refused();
  };
  EXPECT_SAYS(with("{"), "dataset_info.json: broken JSON");
  EXPECT_SAYS(with("[]"), "is not a JSON object");
  EXPECT_SAYS(with(R"({"dd": {"file_name": "d.jsonl"}})"), "did you mean dd?");
  EXPECT_SAYS(with(R"({"d": {"hf_hub_url": "org/name"}})"), "hf download");
  EXPECT_SAYS(with(R"({"d": {"file_name": "none.json"}})"), "none.json: no such file");
  EXPECT_SAYS(with(R"({"d": {"file_name": "/dev/zero"}})"), "is not a regular file");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "formatting": "alpacca"}})"), "unknown formatting");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "columns": []}})"), "is not a JSON object");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "columns": {"prompt": 7}}})"), "\"prompt\" is not a string");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "columns": {"response": "output"}}})"), "\"columns\" without \"prompt\"");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "split": "test"}})"), "split");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "num_samples": -1}})"), "num_samples");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "num_samples": 10000000000000000000}})"), "\"num_samples\" is more than 4294967296 rows");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.json\u0000l"}})"), "\"file_name\" holds a NUL character");
  EXPECT_SAYS(with(R"({"d": {"file_name": ")" + std::string(5000, 'a') + R"(.json"}})"), "cannot be read: File name too long");
  std::filesystem::create_symlink("loop.json", scratch / "data/loop.json");
  EXPECT_SAYS(with(R"({"d": {"file_name": "loop.json"}})"), "cannot be read: Too many levels of symbolic links");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl"}, "d": {}})"), "stands twice");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "columns": {"prompt": "question", "response": "output"}}})"),
              "no row has the column \"question\"");
  EXPECT_SAYS(with(R"({"d": {"file_name": "d.jsonl", "formatting": "sharegpt"}})"), "no row has the column \"conversations\"");
}

TEST_F(Prepare, OptionsThatMeanNothingAreRefused) {
  numbered(3);
  options.mask_history = options.train_on_prompt = true;
  EXPECT_SAYS(refused(), "mask_history");
  options.mask_history = options.train_on_prompt = false;
  options.cutoff_len = 1;
  options.packing = true;
  EXPECT_SAYS(refused(), "cutoff_len");
  options.cutoff_len = -5;
  EXPECT_SAYS(refused(), "cutoff_len");
  options.cutoff_len = 100;
  options.packing.reset();
  options.template_name = "";
  EXPECT_SAYS(refused(), "has no chat template");
  options.template_name = "empty";
  options.dataset.clear();
  EXPECT_SAYS(refused(), "no dataset is named");
}

TEST_F(Prepare, EosWithoutLossIsNoticed) {
  numbered(3);
  EXPECT_FALSE(prepare().reports[0].eos_trained);
  options.template_name = "llama2";
  EXPECT_TRUE(prepare().reports[0].eos_trained);
}

}  // namespace
}  // namespace llmtrain
