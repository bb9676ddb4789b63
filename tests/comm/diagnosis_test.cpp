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

Json dump_of_job(const char* job, int rank, double time, const char* more = "") {
  return parse_json("{\"job\":\"" + std::string(job) + "\",\"rank\":" + std::to_string(rank) + ",\"size\":3,\"time\":" + std::to_string(time) + more + ",\"communicators\":[]}", "dump");
}

// A folder may hold dumps of an earlier start, and a person may name the dumps of two jobs: neither speaks for the other.
TEST(Diagnosis, JobsAreToldApartTheNewestFirst) {
  const std::vector<Json> dumps{dump_of_job("aa", 0, 100), dump_of_job("aa", 1, 101), dump_of_job("bb", 2, 200), dump_of_job("bb", 0, 201, ",\"error\":\"of b\"")};
  const std::vector<Diagnosis> all = diagnose_all(dumps);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].job, "bb");
  EXPECT_EQ(all[0].time, 201);
  EXPECT_EQ(all[0].guilty(), std::vector<int>{0});
  EXPECT_EQ(all[0].without_dump, std::vector<int>{1});
  EXPECT_EQ(all[1].job, "aa");
  EXPECT_EQ(all[1].error, "");
  EXPECT_EQ(all[1].guilty(), std::vector<int>{2});
  EXPECT_EQ(diagnose(dumps).job, "bb");
}

TEST(Diagnosis, OfARankThatWroteTwiceTheLaterDumpCounts) {
  const std::vector<Json> dumps{dump_of_job("aa", 0, 101, ",\"error\":\"later\""), dump_of_job("aa", 0, 100, ",\"error\":\"earlier\"")};
  EXPECT_EQ(diagnose(dumps).error, "later");
  EXPECT_THROW(diagnose({dump("1", "2", "[]"), dump("1", "2", "[{}]")}), InputError) << "without a job nobody knows which is which";
  EXPECT_NO_THROW(diagnose({dump("1", "2", "[]"), dump("1", "2", "[]")})) << "the same one named twice";
}

TEST(Diagnosis, OfManyRanksSomeAreNamedAndTheOthersCounted) {
  const std::string text = diagnose({dump("1", "1000", "[]")}).text();
  EXPECT_NE(text.find("no dump from rank 0, 2, 3"), std::string::npos) << text;
  EXPECT_NE(text.find(" and 967 more"), std::string::npos) << text;
  EXPECT_LT(text.size(), 1000u);
}

// Over NCCL nobody compares what the ranks ask for: they hang in collectives of one number that are not the same.
TEST(Diagnosis, RanksThatWaitForEachOtherInDifferentCollectivesAreTold) {
  const auto waiting = [](const char* rank, const std::string& operation, int bytes) {
    return dump(rank, "2", ("[{\"communicator\":\"gather\",\"collectives\":[{\"sequence\":7,\"state\":\"running\",\"operation\":\"" + operation +
                            "\",\"label\":\"layers.0\",\"bytes\":" + std::to_string(bytes) + "}]}]").c_str());
  };
  const Diagnosis other = diagnose({waiting("0", "all_gather", 64), waiting("1", "fence", 0)});
  EXPECT_EQ(other.differing, "rank 0 is in all_gather 'layers.0' of 64 bytes, rank 1 is in fence 'layers.0' of 0 bytes");
  EXPECT_NE(other.text().find("the ranks do different things there: rank 0 is in"), std::string::npos) << other.text();
  EXPECT_EQ(other.text().find("every rank has joined"), std::string::npos) << other.text();
  EXPECT_NE(diagnose({waiting("0", "all_gather", 64), waiting("1", "all_gather", 32)}).differing, "");
  EXPECT_EQ(diagnose({waiting("0", "all_gather", 64), waiting("1", "all_gather", 64)}).differing, "");
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
