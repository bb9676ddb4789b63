// A row on its whole way: converted, written by a template, tool lists and calls included, encoded and cut to a length.
#include "core/error.h"
#include "data/encode.h"
#include "data/row_source.h"
#include "data/tools.h"
#include "support/rows.h"
#include "support/tokenizers.h"

namespace llmtrain::fuzz {
namespace {

struct Way {
  explicit Way(const std::string& name, const Tokenizer& tokenizer) {
    options.cutoff_len = 64;
    TemplateChoice choice = choose_template(name, tokenizer, false, std::nullopt, "");
    tmpl = std::move(choice.tmpl);
    tokens = special_tokens(tmpl, tokenizer);
    used = tokenizer_for(tmpl, tokenizer);
    encoder.emplace(used, tmpl, tokens, options, "20 Nov 2026");
  }
  DataOptions options;
  Template tmpl;
  SpecialTokens tokens;
  Tokenizer used;
  std::optional<RowEncoder> encoder;
};

DatasetEntry entry_of(Formatting formatting, bool ranking) {
  DatasetEntry entry;
  entry.formatting = formatting;
  entry.ranking = ranking;
  entry.history = "history";
  entry.system = "system";
  entry.tools = "tools";
  entry.chosen = "chosen";
  entry.rejected = "rejected";
  return entry;
}

void check(const Sequence& s, const Way& way) {
  if (s.ids.size() > static_cast<size_t>(way.options.cutoff_len)) finding("a row longer than cutoff_len");
  uint32_t end = 0;
  for (const Span t : s.trained) {
    if (t.begin < end || t.end <= t.begin || t.end > s.ids.size()) finding("a trained span that does not fit");
    end = t.end;
  }
}

}  // namespace

const Target& target() {
  static const Target t{
      {json("0{'instruction':'question','input':'more','output':'answer','system':'be','history':[['a','b'],['c','d']]}"),
       json("1{'conversations':[{'from':'human','value':'q'},{'from':'function_call','value':'{\\'name\\':\\'f\\',\\'arguments\\':{\\'x\\':1}}'},{'from':'observation',"
            "'value':'42'},{'from':'gpt','value':'<think>\\n.\\n</think>\\n\\nok'}],'tools':'[{\\'name\\':\\'f\\',\\'description\\':\\'d\\',\\'parameters\\':{\\'type\\':\\'object\\',"
            "\\'properties\\':{\\'x\\':{\\'type\\':\\'integer\\',\\'description\\':\\'n\\'}},\\'required\\':[\\'x\\']}}]'}"),
       json("2{'instruction':'q','chosen':'good','rejected':'bad'}"),
       json("1{'conversations':[{'from':'human','value':'q'},{'from':'function_call','value':'[{\\'name\\':\\'f\\',\\'arguments\\':{}},{\\'name\\':\\'g\\',\\'arguments\\':[1.0]}]'}],"
            "'tools':[{'type':'function','function':{'name':'f','parameters':{}}}]}")},
      json_words({"\"name\"", "\"arguments\"", "\"description\"", "\"parameters\"", "\"properties\"", "\"required\"", "\"type\"", "\"function\"", "\\\"name\\\"", "\\\"arguments\\\"",
                  "\\\"parameters\\\"", "<think>\\n", "\\n</think>\\n\\n", "<tool_call>", "</tool_call>", "<|im_end|>", "\"tools\"", "\"history\"", "\"function_call\"",
                  "\"observation\"", "{{content}}", "\\ud83d\\ude42"})};
  return t;
}

void take(std::string_view input) {
  static const Tokenizer tokenizer = Tokenizer::load(byte_tokenizer_folder("tokenizer"));
  static Way ways[] = {Way("llama3", tokenizer), Way("qwen3", tokenizer), Way("mistral", tokenizer), Way("default", tokenizer)};
  if (input.empty()) return;
  SourceFile file;
  file.path = put("row.jsonl", input.substr(1));
  scan_file(file, 1);
  if (file.rows == 0) return;
  RowReader reader(file);
  const bool ranking = input[0] == '2';
  const DatasetEntry entry = entry_of(input[0] == '1' ? Formatting::sharegpt : Formatting::alpaca, ranking);
  Example example;
  convert_row(entry, ranking ? Stage::dpo : Stage::sft, reader.read(0), example);
  Sequence first, second;
  for (Way& way : ways) {
    try {
      if (ranking) {
        way.encoder->ranking(example, first, second);
        check(second, way);
      } else {
        way.encoder->supervised(example, first);
      }
      check(first, way);
    } catch (const RowError&) {
    }
  }
}

}  // namespace llmtrain::fuzz
