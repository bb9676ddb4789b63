// AdamW over shards; see adamw.h for the order of sums and what a step that is not finite does.
#include "optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace llmtrain {

StateTypes parse_states(const std::string& text, DType compute, const std::string& where) {
  if (text == "float32") return {};
  if (text == "mixed") return {DType::float32, DType::bfloat16};
  if (text != "bfloat16") throw InputError(where, "'" + text + "' is unknown", "choose float32, mixed or bfloat16");
  if (compute != DType::bfloat16) throw InputError(where, "bfloat16 states need bfloat16 compute", "set bf16: true, or choose float32 or mixed");
  return {DType::bfloat16, DType::bfloat16};
}

const char* name_of(const StateTypes& states) {
  if (states.master == DType::bfloat16) return "bfloat16";
  return states.moments == DType::bfloat16 ? "mixed" : "float32";
}

AdamW::AdamW(ParameterManager& manager, Kernels& kernels, const AdamWOptions& options, Arena& arena)
    : manager_(manager), kernels_(kernels), options_(options) {
  const ShardLayout& layout = manager.layout();
  for (int unit = 0; unit < static_cast<int>(layout.units().size()); ++unit) {
    const int64_t n = layout.shard_elements(unit, true);
    if (n == 0) continue;
    UnitState state;
    state.unit = unit;
    state.m = arena.take("optimizer states", options.states.moments, {n});
    state.v = arena.take("optimizer states", options.states.moments, {n});
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
      const int64_t shard_begin = manager_.layout().shard_elements(state.unit, true) * manager_.rank();
      arguments.seed = options_.seed;
      arguments.stream = static_cast<uint32_t>(state.unit);
      for (const Range& range : state.ranges) {
        arguments.first_element = shard_begin + range.begin;
        arguments.weight_decay = range.decay || options_.decay_everything ? static_cast<float>(options_.weight_decay) : 0.0f;
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
