// Units, flat arrays and shards (shard_layout.h).
#include "zero/shard_layout.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace llmtrain {

ShardLayout::ShardLayout(std::vector<UnitSpec> units, int world) : units_(std::move(units)), world_(world) {
  LLMTRAIN_ASSERT(world > 0, "a layout needs at least one rank");
  for (size_t u = 0; u < units_.size(); ++u) {
    int64_t trained = 0, frozen = 0;
    std::vector<ParameterPlace> places;
    for (size_t p = 0; p < units_[u].parameters.size(); ++p) {
      const ParameterSpec& spec = units_[u].parameters[p];
      int64_t& end = spec.trained ? trained : frozen;
      places.push_back({static_cast<int>(u), static_cast<int>(p), spec.trained, end});
      const int64_t n = spec.shape.elements();
      LLMTRAIN_ASSERT(n > 0 && n < std::numeric_limits<int64_t>::max() / 16 - end, "shape of " + spec.name + ": " + spec.shape.text());
      end += n;
    }
    places_.push_back(std::move(places));
    trained_.push_back(trained);
    frozen_.push_back(frozen);
  }
}

int64_t ShardLayout::elements(int unit, bool trained) const { return (trained ? trained_ : frozen_).at(static_cast<size_t>(unit)); }

int64_t ShardLayout::shard_elements(int unit, bool trained) const {
  const int64_t each = (elements(unit, trained) + world_ - 1) / world_;
  return (each + kShardAlign - 1) / kShardAlign * kShardAlign;
}

const ParameterPlace& ShardLayout::place(int unit, int parameter) const {
  return places_.at(static_cast<size_t>(unit)).at(static_cast<size_t>(parameter));
}

std::vector<OwnedRange> ShardLayout::owned(int unit, bool trained, int rank) const {
  LLMTRAIN_ASSERT(rank >= 0 && rank < world_, "rank " + std::to_string(rank) + " of " + std::to_string(world_));
  const int64_t shard = shard_elements(unit, trained), begin = rank * shard, end = begin + shard;
  std::vector<OwnedRange> ranges;
  for (const ParameterPlace& place : places_.at(static_cast<size_t>(unit))) {
    if (place.trained != trained) continue;
    const int64_t n = units_[static_cast<size_t>(unit)].parameters[static_cast<size_t>(place.parameter)].shape.elements();
    const int64_t from = std::max(begin, place.offset), to = std::min(end, place.offset + n);
    if (from < to) ranges.push_back({unit, place.parameter, from - place.offset, from - begin, to - from});
  }
  return ranges;
}

int64_t ShardLayout::parameters_total() const {
  int64_t n = 0;
  for (size_t u = 0; u < units_.size(); ++u) n += trained_[u] + frozen_[u];
  return n;
}

int64_t ShardLayout::parameters_trained() const {
  int64_t n = 0;
  for (int64_t t : trained_) n += t;
  return n;
}

}  // namespace llmtrain
