// Links that a checkout without symbolic links turned into text files lead to what they mean; nothing else is followed.
#include "core/flattened_link.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/file.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

struct FlattenedLink : testing::Test {
  ScratchFolder scratch;
  void SetUp() override {
    make_directories(scratch / "store");
    make_directories(scratch / "model");
    std::ofstream(scratch / "store/tokenizer.json") << R"({"model": {}})";
  }
  std::string file(const std::string& content, const std::string& name = "model/tokenizer.json") {
    std::ofstream(scratch / name) << content;
    return scratch / name;
  }
};

TEST_F(FlattenedLink, IsFollowedWithAndWithoutANewline) {
  EXPECT_EQ(follow_flattened_link(file("../store/tokenizer.json")), scratch / "store/tokenizer.json");
  EXPECT_EQ(follow_flattened_link(file("../store/tokenizer.json\n")), scratch / "store/tokenizer.json");
}

TEST_F(FlattenedLink, NothingElseIsFollowed) {
  for (const std::string& content : {std::string("../store/other.json"), scratch / "store/tokenizer.json", std::string("../missing/tokenizer.json"),
                                     std::string("{}"), std::string(""), std::string("x\n../store/tokenizer.json"), std::string(5000, 'a')}) {
    const std::string path = file(content);
    EXPECT_EQ(follow_flattened_link(path), path) << content.substr(0, 60);
  }
  EXPECT_EQ(follow_flattened_link(scratch / "no such file"), scratch / "no such file");
}

TEST_F(FlattenedLink, ALoopEnds) {
  const std::string path = file("../model/tokenizer.json");
  EXPECT_EQ(follow_flattened_link(path), path);
}

}  // namespace
}  // namespace llmtrain
