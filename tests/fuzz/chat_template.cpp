// Which template a folder's Jinja stands for.
#include "data/templates.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{{"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}",
                         "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}",
                         "[INST] <<SYS>>\n{{ system }}\n<</SYS>>\n\n{{ content }} [/INST]", "<|user|>\n{{ content }}<|end|>\n<|assistant|>\n",
                         "<start_of_turn>user\n<end_of_turn>", "<think>\n\n</think>\n\n"},
                        {"<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<<SYS>>", "<|user|>", "<|end|>", "<|assistant|>",
                         "<think>", "</think>", "<start_of_turn>", "tools", "<tool_call>", "USER:", "ASSISTANT:", "{{", "}}", "{%", "%}"}};
  return t;
}

void take(std::string_view input) {
  if (const Template* t = match_chat_template(input)) {
    remove_thoughts(*t, input);
    lacks_thoughts(*t, input);
  }
}

}  // namespace llmtrain::fuzz
