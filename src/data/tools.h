// Tool lists and function calls as LLaMA-Factory writes them into prompts and answers: the formats default, llama3, mistral, qwen and phi4_mini
// (a list only). JSON is re-written the way Python's json.dumps does, because the tokens depend on every blank and digit.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace llmtrain {

// A row that cannot be used: it is dropped and counted, and the first of each kind is named in the report.
class RowError : public std::runtime_error {
 public:
  explicit RowError(const std::string& reason) : std::runtime_error(reason) {}
};

bool is_tool_format(std::string_view format);  // of function calls: default, llama3, mistral, qwen

// The text that stands for the tools in the system slot. `tools` is JSON text: a list of tools, each {"name", "description", "parameters"} or
// {"type": "function", "function": {…}}. An empty list gives "". RowError where the text is not such a list.
std::string tool_list_text(const std::string& format, const std::string& tools, const std::string& date);

// The answer text of function calls. `content` is JSON text: {"name", "arguments"} or a list of them; thoughts (`thought_begin` … `thought_end`)
// or text around <tool_call> … </tool_call> are kept in front where `keep_thoughts`. RowError where it is no such JSON.
std::string function_call_text(const std::string& format, const std::string& content, const std::string& thought_begin,
                               const std::string& thought_end, bool keep_thoughts);

// JSON text re-written as Python's json.dumps(json.loads(text), ensure_ascii=False) would: blanks after "," and ":", floats as repr. RowError
// for broken JSON.
std::string python_json(std::string_view text);

// "20 Nov 2026" for today, local time.
std::string today();

}  // namespace llmtrain
