// StragglerDetector: which rank computes persistently slower than the others (a throttled processor, a neighbour on its cores, a bad memory module). ZeRO-3
// makes all ranks as slow as the slowest, and from outside they all look alike: only the time that a rank computes, without its waiting, tells.
//
// A step's ratio of a rank is its own seconds against the median of the others', taken twice: as they are, and per token. A rank is a straggler when the
// medians of both ratios over its last kWindow steps are kSlowRatio or more: rows of different lengths make the one large, costs that do not depend on
// tokens the other, and the median leaves out single slow steps, however slow (tests/train/straggler_test.cpp gives the figures).
// A pure function of what it is fed, the same on every rank. Thread rules: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace llmtrain {

// What a rank did in one optimizer step.
struct RankWork {
  double seconds = 0;  // of computing: without waiting for other ranks
  double tokens = 0;   // of its own rows
};

struct Straggler {
  int rank = 0;
  double factor = 1;  // the smaller of the two medians: how many times as long as the others
};

class StragglerDetector {
 public:
  static constexpr int kWindow = 16;
  static constexpr double kSlowRatio = 1.5;
  // Steps after the start that do not count: first touches of memory, kernels that are compiled.
  static constexpr int kWarmUpSteps = 3;

  explicit StragglerDetector(int ranks);
  // One step of all ranks. A rank that is a straggler now and was not before; one at a time, the slowest. A rank is reported again only after a whole window
  // in which it was not one.
  std::optional<Straggler> add(const std::vector<RankWork>& step);

 private:
  struct History {
    std::array<double, kWindow> seconds{}, per_token{};  // ratios
    int64_t count = 0;
    int quiet = kWindow;  // steps since it was a straggler last
  };
  std::vector<History> ranks_;
  int64_t steps_ = 0;
};

}  // namespace llmtrain
