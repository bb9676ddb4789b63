// Choosing a template, rendering messages with it, and what the exported tokenizer gets from it (templates.h).
#include "data/templates.h"

#include <algorithm>

#include "core/error.h"
#include "data/tokenizer.h"
#include "data/tools.h"

namespace llmtrain {
namespace {

// Levenshtein distance, for "did you mean".
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string template_list() {
  std::string list;
  for (const Template& t : known_templates()) list += (list.empty() ? "" : ", ") + t.name;
  return list;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

void replace_first(std::string& text, std::string_view what, std::string_view by) {
  const size_t at = text.find(what);
  if (at != std::string::npos) text.replace(at, what.size(), by);
}

std::string_view stripped(std::string_view s) {  // of the blanks and newlines that thought words end in
  const size_t first = s.find_first_not_of(" \t\r\n\f\v");
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(" \t\r\n\f\v") - first + 1);
}

// Appends the slots with the message in its place. A text user turn of the plain kinds also gets its number where "{{idx}}" stands, as
// LLaMA-Factory substitutes it (in the message's own text too).
void fill(const Slots& slots, std::string_view content, const std::string* index, const SpecialTokens& tokens, std::vector<Element>& out) {
  for (const Slot& slot : slots) {
    if (slot.kind == Slot::bos) {
      if (tokens.bos_id >= 0) out.push_back({"", tokens.bos_id});
    } else if (slot.kind == Slot::eos) {
      if (tokens.eos_id >= 0) out.push_back({"", tokens.eos_id});
    } else {
      std::string text = slot.content;
      replace_first(text, "{{content}}", content);
      if (index) replace_first(text, "{{idx}}", *index);
      if (!text.empty()) out.push_back({std::move(text), -1});
    }
  }
}

int32_t required_token(const Tokenizer& tokenizer, const Template& tmpl, const std::string& token) {
  const int32_t id = tokenizer.id_of(token);
  if (id < 0) {
    throw InputError("template", "\"" + tmpl.name + "\" ends answers with " + token + ", which is not in the vocabulary of " + tokenizer.folder(),
                     "Choose a template made for this tokenizer. Known: " + template_list() + ".");
  }
  return id;
}

std::string jinja_string(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\\' || c == '\'') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "'";
}

// "'<user>' + content + '</user>'" for the slots of a role.
std::string jinja_slots(const Slots& slots, const SpecialTokens& tokens, const std::string& placeholder) {
  std::string out;
  const auto add = [&](const std::string& piece) { out += (out.empty() ? "" : " + ") + piece; };
  for (const Slot& slot : slots) {
    if (slot.kind == Slot::bos) {
      if (tokens.bos_id >= 0) add(jinja_string(tokens.bos));
    } else if (slot.kind == Slot::eos) {
      if (tokens.eos_id >= 0) add(jinja_string(tokens.eos));
    } else {
      const size_t at = slot.content.find("{{content}}");
      const std::string before = slot.content.substr(0, at);
      if (!before.empty()) add(jinja_string(before));
      if (at == std::string::npos) continue;
      add(placeholder);
      const std::string after = slot.content.substr(at + 11);
      if (!after.empty()) add(jinja_string(after));
    }
  }
  return out.empty() ? "''" : out;
}

}  // namespace

const Template& find_template(const std::string& name) {
  const Template* nearest = nullptr;
  size_t best = 1000;
  for (const Template& t : known_templates()) {
    if (t.name == name) return t;
    const size_t distance = edit_distance(name, t.name);
    if (distance < best) {
      best = distance;
      nearest = &t;
    }
  }
  const bool near = best <= 1 + name.size() / 3;
  throw InputError("template", "unknown template \"" + name + "\"" + (near ? "; did you mean " + nearest->name + "?" : ""),
                   "Known: " + template_list() + ".");
}

const Template* match_chat_template(std::string_view j) {
  const auto is = [](const char* name) { return &find_template(name); };
  if (contains(j, "<|start_header_id|>") && contains(j, "<|eot_id|>")) return is("llama3");
  if (contains(j, "<|im_start|>")) {
    if (contains(j, "<|im_sep|>")) return is("phi4");
    if (contains(j, "<tool_call>") && (contains(j, "<think>") || contains(j, "enable_thinking"))) return is("qwen3");
    if (contains(j, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")) return is("qwen");
    if (contains(j, "You are ")) return nullptr;  // a default system text that no known template has
    return contains(j, "<tool_call>") ? is("qwen3_nothink") : is("chatml");
  }
  if (contains(j, "<｜User｜>")) return contains(j, "<think>") || contains(j, "</think>") ? is("deepseekr1") : is("deepseek3");
  if (contains(j, "<start_of_turn>")) return is("gemma");
  if (contains(j, "[INST]")) {
    if (contains(j, "<<SYS>>")) return is("llama2");
    if (contains(j, " [/INST]") || contains(j, "[SYSTEM_PROMPT]")) return nullptr;  // the first and the newest Mistral formats
    return contains(j, "[INST] ") ? is("mistral") : is("ministral");
  }
  if (contains(j, "<|end|>")) {  // Phi-3 breaks lines after its headers, Phi-4-mini does not
    const bool breaks = contains(j, "|>\\n") || contains(j, "|>\n") || contains(j, "|>' + '\\n'");
    return breaks ? is("phi") : contains(j, "\\n") ? nullptr : is("phi4_mini");
  }
  if (contains(j, "GPT4 Correct User")) return is("openchat");
  if (contains(j, "USER: ") && contains(j, "ASSISTANT:")) return is("vicuna");
  if (contains(j, "### Instruction:") && contains(j, "### Response:")) return is("alpaca");
  return nullptr;
}

TemplateChoice choose_template(const std::string& name, const Tokenizer& tokenizer, bool pretraining,
                               const std::optional<std::string>& default_system, const std::string& tool_format) {
  TemplateChoice choice;
  if (!name.empty()) {
    choice.tmpl = find_template(name);
  } else if (pretraining) {
    choice.tmpl = find_template("empty");  // only the EOS token matters, and it stays the tokenizer's own
  } else if (const Template* matched = match_chat_template(tokenizer.chat_template())) {
    choice.tmpl = *matched;
    choice.note = "template: left out; the chat template of " + tokenizer.folder() + " matches \"" + matched->name + "\"";
  } else {
    throw InputError("template",
                     tokenizer.chat_template().empty() ? "left out, and " + tokenizer.folder() + " has no chat template"
                                                       : "left out, and the chat template of " + tokenizer.folder() + " matches none known here",
                     "Name one: " + template_list() + ".");
  }
  if (default_system) choice.tmpl.default_system = *default_system;
  if (!tool_format.empty()) {
    if (!is_tool_format(tool_format)) {
      throw InputError("tool_format", "unknown tool format \"" + tool_format + "\"", "Known: default, llama3, mistral, qwen.");
    }
    choice.tmpl.function = {"{{content}}", Slot::eos};
    choice.tmpl.tool_format = choice.tmpl.tool_list_format = tool_format;
  }
  return choice;
}

SpecialTokens special_tokens(const Template& tmpl, const Tokenizer& tokenizer) {
  SpecialTokens s;
  s.bos = tokenizer.bos_token();
  s.bos_id = tokenizer.bos_id();
  s.eos = tokenizer.eos_token();
  s.eos_id = tokenizer.eos_id();
  size_t first_more = 0;
  if (tmpl.replace_eos) {
    s.eos = tmpl.stop_words.at(0);
    s.eos_id = required_token(tokenizer, tmpl, s.eos);
    first_more = 1;
  }
  if (s.eos_id < 0) {
    s.eos = "<|endoftext|>";
    s.eos_id = tokenizer.id_of(s.eos);
    if (s.eos_id < 0) {
      throw InputError(tokenizer.folder(), "the tokenizer has no EOS token", "Add \"eos_token\" to tokenizer_config.json.");
    }
  }
  s.pad = tokenizer.pad_token();
  s.pad_id = tokenizer.pad_id();
  if (s.pad_id < 0) {
    s.pad = s.eos;
    s.pad_id = s.eos_id;
  }
  s.stop_ids.push_back(s.eos_id);
  for (size_t i = first_more; i < tmpl.stop_words.size(); ++i) {
    const int32_t id = tokenizer.id_of(tmpl.stop_words[i]);
    if (id >= 0) s.stop_ids.push_back(id);
  }
  return s;
}

Tokenizer tokenizer_for(const Template& tmpl, const Tokenizer& tokenizer) {
  std::vector<std::string> registered = tmpl.stop_words;
  if (tmpl.replace_eos && tmpl.stop_words.at(0) == tokenizer.eos_token()) registered.erase(registered.begin());  // it stays as it is
  return tokenizer.with_special_tokens(registered);
}

std::string exported_chat_template(const Template& tmpl, const SpecialTokens& tokens, const Tokenizer& tokenizer) {
  if (!tokenizer.chat_template().empty() && !tmpl.replace_chat_template) return tokenizer.chat_template();
  const std::string system = jinja_slots(tmpl.system, tokens, "system_message");
  std::string j;
  if (!tmpl.prefix.empty()) j += "{{ " + jinja_slots(tmpl.prefix, tokens, "content") + " }}";
  if (!tmpl.default_system.empty()) j += "{% set system_message = " + jinja_string(tmpl.default_system) + " %}";
  j += "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
       "{% else %}{% set loop_messages = messages %}{% endif %}";
  const bool fused = tmpl.kind == TemplateKind::system_in_user;
  if (!fused) j += "{% if system_message is defined %}{{ " + system + " }}{% endif %}";
  j += "{% for message in loop_messages %}";
  if (fused) {
    j += "{% if loop.index0 == 0 and system_message is defined %}{% set content = " + system + " + message['content'] %}"
         "{% else %}{% set content = message['content'] %}{% endif %}";
  } else {
    j += "{% set content = message['content'] %}";
  }
  j += "{% if message['role'] == 'user' %}{{ " + jinja_slots(tmpl.user, tokens, "content") + " }}";
  j += "{% elif message['role'] == 'assistant' %}{{ " + jinja_slots(tmpl.assistant, tokens, "content") + " }}{% endif %}{% endfor %}";
  return j;
}

std::string remove_thoughts(const Template& tmpl, std::string_view content) {
  std::string out;
  size_t at = 0;
  while (true) {
    const size_t begin = content.find(tmpl.thought_begin, at);
    if (begin == std::string_view::npos) break;
    const size_t end = content.find(tmpl.thought_end, begin + tmpl.thought_begin.size());
    if (end == std::string_view::npos) break;
    out.append(content, at, begin - at);
    at = end + tmpl.thought_end.size();
  }
  out.append(content, at, std::string_view::npos);
  out.erase(0, std::min(out.find_first_not_of('\n'), out.size()));
  return out;
}

bool lacks_thoughts(const Template& tmpl, std::string_view content) {
  return !contains(content, stripped(tmpl.thought_begin)) && !contains(content, stripped(tmpl.thought_end));
}

std::vector<std::vector<Element>> render_messages(const Template& tmpl, const SpecialTokens& tokens, const std::vector<Message>& messages,
                                                  const std::string& system, const std::string& tools, const std::string& date) {
  const bool fused = tmpl.kind == TemplateKind::system_in_user;
  const std::string& system_text = system.empty() ? tmpl.default_system : system;
  std::vector<std::vector<Element>> rendered(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    std::vector<Element>& out = rendered[i];
    std::string content = message.content;
    if (i == 0) {
      fill(tmpl.prefix, "", nullptr, tokens, out);
      if (!system_text.empty() || !tools.empty()) {
        const std::string text = system_text + (tools.empty() ? "" : tool_list_text(tmpl.tool_list_format, tools, date));
        if (!fused) {
          fill(tmpl.system, text, nullptr, tokens, out);
        } else if (message.role == Role::user) {
          std::string slot = tmpl.system.at(0).content;
          replace_first(slot, "{{content}}", text);
          content = slot + content;
        }
      }
    }
    const std::string index = std::to_string(i / 2);
    switch (message.role) {
      case Role::user: fill(tmpl.user, content, fused ? nullptr : &index, tokens, out); break;
      case Role::assistant: fill(tmpl.assistant, content, nullptr, tokens, out); break;
      case Role::observation: fill(tmpl.observation, content, nullptr, tokens, out); break;
      case Role::function:
        content = function_call_text(tmpl.tool_format, content, tmpl.thought_begin, tmpl.thought_end, !fused);
        fill(tmpl.function, content, nullptr, tokens, out);
        break;
      case Role::system: throw RowError("a system message stands where a turn is expected");
    }
  }
  return rendered;
}

}  // namespace llmtrain
