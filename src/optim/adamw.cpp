// AdamW over shards; see adamw.h for the order of sums and what a step that is not finite does.
#include "optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace llmtrain {

AdamW::AdamW(ParameterManager& manager, Kernels& kernels, const AdamWOptions& options, Arena& arena)
    : manager_(manager), kernels_(kernels), options_(options) {
  const ShardLayout& layout = manager.layout();
  for (int unit = 0; unit < static_cast<int>(layout.units().size()); ++unit) {
    const int64_t n = layout.shard_elements(unit, true);
    if (n == 0) continue;
    UnitState state;
    state.unit = unit;
    state.m = arena.take("optimizer states", DType::float32, {n});
    state.v = arena.take("optimizer states", DType::float32, {n});
    state.ranges = ranges_of(layout, unit, manager.rank());
    units_.push_back(std::move(state));
  }
}

std::vector<AdamW::Range> AdamW::ranges_of(const ShardLayout& layout, int unit, int rank) {
  std::vector<Range> ranges;
  for (const OwnedRange& owned : layout.owned(unit, true, rank)) {
    const bool decay = layout.units()[static_cast<size_t>(unit)].parameters[static_cast<size_t>(owned.parameter)].decay;
    Range* last = ranges.empty() ? nullptr : &ranges.back();
    if (last && last->decay == decay && last->begin + last->count == owned.shard_begin) {
      last->count += owned.count;
    } else {
      ranges.push_back({owned.shard_begin, owned.count, decay});
    }
  }
  return ranges;
}

const AdamW::UnitState& AdamW::state_of(int unit) const {
  for (const UnitState& state : units_) {
    if (state.unit == unit) return state;
  }
  LLMTRAIN_ASSERT(false, "nothing is trained in unit " + std::to_string(unit));
}

double AdamW::global_norm(Stream& compute, Communicator& communicator, std::string& origin) {
  std::vector<double> squares;
  for (const UnitState& state : units_) squares.push_back(kernels_.sum_squares(compute, manager_.gradient(state.unit)));
  communicator.all_reduce_sum(squares.data(), static_cast<int>(squares.size()));
  double total = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    if (!std::isfinite(squares[i]) && origin.empty()) origin = manager_.layout().units()[static_cast<size_t>(units_[i].unit)].name;
    total += squares[i];
  }
  return std::sqrt(total);
}

AdamW::Result AdamW::step(double learning_rate, Stream& compute, Communicator& communicator) {
  Result result;
  result.grad_norm = global_norm(compute, communicator, result.origin);
  // A sum of finite squares may still overflow; every rank sees the same number and decides alike.
  result.applied = std::isfinite(result.grad_norm);
  if (!result.applied && result.origin.empty()) result.origin = "the sum over all units";
  if (result.applied) {
    double scale = 1;
    if (options_.max_grad_norm > 0) scale = std::min(1.0, options_.max_grad_norm / (result.grad_norm + 1e-6));
    AdamWStep arguments{static_cast<float>(learning_rate), static_cast<float>(options_.beta1), static_cast<float>(options_.beta2),
                        static_cast<float>(options_.epsilon), 0, ++steps_, static_cast<float>(scale)};
    manager_.before_update();
    for (const UnitState& state : units_) {
      const TensorView master = manager_.master(state.unit), gradient = manager_.gradient(state.unit), low = manager_.low(state.unit);
      for (const Range& range : state.ranges) {
        arguments.weight_decay = range.decay ? static_cast<float>(options_.weight_decay) : 0.0f;
        const auto part = [&range](const TensorView& view) { return view ? view.rows(range.begin, range.count) : view; };
        kernels_.adamw(compute, part(master), part(gradient), part(state.m), part(state.v), part(low), arguments);
      }
    }
    manager_.weights_changed();
  }
  manager_.zero_gradients();
  return result;
}

}  // namespace llmtrain
