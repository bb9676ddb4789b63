// The table of chat templates (templates.h). One entry per template; add one here and its golden lines in tests/data.
#include <algorithm>

#include "data/templates.h"

namespace llmtrain {
namespace {

constexpr const char* kChatmlUser = "<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n";
constexpr const char* kChatmlAssistant = "{{content}}<|im_end|>\n";
constexpr const char* kChatmlSystem = "<|im_start|>system\n{{content}}<|im_end|>\n";
constexpr const char* kChatmlTool = "<|im_start|>tool\n{{content}}<|im_end|>\n<|im_start|>assistant\n";
constexpr const char* kCuriousUser =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's "
    "questions.";

// Whatever a template leaves open: the text as it is, answers closed by EOS, function calls as answers, observations as user turns.
Template with_defaults(Template t) {
  if (t.user.empty()) t.user = {"{{content}}"};
  if (t.assistant.empty()) t.assistant = {"{{content}}", Slot::eos};
  if (t.system.empty()) t.system = {"{{content}}"};
  if (t.function.empty()) t.function = t.assistant;
  if (t.observation.empty()) t.observation = t.user;
  return t;
}

Template chatml(const char* name, bool replace_eos = false) {
  Template t;
  t.name = name;
  t.user = {kChatmlUser};
  t.assistant = {kChatmlAssistant};
  t.system = {kChatmlSystem};
  t.stop_words = {"<|im_end|>"};
  t.replace_eos = replace_eos;
  return t;
}

Template qwen(const char* name, TemplateKind kind = TemplateKind::plain) {
  Template t = chatml(name, true);
  t.kind = kind;
  t.observation = {"<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"};
  t.tool_format = t.tool_list_format = "qwen";
  return t;
}

Template llama2(const char* name) {
  Template t;
  t.name = name;
  t.kind = TemplateKind::system_in_user;
  t.user = {Slot::bos, "[INST] {{content}} [/INST]"};
  t.system = {"<<SYS>>\n{{content}}\n<</SYS>>\n\n"};
  return t;
}

Template llama3() {
  Template t;
  t.name = "llama3";
  t.user = {"<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"};
  t.assistant = {"{{content}}<|eot_id|>"};
  t.system = {"<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>"};
  t.observation = {"<|start_header_id|>ipython<|end_header_id|>\n\n{{content}}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"};
  t.prefix = {Slot::bos};
  t.tool_format = t.tool_list_format = "llama3";
  t.stop_words = {"<|eot_id|>", "<|eom_id|>"};
  t.replace_eos = true;
  return t;
}

// `gap` is the blank that the SentencePiece tokenizers of Mistral need and the later ones do not.
Template mistral(const char* name, const std::string& gap) {
  Template t;
  t.name = name;
  t.kind = TemplateKind::system_in_user;
  t.user = {"[INST]" + gap + "{{content}}[/INST]"};
  t.assistant = {gap + "{{content}}", Slot::eos};
  t.system = {"{{content}}\n\n"};
  t.function = {"[TOOL_CALLS]" + gap + "{{content}}", Slot::eos};
  t.observation = {"[TOOL_RESULTS]" + gap + "{\"content\": {{content}}}[/TOOL_RESULTS]"};
  t.prefix = {Slot::bos};
  t.tool_format = t.tool_list_format = "mistral";
  return t;
}

Template phi(const char* name) {
  Template t;
  t.name = name;
  t.user = {"<|user|>\n{{content}}<|end|>\n<|assistant|>\n"};
  t.assistant = {"{{content}}<|end|>\n"};
  t.system = {"<|system|>\n{{content}}<|end|>\n"};
  t.stop_words = {"<|end|>"};
  t.replace_eos = true;
  return t;
}

Template phi4() {
  Template t;
  t.name = "phi4";
  t.user = {"<|im_start|>user<|im_sep|>{{content}}<|im_end|><|im_start|>assistant<|im_sep|>"};
  t.assistant = {"{{content}}<|im_end|>"};
  t.system = {"<|im_start|>system<|im_sep|>{{content}}<|im_end|>"};
  t.stop_words = {"<|im_end|>"};
  t.replace_eos = true;
  return t;
}

Template phi4_mini() {
  Template t;
  t.name = "phi4_mini";
  t.user = {"<|user|>{{content}}<|end|><|assistant|>"};
  t.assistant = {"{{content}}<|end|>"};
  t.system = {"<|system|>{{content}}<|end|>"};
  t.tool_list_format = "phi4_mini";
  t.stop_words = {"<|end|>"};
  t.replace_eos = true;
  return t;
}

Template gemma() {
  Template t;
  t.name = "gemma";
  t.kind = TemplateKind::system_in_user;
  t.user = {"<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n"};
  t.assistant = {"{{content}}<end_of_turn>\n"};
  t.system = {"{{content}}\n\n"};
  t.observation = {"<start_of_turn>tool\n{{content}}<end_of_turn>\n<start_of_turn>model\n"};
  t.prefix = {Slot::bos};
  t.stop_words = {"<end_of_turn>"};
  t.replace_eos = true;
  return t;
}

Template deepseek(const char* name, TemplateKind kind) {
  Template t;
  t.name = name;
  t.kind = kind;
  t.user = {"<｜User｜>{{content}}<｜Assistant｜>"};
  t.prefix = {Slot::bos};
  return t;
}

// Templates that differ in words only: user, assistant ("" = text and EOS), system ("" = the text itself), default system.
Template words(const char* name, Slots user, Slots assistant, Slots system, std::string default_system, bool replace_chat_template) {
  Template t;
  t.name = name;
  t.user = std::move(user);
  t.assistant = std::move(assistant);
  t.system = std::move(system);
  t.default_system = std::move(default_system);
  t.replace_chat_template = replace_chat_template;
  return t;
}

std::vector<Template> general_templates() {
  std::vector<Template> all;
  all.push_back(words("alpaca", {"### Instruction:\n{{content}}\n\n### Response:\n"}, {"{{content}}", Slot::eos, "\n\n"}, {},
                      "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n", true));
  all.push_back(words("default", {"Human: {{content}}", Slot::eos, "\nAssistant:"}, {"{{content}}", Slot::eos, "\n"},
                      {"System: {{content}}", Slot::eos, "\n"}, "", true));
  all.push_back(words("empty", {}, {"{{content}}"}, {}, "", false));
  all.push_back(words("vicuna", {"USER: {{content}} ASSISTANT:"}, {}, {}, kCuriousUser, true));
  all.push_back(words("zephyr", {"<|user|>\n{{content}}", Slot::eos, "<|assistant|>\n"}, {}, {"<|system|>\n{{content}}", Slot::eos},
                      "You are Zephyr, a helpful assistant.", false));
  Template deepseek_v1 = words("deepseek", {"User: {{content}}\n\nAssistant:"}, {}, {"{{content}}\n\n"}, "", false);
  deepseek_v1.prefix = {Slot::bos};
  all.push_back(deepseek_v1);
  Template openchat = words("openchat", {"GPT4 Correct User: {{content}}", Slot::eos, "GPT4 Correct Assistant:"}, {}, {}, "", false);
  openchat.prefix = {Slot::bos};
  all.push_back(openchat);
  return all;
}

std::vector<Template> chatml_templates() {
  std::vector<Template> all;
  Template plain = chatml("chatml", true);
  plain.observation = {kChatmlTool};
  plain.stop_words = {"<|im_end|>", "<|im_start|>"};
  plain.replace_chat_template = true;
  all.push_back(plain);
  all.push_back(chatml("yi"));
  all.push_back(chatml("smollm"));
  Template smollm2 = chatml("smollm2");
  smollm2.default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face.";
  all.push_back(smollm2);
  Template q = qwen("qwen");
  q.default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
  all.push_back(q);
  all.push_back(qwen("qwen3", TemplateKind::reasoning));
  all.push_back(qwen("qwen3_nothink"));
  return all;
}

}  // namespace

const std::vector<Template>& known_templates() {
  static const std::vector<Template> table = [] {
    std::vector<Template> all = general_templates();
    for (Template& t : chatml_templates()) all.push_back(std::move(t));
    Template chinese = llama2("llama2_zh");
    chinese.default_system = "You are a helpful assistant. 你是一个乐于助人的助手。";
    for (Template t : {llama2("llama2"), chinese, llama3(), mistral("mistral", " "), mistral("ministral", ""), phi("phi"), phi("phi_small"), phi4(),
                       phi4_mini(), gemma(), deepseek("deepseek3", TemplateKind::plain), deepseek("deepseekr1", TemplateKind::reasoning)}) {
      all.push_back(std::move(t));
    }
    for (Template& t : all) t = with_defaults(std::move(t));
    std::sort(all.begin(), all.end(), [](const Template& a, const Template& b) { return a.name < b.name; });
    return all;
  }();
  return table;
}

}  // namespace llmtrain
