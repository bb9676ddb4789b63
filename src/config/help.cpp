// Texts made from the table: the keys of --help and docs/configuration.md.
#include <algorithm>

#include "config/table.h"

namespace llmtrain {
namespace {

// Breaks `text` at blanks so that lines have at most `width` columns; all lines but the first are indented.
std::string wrap(const std::string& text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const size_t n = end - begin;
    if (column > indent && column + 1 + n > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += text.substr(begin, n);
    column += n;
    begin = end + 1;
  }
  return out;
}

std::string takes(const Key& key) {
  if (key.kind == ValueKind::text || key.kind == ValueKind::list) return "";
  return " (" + describe_type(key) + ")";
}

std::string cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
  return text;
}

std::string sentence(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

// Keys without effect or refused: one row for each reason.
std::string reasons(Standing standing) {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Key& key : key_table()) {
    if (!key.alias_of.empty() || key.standing != standing) continue;
    const auto at = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.first == key.reason; });
    if (at == rows.end()) {
      rows.emplace_back(key.reason, "`" + key.name + "`");
    } else {
      at->second += ", `" + key.name + "`";
    }
  }
  std::string out = "| keys | why |\n|---|---|\n";
  for (const auto& [reason, names] : rows) out += "| " + names + " | " + cell(reason) + " |\n";
  return out;
}

}  // namespace

std::string keys_help(int width) {
  std::string out, group;
  constexpr size_t kIndent = 34;
  for (const Key& key : key_table()) {
    if (!key.alias_of.empty() || key.standing != Standing::honoured) continue;
    if (key.group != group) {
      group = key.group;
      out += (out.empty() ? "" : "\n") + std::string("Keys: ") + group + "\n";
    }
    std::string head = "  " + key.name;
    head += head.size() + 2 > kIndent ? "\n" + std::string(kIndent, ' ') : std::string(kIndent - head.size(), ' ');
    const std::string fallback = key.fallback == "null" ? "" : " [" + key.fallback + "]";
    out += head + wrap(key.meaning + takes(key) + fallback, kIndent, static_cast<size_t>(std::max(width, 60))) + "\n";
  }
  return out;
}

std::string configuration_markdown() {
  std::string out =
      "# Configuration: every key\n\n"
      "This page is made from the program's own table of keys (`src/config/table_*.cpp`); a test compares the two.\n"
      "A configuration is a LLaMA-Factory YAML; `key=value` words on the command line override it, with dots for maps\n"
      "(`lr_scheduler_kwargs.min_lr_rate=0.1`). `llmtrain config --config F` checks a file and prints every key with its value and origin.\n\n"
      "A key that stands nowhere on this page is an error that names the nearest known key. Lists are comma lists or YAML lists.\n"
      "Aliases and anchors are not accepted. `no_cuda` and `evaluation_strategy` are read as `use_cpu` and `eval_strategy`.\n";
  std::string group;
  for (const Key& key : key_table()) {
    if (!key.alias_of.empty() || key.standing != Standing::honoured) continue;
    if (key.group != group) {
      group = key.group;
      out += "\n## Keys: " + group + "\n\n| key | default | takes | meaning |\n|---|---|---|---|\n";
    }
    const std::string fallback = key.fallback == "null" ? "" : "`" + key.fallback + "`";
    out += "| `" + key.name + "` | " + fallback + " | " + cell(describe_type(key)) + " | " + cell(sentence(key.meaning)) + " |\n";
  }
  out += "\n## Accepted without effect\n\nA run says once what it accepts without effect; values equal to the default are not mentioned.\n\n" +
         reasons(Standing::no_effect);
  out +=
      "\n## Refused by `train` in this version\n\nOnly values other than the default (mostly `false` or nothing) are refused. Beside these: `stage` "
      "other than `pt` and `sft`, and\n"
      "`finetuning_type` other than `full` and `freeze`.\n\n" +
      reasons(Standing::not_trainable);
  out += "\n## Refused\n\nOnly values other than the default are refused.\n\n" + reasons(Standing::refused);
  return out;
}

}  // namespace llmtrain
