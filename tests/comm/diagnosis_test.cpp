// Dumps that are damaged, or no dumps at all, given to `llmtrain diagnose`.
#include <gtest/gtest.h>

#include "comm/diagnosis.h"
#include "core/error.h"

namespace llmtrain {
namespace {

Json dump(const char* rank, const char* size, const char* communicators) {
  return parse_json(std::string("{\"rank\":") + rank + ",\"size\":" + size + ",\"communicators\":" + communicators + "}", "dump");
}

TEST(Diagnosis, ARankOrSizeThatMakesNoSenseIsRefused) {
  for (const char* size : {"0", "-1", "2147483648", "1e300", "\"2\"", "null", "18446744073709551615"}) {
    EXPECT_THROW(diagnose({dump("1", size, "[]")}), InputError) << size;
  }
  for (const char* rank : {"2", "-1", "1e300", "\"0\"", "null", "18446744073709551615"}) EXPECT_THROW(diagnose({dump(rank, "2", "[]")}), InputError) << rank;
  EXPECT_THROW(diagnose({dump("0", "2", "[]"), dump("1", "3", "[]")}), InputError);
  EXPECT_THROW(diagnose({}), InputError);
}

TEST(Diagnosis, MembersOfOtherTypesAreReadAsMissing) {
  for (const char* c : {"1", "null", "[1]", "[[]]", "[{\"collectives\":3}]", "[{\"collectives\":[3,null,{}]}]",
                        "[{\"communicator\":7,\"collectives\":[{\"sequence\":1e300,\"state\":\"running\"}]}]"}) {
    const Diagnosis d = diagnose({dump("1", "2", c)});
    EXPECT_EQ(d.without_dump, std::vector<int>{0}) << c;
    EXPECT_FALSE(d.text().empty());
  }
}

}  // namespace
}  // namespace llmtrain
