#include "train/straggler.h"

#include <algorithm>

namespace llmtrain {
namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

// Of `rank` against the median of the others; 1 where there is nothing to compare.
double ratio(const std::vector<double>& values, size_t rank) {
  std::vector<double> others;
  for (size_t r = 0; r < values.size(); ++r) {
    if (r != rank) others.push_back(values[r]);
  }
  const double usual = median(std::move(others));
  return usual > 0 ? values[rank] / usual : 1;
}

}  // namespace

StragglerDetector::StragglerDetector(int ranks) : ranks_(static_cast<size_t>(ranks)) {}

std::optional<Straggler> StragglerDetector::add(const std::vector<RankWork>& step) {
  if (ranks_.size() < 2 || step.size() != ranks_.size() || ++steps_ <= kWarmUpSteps) return std::nullopt;
  std::vector<double> seconds, per_token;
  for (const RankWork& work : step) {
    seconds.push_back(work.seconds);
    per_token.push_back(work.seconds / std::max(1.0, work.tokens));
  }
  std::optional<Straggler> found;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    History& h = ranks_[r];
    const auto place = static_cast<size_t>(h.count++ % kWindow);
    h.seconds[place] = ratio(seconds, r);
    h.per_token[place] = ratio(per_token, r);
    ++h.quiet;
    if (h.count < kWindow) continue;
    const double factor = std::min(median({h.seconds.begin(), h.seconds.end()}), median({h.per_token.begin(), h.per_token.end()}));
    if (factor < kSlowRatio) continue;
    const bool is_new = h.quiet > kWindow;
    h.quiet = 0;
    if (is_new && (!found || factor > found->factor)) found = Straggler{static_cast<int>(r), factor};
  }
  return found;
}

}  // namespace llmtrain
