// Chat templates: how the messages of a row become pieces of text, each of which is encoded on its own.
//
// A template is a row of a table (template_table.cpp): a list of slots for each role. A slot is text with at most one "{{content}}", or a
// special token of the tokenizer. The definitions are those of LLaMA-Factory 0.9.6 (src/llamafactory/data/template.py), restated as data.
// All functions are pure; a Template is immutable and may be used from many threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llmtrain {

class Tokenizer;

enum class Role : uint8_t { user, assistant, system, function, observation };

struct Message {
  Role role = Role::user;
  std::string content;
};

// One piece of a template. `text` holds "{{content}}" where the message goes.
struct Slot {
  enum Kind : uint8_t { text, bos, eos } kind = text;
  std::string content;
  Slot(const char* t) : content(t) {}  // NOLINT: written as plain strings in the table
  Slot(std::string t) : content(std::move(t)) {}
  Slot(Kind k) : kind(k) {}
};
using Slots = std::vector<Slot>;

enum class TemplateKind : uint8_t {
  plain,           // the system text is a slot of its own
  system_in_user,  // the system text is part of the first user slot (Llama 2, Mistral, Gemma)
  reasoning,       // plain, and an answer without thoughts gets an empty one
};

struct Template {
  std::string name;
  TemplateKind kind = TemplateKind::plain;
  Slots user, assistant, system, function, observation, prefix;
  std::string tool_format = "default";       // how function calls are written (tools.h)
  std::string tool_list_format = "default";  // how the list of tools is written
  std::string default_system;
  std::vector<std::string> stop_words;
  std::string thought_begin = "<think>\n", thought_end = "\n</think>\n\n";
  bool replace_eos = false;                  // the first stop word becomes the tokenizer's EOS
  bool replace_chat_template = false;        // export: write this template's Jinja even where the folder has a chat template
};

// All known templates, sorted by name.
const std::vector<Template>& known_templates();
// InputError that lists the known names and suggests the nearest, for an unknown one.
const Template& find_template(const std::string& name);

// The template that a folder's own chat template (Jinja) matches, by the markers that it writes; nullptr when it matches none.
const Template* match_chat_template(std::string_view jinja);

// The template of a run: by name, or matched where the name is left out (InputError with the list where that fails; for pt, where a template
// means little, "empty"). `default_system` and `tool_format` replace the template's own.
struct TemplateChoice {
  Template tmpl;
  std::string note;  // what to tell the person, "" if nothing
};
TemplateChoice choose_template(const std::string& name, const Tokenizer& tokenizer, bool pretraining,
                               const std::optional<std::string>& default_system, const std::string& tool_format);

// The special tokens that rows are made with, and that the exported tokenizer gets: the first stop word replaces the EOS where the template says
// so, a missing pad becomes the EOS. InputError where a token that the template needs is not in the vocabulary.
struct SpecialTokens {
  std::string bos, eos, pad;                       // "" where there is none
  int32_t bos_id = -1, eos_id = -1, pad_id = -1;
  std::vector<int32_t> stop_ids;                   // EOS first, then the further stop words that the vocabulary has
};
SpecialTokens special_tokens(const Template& tmpl, const Tokenizer& tokenizer);

// The tokenizer as the template uses it: its stop words are special tokens that take no white space with them, whatever tokenizer.json says (Phi-3's
// <|end|> swallows the newline after it, until the template makes it the EOS). Encode with this one whatever the template renders.
Tokenizer tokenizer_for(const Template& tmpl, const Tokenizer& tokenizer);

// The Jinja chat template that an exported tokenizer gets: the folder's own, unless it has none or the template asks to replace it.
std::string exported_chat_template(const Template& tmpl, const SpecialTokens& tokens, const Tokenizer& tokenizer);

// Text without thoughts (every "<think>\n…\n</think>\n\n"), then without leading newlines.
std::string remove_thoughts(const Template& tmpl, std::string_view content);
// Whether neither thought word occurs in the text.
bool lacks_thoughts(const Template& tmpl, std::string_view content);

// An element to encode: a text, or a token by itself.
struct Element {
  std::string text;      // used when token < 0
  int32_t token = -1;
};

// The elements of each message: the prefix, system and tools stand in front of the first. `tools` is the JSON text of the tool list or "".
// `date` is "20 Nov 2026". Throws RowError (tools.h) when a tool list or function call is not what its format demands.
std::vector<std::vector<Element>> render_messages(const Template& tmpl, const SpecialTokens& tokens, const std::vector<Message>& messages,
                                                  const std::string& system, const std::string& tools, const std::string& date);

}  // namespace llmtrain
