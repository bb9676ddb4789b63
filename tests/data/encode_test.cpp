// Truncation, packs, templates and tool formats, as formats.md §3 and LLaMA-Factory have them.
#include "data/encode.h"

#include "data/tools.h"
#include "data_support.h"

namespace llmtrain {
namespace {

using namespace testing_support;
using Kept = std::pair<int64_t, int64_t>;

TEST(Truncation, FollowsTheRuleInDoubleAndInItsOrder) {
  EXPECT_EQ(kept_lengths(3000, 500, 2048), (Kept{1548, 500}));
  EXPECT_EQ(kept_lengths(76, 209, 150), (Kept{41, 109}));  // 150 * (209 / 285) = 109.99…: not 110
  EXPECT_EQ(kept_lengths(10, 20, 100), (Kept{10, 20}));
  EXPECT_EQ(kept_lengths(10, 200, 100), (Kept{10, 90}));
  EXPECT_EQ(kept_lengths(200, 200, 100), (Kept{50, 50}));
  EXPECT_EQ(kept_lengths(200, 10, 100), (Kept{90, 10}));
  EXPECT_EQ(kept_lengths(20, 5, 10), (Kept{8, 2}));   // 2t = c is not 2t < c: int(10 * 5 / 25)
  EXPECT_EQ(kept_lengths(5, 20, 10), (Kept{2, 8}));   // 2s = c is not 2s < c: int(10 * 20 / 25)
  EXPECT_EQ(kept_lengths(0, 0, 0), (Kept{0, 0}));
  EXPECT_EQ(kept_lengths(5, 5, 1), (Kept{1, 0}));
}

TEST(Packs, TakeTheLongestThatFitsAndOfEqualsTheLast) {
  const auto packs = knapsack_packs({3, 5, 3, 2, 5, 1}, 8);
  EXPECT_EQ(packs, (std::vector<std::vector<size_t>>{{4, 2}, {1, 0}, {3, 5}}));
  EXPECT_EQ(knapsack_packs({}, 8), (std::vector<std::vector<size_t>>{}));
  EXPECT_EQ(knapsack_packs({8, 8}, 8), (std::vector<std::vector<size_t>>{{1}, {0}}));
}

TEST(Templates, AnUnknownOneIsRefusedWithTheListAndTheNearest) {
  const std::string text = input_error([] { find_template("qwen_3"); });
  EXPECT_SAYS(text, "did you mean qwen3?");
  EXPECT_SAYS(text, "llama3");
}

TEST(Templates, ChatTemplatesAreMatchedByTheirMarkers) {
  const auto name = [](const char* jinja) {
    const Template* t = match_chat_template(jinja);
    return t ? t->name : "none";
  };
  EXPECT_EQ(name("{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'+ m['content'] | trim + '<|eot_id|>' }}"), "llama3");
  EXPECT_EQ(name("{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }} <tool_call>"),
            "qwen");
  EXPECT_EQ(name("{{ '<|im_start|>' }} <tool_call> {% if enable_thinking %}<think>"), "qwen3");
  EXPECT_EQ(name("{{ '<|im_start|>' }} <tool_call>"), "qwen3_nothink");
  EXPECT_EQ(name("{{ '<|im_start|>' + role + '\n' }}"), "chatml");
  EXPECT_EQ(name("{{ '<|im_start|>' + role + '<|im_sep|>' }}"), "phi4");
  EXPECT_EQ(name("{{'<|user|>\\n' + content + '<|end|>\\n'}}"), "phi");
  EXPECT_EQ(name("{{ '<|' + role + '|>' + content + '<|end|>' }}"), "phi4_mini");
  EXPECT_EQ(name("[INST] <<SYS>>\\n"), "llama2");
  EXPECT_EQ(name("{{ '[INST] ' + content + '[/INST]' }}"), "mistral");
  EXPECT_EQ(name("{{ content }}"), "none");
  EXPECT_EQ(name("<|im_start|>system\nYou are Dolphin<|im_end|>"), "none");
}

TEST(Templates, ATokenThatTheVocabularyLacksIsRefused) {
  ScratchFolder scratch;
  const Tokenizer t = byte_tokenizer(scratch / "tokenizer");
  EXPECT_SAYS(input_error([&] { special_tokens(find_template("gemma"), t); }), "<end_of_turn>");
  const SpecialTokens s = special_tokens(find_template("llama3"), t);
  EXPECT_EQ(s.eos, "<|eot_id|>");
  EXPECT_EQ(s.pad, "<|eot_id|>");
}

class Encoding : public ::testing::Test {
 protected:
  ScratchFolder scratch;
  Tokenizer tokenizer = byte_tokenizer(scratch / "tokenizer");
  DataOptions options;

  // The row as text, trained spans in [brackets].
  std::string shown(const std::string& name, const Example& e) {
    TemplateChoice choice = choose_template(name, tokenizer, false, options.default_system, options.tool_format);
    const SpecialTokens tokens = special_tokens(choice.tmpl, tokenizer);
    RowEncoder encoder(tokenizer, choice.tmpl, tokens, options, "01 Jan 2026");
    Sequence s;
    cut = encoder.supervised(e, s);
    return show(s);
  }
  std::string show(const Sequence& s) {
    std::string text;
    uint32_t at = 0;
    const auto part = [&](uint32_t end) {
      text += tokenizer.decode(std::span<const int32_t>(s.ids.data() + at, end - at), false);
      at = end;
    };
    for (const Span t : s.trained) {
      part(t.begin);
      text += "[";
      part(t.end);
      text += "]";
    }
    part(static_cast<uint32_t>(s.ids.size()));
    return text;
  }
  static Example dialogue() {
    Example e;
    e.prompt = {{Role::user, "q1"}, {Role::assistant, "a1"}, {Role::user, "q2"}};
    e.response = {{Role::assistant, "a2"}};
    return e;
  }
  bool cut = false;
};

TEST_F(Encoding, TrainsAnswersWithTheirEndOnly) {
  EXPECT_EQ(shown("qwen3_nothink", dialogue()),
            "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n[a1<|im_end|>\n]<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n[a2<|im_"
            "end|>\n]");
  EXPECT_FALSE(cut);
  EXPECT_EQ(shown("llama2", dialogue()), "<|begin|>[INST] q1 [/INST][a1<|im_end|>]<|begin|>[INST] q2 [/INST][a2<|im_end|>]");
}

TEST_F(Encoding, SystemTextStandsWhereTheTemplatePutsIt) {
  Example e = dialogue();
  e.system = "S";
  EXPECT_EQ(shown("llama2", e).substr(0, 52), "<|begin|>[INST] <<SYS>>\nS\n<</SYS>>\n\nq1 [/INST][a1<|i");
  EXPECT_EQ(shown("chatml", e).substr(0, 37), "<|im_start|>system\nS<|im_end|>\n<|im_s");
  options.default_system = "D";
  EXPECT_EQ(shown("chatml", dialogue()).substr(0, 31), "<|im_start|>system\nD<|im_end|>\n");
}

TEST_F(Encoding, MaskHistoryTrainsTheLastAnswerAndTrainOnPromptEverything) {
  options.mask_history = true;
  EXPECT_EQ(shown("empty", dialogue()), "q1a1q2[a2]");
  options.mask_history = false;
  options.train_on_prompt = true;
  EXPECT_EQ(shown("empty", dialogue()), "[q1a1q2a2]");
}

TEST_F(Encoding, MaskHistoryKeepsTheLastTurnsWhenCut) {
  options.mask_history = true;
  options.cutoff_len = 5;
  EXPECT_EQ(shown("empty", dialogue()), "qq2[a2]");
  EXPECT_TRUE(cut);
  options.mask_history = false;
  EXPECT_EQ(shown("empty", dialogue()), "q1[a1]q");
}

TEST_F(Encoding, ReasoningTemplatesAddEmptyThoughts) {
  EXPECT_EQ(shown("qwen3", dialogue()),
            "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\na1<|im_end|>\n]<|im_start|>user\nq2<|im_end|>\n"
            "<|im_start|>assistant\n[<think>\n\n</think>\n\na2<|im_end|>\n]");
  Example e = dialogue();
  e.response[0].content = "<think>\nt\n</think>\n\nyes";
  options.enable_thinking = false;
  const std::string off = shown("qwen3", e);
  EXPECT_EQ(off.substr(off.rfind("assistant\n")), "assistant\n<think>\n\n</think>\n\n[yes<|im_end|>\n]");
  options.enable_thinking = true;
  const std::string on = shown("qwen3", e);
  EXPECT_EQ(on.substr(on.rfind("assistant\n")), "assistant\n[<think>\nt\n</think>\n\nyes<|im_end|>\n]");
}

TEST_F(Encoding, MaskHistoryDropsThoughtsOfEarlierTurns) {
  options.mask_history = true;
  Example e = dialogue();
  e.prompt[1].content = "<think>\nt\n</think>\n\na1";
  EXPECT_EQ(shown("qwen3", e),
            "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\n\n</think>\n\na2<|im_end|>\n]");
}

TEST_F(Encoding, RankingsAreOneTurnAndBothAnswersAreCutAlike) {
  Example e;
  e.prompt = {{Role::user, "0123456789"}};
  e.response = {{Role::assistant, "abcdefgh"}, {Role::assistant, "xy"}};
  options.stage = Stage::dpo;
  options.cutoff_len = 9;
  const Template& empty = find_template("empty");
  const SpecialTokens tokens = special_tokens(empty, tokenizer);
  RowEncoder encoder(tokenizer, empty, tokens, options, "");
  Sequence chosen, rejected;
  EXPECT_TRUE(encoder.ranking(e, chosen, rejected));
  EXPECT_EQ(show(chosen), "01234[abcd]");  // int(9 * 8 / 18) = 4
  EXPECT_EQ(show(rejected), "01234[xy]");
}

TEST_F(Encoding, FunctionCallsAndObservations) {
  Example e;
  e.tools =
      R"([{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "number", "enum": ["1"]}}, "required": ["x"]}}])";
  e.prompt = {{Role::user, "q"}, {Role::function, R"({"name": "f", "arguments": {"x": 1.0}})"}, {Role::observation, "3"}};
  e.response = {{Role::assistant, "a"}};
  const std::string qwen = shown("qwen3_nothink", e);
  EXPECT_SAYS(qwen, "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"d\"");
  EXPECT_SAYS(qwen,
              "[<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": "
              "1.0}}\n</tool_call><|im_end|>\n]<|im_start|>user\n<tool_response>\n3\n</tool_response>");
  const std::string llama = shown("llama3", e);
  EXPECT_SAYS(llama, "Today Date: 01 Jan 2026\n");
  EXPECT_SAYS(llama, "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"f\"");
  EXPECT_SAYS(llama, "[{\"name\": \"f\", \"parameters\": {\"x\": 1.0}}<|eot_id|>]<|start_header_id|>ipython<|end_header_id|>");
  const std::string plain = shown("default", e);
  EXPECT_SAYS(plain, "> Tool Name: f\nTool Description: d\nTool Args:\n  - x (number, required): , should be one of [1]\n\n");
  EXPECT_SAYS(plain, "[Action: f\nAction Input: {\"x\": 1.0}<|im_end|>\n]");
  options.tool_format = "mistral";
  EXPECT_SAYS(shown("qwen3_nothink", e), "[[{\"name\": \"f\", \"arguments\": {\"x\": 1.0}}]<|im_end|>]");
}

TEST(Tools, JsonIsRewrittenAsPythonWritesIt) {
  EXPECT_EQ(python_json(R"({"a":[1,2.50,1e5,1E-7,123456789012345678901234567890,-0.0,true,null,"é\u00e9\n\u0001/"],"b":{},"c":[]})"),
            "{\"a\": [1, 2.5, 100000.0, 1e-07, 123456789012345678901234567890, -0.0, true, null, \"éé\\n\\u0001/\"], \"b\": {}, \"c\": []}");
  EXPECT_EQ(python_json("1e16"), "1e+16");
  EXPECT_EQ(python_json("1e15"), "1000000000000000.0");
  EXPECT_EQ(python_json("0.0001"), "0.0001");
  EXPECT_EQ(python_json("0.00001"), "1e-05");
}

TEST(Tools, ThoughtsStayInFrontOfACall) {
  const std::string begin = "<think>\n", end = "\n</think>\n\n";
  EXPECT_EQ(function_call_text("default", "<think>\nt\n</think>\n\n{\"name\":\"f\",\"arguments\":{}}", begin, end, true),
            "<think>\nt\n</think>\n\nAction: f\nAction Input: {}");
  EXPECT_EQ(function_call_text("qwen", "so: <tool_call>{\"name\":\"f\",\"arguments\":\"s\"}</tool_call>", begin, end, true),
            "so: <tool_call>\n{\"name\": \"f\", \"arguments\": \"s\"}\n</tool_call>");
  EXPECT_THROW(function_call_text("qwen", "no call", begin, end, true), RowError);
  EXPECT_THROW(function_call_text("qwen", "{\"name\":\"f\"}", begin, end, true), RowError);
  EXPECT_THROW(tool_list_text("qwen", "{\"a\":1}", ""), RowError);
  EXPECT_EQ(tool_list_text("qwen", "[]", ""), "");
}

}  // namespace
}  // namespace llmtrain
