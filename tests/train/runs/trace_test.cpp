// The trace of a run: what every rank did when.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "core/file.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

using namespace testing_support;

struct Interval {
  double begin, end;
};

TEST(OwnRun, TraceHoldsComputingGathersReductionsAndWaitsOfEveryRank) {
  const OwnModel model;
  const int ranks = 2, steps = 3;
  for (const char* overlap : {"on", "off"}) {
    const std::string name = std::string("traced-") + overlap;
    const RunOutcome run = model.train(name, ranks, {"max_steps=3", "logging_steps=1", "save_strategy=no", std::string("overlap=") + overlap, "--trace", name + ".json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.err.find("trace: " + name + ".json"), std::string::npos) << run.err;
    const Json events = parse_json_file(model.output(name + ".json"));
    ASSERT_TRUE(events.is_array());
    std::map<std::tuple<int, int>, std::vector<Interval>> tracks;  // (rank, track)
    std::map<std::tuple<int, std::string>, std::set<int64_t>> steps_of;
    std::set<std::string> units, names;
    std::map<std::tuple<int, int64_t>, double> waited;
    std::map<std::tuple<int, int64_t>, Interval> extent;
    for (const Json& event : events) {
      if (event.at("ph") == "M") continue;
      ASSERT_EQ(event.at("ph"), "X");
      const int rank = event.at("pid").get<int>();
      const double begin = event.at("ts").get<double>(), length = event.at("dur").get<double>();
      const int64_t step = event.at("args").at("step").get<int64_t>();
      EXPECT_GE(begin, 0);
      EXPECT_GE(length, 0);
      tracks[{rank, event.at("tid").get<int>()}].push_back({begin, begin + length});
      const std::string category = event.at("cat").get<std::string>();
      steps_of[{rank, category}].insert(step);
      if (category == "wait") waited[{rank, step}] += length;
      if (category == "compute") {
        names.insert(event.at("name").get<std::string>());
        if (event.at("args").contains("unit")) units.insert(event.at("args").at("unit").get<std::string>());
      } else if (category != "wait") {
        EXPECT_GT(event.at("args").at("bytes").get<int64_t>(), 0);
      }
      auto [whole, fresh] = extent.try_emplace({rank, step}, Interval{begin, begin + length});
      if (!fresh) whole->second = {std::min(whole->second.begin, begin), std::max(whole->second.end, begin + length)};
    }
    for (int rank = 0; rank < ranks; ++rank) {
      for (const char* category : {"compute", "gather", "reduce", "wait"}) {
        const std::set<int64_t>& seen = steps_of[{rank, category}];
        for (int64_t step = 1; step <= steps; ++step) EXPECT_TRUE(seen.count(step)) << name << ": no " << category << " of rank " << rank << " in step " << step;
      }
    }
    for (auto& [track, intervals] : tracks) {
      std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
      // Times are written in nanoseconds, begin and length rounded each. A GPU's events resolve half a microsecond, and CUDA gives their distance from
      // the origin as a float: 2^-24 of it may be missing, at both ends.
      for (size_t i = 1; i < intervals.size(); ++i)
        EXPECT_GE(intervals[i].begin, intervals[i - 1].end - (on_gpu() ? 1.0 + intervals[i].begin * 0x1p-23 : 0.002)) << name << ", rank " << std::get<0>(track) << ", track " << std::get<1>(track);
    }
    for (const auto& [key, whole] : extent) EXPECT_LE(waited[key], whole.end - whole.begin + 0.01 * steps) << "exposed communication is part of a step";
    EXPECT_TRUE(names.count("adamw") && names.count("attention_backward") && names.count("cross_entropy"));
    EXPECT_GE(units.size(), 3u) << "operations are told apart by unit";
  }
}

TEST(OwnRun, TraceThatCannotBeWrittenIsRefusedBeforeTheFirstStep) {
  const OwnModel model;
  const RunOutcome run = model.train("untraced", 2, {"max_steps=2", "save_strategy=no", "--trace", "no/such/folder/trace.json"});
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_NE(run.err.find("no/such/folder/trace.json"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace llmtrain
