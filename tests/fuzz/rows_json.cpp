// Rows of a .json or .jsonl file.
#include "support/rows.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{
      {json("[{'instruction':'i','input':'','output':'o','history':[['q','r']]},{'instruction':'\\u00e4\\n','output':''}]"),
       json("{'conversations':[{'from':'system','value':'s'},{'from':'human','value':'q'},{'from':'gpt','value':'r'}],'tools':'[]'}\n"
            "{'conversations':[],'chosen':{'from':'gpt','value':'c'},'rejected':{'from':'gpt','value':'d'}}\n{'kto_tag':true,'images':[]}\n{}\n{}\n"),
       json("{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':null,'tool_calls':[{'type':'function','function':{'name':'f',"
            "'arguments':{'x':1.5e300}}}]},{'role':'tool','content':'42'},{'role':'assistant','content':'done'}],'tools':[{'name':'f'}]}"),
       "\xEF\xBB\xBF[]", "[{}, {}, {}, {}, {}]", "{\"a\":{\"a\":1,\"a\":2}}"},
      json_words({"\"instruction\"", "\"input\"", "\"output\"", "\"history\"", "\"conversations\"", "\"from\"", "\"value\"", "\"human\"", "\"gpt\"", "\"messages\"",
                  "\"role\"", "\"content\"", "\"user\"", "\"assistant\"", "\"tool\"", "\"tool_calls\"", "\"function\"", "\"arguments\"", "\"tools\"", "\"chosen\"",
                  "\"rejected\"", "\"system\"", "\"kto_tag\"", "\"images\"", "\"observation\"", "\"function_call\"", "},{", "}\n{", "\xEF\xBB\xBF"})};
  return t;
}

void take(std::string_view input) { read_rows("rows.jsonl", input); }

}  // namespace llmtrain::fuzz
