// tokenizer.json; what loads must encode and decode.
#include "support/tokenizers.h"

namespace llmtrain::fuzz {
namespace {

std::string file(const std::string& parts, const std::string& model) {
  return json("{'version':'1.0'," + parts + ",'model':{'type':'BPE'," + model + "}}");
}
const char* const kBytes = "'vocab':{'a':0,'b':1,'ab':2,'\\u0120':3,'\\u0120a':4},'merges':['a b','\\u0120 a']";
const char* const kMarked = "'unk_token':'<unk>','fuse_unk':true,'byte_fallback':true,'vocab':{'<unk>':0,'<s>':1,'<0x41>':2,'\\u2581':3,'a':4,'\\u2581a':5,'b':6},"
                            "'merges':[['\\u2581','a']]";

}  // namespace

const Target& target() {
  static const Target t{
      {file("'added_tokens':[{'id':5,'content':'<s>','special':true,'normalized':false}],'normalizer':null,'pre_tokenizer':{'type':'ByteLevel',"
            "'add_prefix_space':false,'use_regex':true},'post_processor':null,'decoder':{'type':'ByteLevel'}", kBytes),
       file("'added_tokens':[{'id':5,'content':'<s>','special':false,'lstrip':true,'rstrip':true,'single_word':true,'normalized':true}],'normalizer':"
            "{'type':'NFC'},'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Digits','individual_digits':true},{'type':'ByteLevel',"
            "'add_prefix_space':true,'trim_offsets':true,'use_regex':false}]},'decoder':{'type':'ByteLevel'}", std::string("'ignore_merges':true,") + kBytes),
       file("'added_tokens':[],'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'\\u2581'},{'type':'Replace','pattern':{'String':' '},"
            "'content':'\\u2581'}]},'pre_tokenizer':null,'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'\\u2581'},'content':' '},"
            "{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':0}]}", kMarked),
       file("'truncation':null,'padding':null,'pre_tokenizer':{'type':'Metaspace','replacement':'\\u2581','prepend_scheme':'first','split':false},'decoder':"
            "{'type':'Metaspace','replacement':'\\u2581','prepend_scheme':'always','split':true}", kMarked),
       file("'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>','type_id':0}},{'Sequence':{'id':'A','type_id':0}}],'pair':[],"
            "'special_tokens':{'<s>':{'id':'<s>','ids':[1],'tokens':['<s>']}}},'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':"
            "{'Regex':'\\\\s+(?!\\\\S)|\\\\s+'},'behavior':'Isolated','invert':false},{'type':'ByteLevel','add_prefix_space':false,'use_regex':true}]}", kBytes)},
      json_words({"\"vocab\"", "\"merges\"", "\"model\"", "\"added_tokens\"", "\"normalizer\"", "\"pre_tokenizer\"", "\"decoder\"", "\"post_processor\"", "\"type\"",
                  "\"BPE\"", "\"Sequence\"", "\"ByteLevel\"", "\"Metaspace\"", "\"Split\"", "\"Digits\"", "\"NFKC\"", "\"NFD\"", "\"Replace\"", "\"Prepend\"", "\"Strip\"",
                  "\"ByteFallback\"", "\"Fuse\"", "\"pattern\"", "\"String\"", "\"Regex\"", "\"content\"", "\"behavior\"", "\"byte_fallback\"", "\"fuse_unk\"",
                  "\"ignore_merges\"", "\"unk_token\"", "\"prepend_scheme\"", "\"lstrip\"", "\"normalized\"", "\"special\"", "\\u2581", "<0x41>", "\"start\"", "\"stop\""})};
  return t;
}

void take(std::string_view input) {
  static const std::string folder = [] {
    make_directories(scratch() + "/tokenizer");
    return scratch() + "/tokenizer";
  }();
  put("tokenizer/tokenizer.json", input);
  use_tokenizer(Tokenizer::load(folder));
}

}  // namespace llmtrain::fuzz
