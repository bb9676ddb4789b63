// The dumps that `llmtrain diagnose` reads: two copies of the input, or one of it and one of a sound dump of rank 0 of 2.
#include "comm/diagnosis.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {
namespace {

std::string dump(int rank, const std::string& collectives) {
  return json("{'rank':" + std::to_string(rank) + ",'size':2,'host':'node1','communicators':[{'communicator':'gather','collectives':[" + collectives + "]}]}");
}

}  // namespace

const Target& target() {
  static const Target t{{dump(1, "{'sequence':1,'operation':'all_gather','label':'layer 3','state':'done'},{'sequence':2,'operation':'all_gather','state':'running'}"),
                         dump(1, "{'sequence':1,'state':'done'}"), dump(0, "")},
                        json_words({"\"rank\"", "\"size\"", "\"host\"", "\"communicators\"", "\"communicator\"", "\"collectives\"", "\"sequence\"", "\"state\"", "\"running\"",
                                    "\"done\"", "\"operation\"", "\"label\"", "2147483646"})};
  return t;
}

void take(std::string_view input) {
  static const std::string sound = put("rank-0.json", dump(0, "{'sequence':2,'operation':'all_gather','label':'x','state':'running'}"));
  const std::string path = put("rank-1.json", input);
  diagnose(read_dumps({path})).text();
  diagnose(read_dumps({sound, path})).text();
}

}  // namespace llmtrain::fuzz
