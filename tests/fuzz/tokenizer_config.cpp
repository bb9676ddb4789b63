// tokenizer_config.json and special_tokens_map.json beside a sound tokenizer.json; the template found by chat_template.
#include "data/templates.h"
#include "support/tokenizers.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{
      {json("0{'bos_token':'<s>','eos_token':{'content':'<|im_end|>','lstrip':false,'normalized':false,'rstrip':true,'single_word':false},'pad_token':null,"
            "'unk_token':'<unk>','add_bos_token':true,'tokenizer_class':'PreTrainedTokenizerFast','added_tokens_decoder':{'299':{'content':'<|end|>','special':true}},"
            "'additional_special_tokens':['<x>',{'content':'<y>'}],'model_max_length':1000000000000000019884624838656}"),
       json("0{'chat_template':'{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}','eos_token':'<|im_end|>'}"),
       json("0{'chat_template':[{'name':'default','template':'<|start_header_id|>'},{'name':'tool_use','template':'x'}]}"),
       json("1{'bos_token':'<|begin|>','eos_token':{'content':'<|im_end|>'},'pad_token':'<|endoftext|>'}")},
      json_words({"\"bos_token\"", "\"eos_token\"", "\"pad_token\"", "\"unk_token\"", "\"content\"", "\"added_tokens_decoder\"", "\"additional_special_tokens\"",
                  "\"extra_special_tokens\"", "\"chat_template\"", "\"name\"", "\"template\"", "\"default\"", "\"special\"", "\"lstrip\"", "\"add_bos_token\"",
                  "\"tokenizer_class\"", "<|im_start|>", "<|start_header_id|>", "[INST]", "\"2147483647\""})};
  return t;
}

void take(std::string_view input) {
  static const std::string folder = byte_tokenizer_folder("tokenizer");
  if (input.empty()) return;
  const bool map = input[0] == '1';
  remove(map ? "tokenizer/tokenizer_config.json" : "tokenizer/special_tokens_map.json");
  put(map ? "tokenizer/special_tokens_map.json" : "tokenizer/tokenizer_config.json", input.substr(1));
  const Tokenizer tokenizer = Tokenizer::load(folder);
  use_tokenizer(tokenizer);
  const TemplateChoice choice = choose_template("", tokenizer, false, std::nullopt, "");
  const SpecialTokens tokens = special_tokens(choice.tmpl, tokenizer);
  exported_chat_template(choice.tmpl, tokens, tokenizer);
  use_tokenizer(tokenizer_for(choice.tmpl, tokenizer));
}

}  // namespace llmtrain::fuzz
