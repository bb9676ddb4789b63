// AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101; torch.optim.AdamW's formula) over the shards of a ParameterManager, with
// clipping by the global norm and a finite check that all ranks agree on.
//
// The norm: each rank sums the squares of its shard of each unit in double; the sums are added over ranks in the order of ranks and then over units
// in order, so every rank holds the same bits and takes the same decision. torch's clip_grad_norm_: factor = max_norm / (norm + 1e-6), at most 1.
// A step whose norm is not finite changes nothing: no weight, no moment, no step count.
// Thread rules: one thread; step() is collective over the communicator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "device/arena.h"
#include "kernels/kernels.h"
#include "zero/parameter_manager.h"

namespace llmtrain {

// In which types the optimizer keeps what it knows of a parameter.
//   float32   master and moments float32                                   (beside the compute copy: 12 bytes a parameter, and 4 of gradient)
//   mixed     master float32, moments bfloat16                             (8 and 4)
//   bfloat16  the bfloat16 compute copy is the master, moments bfloat16    (4 and 4); needs bfloat16 compute
// What is bfloat16 is rounded stochastically (kernels.h), by random bits that depend on seed, step and element only.
struct StateTypes {
  DType master = DType::float32, moments = DType::float32;
  bool operator==(const StateTypes&) const = default;
};
// "float32", "mixed", "bfloat16"; InputError naming `where`, also where the compute type does not fit.
StateTypes parse_states(const std::string& text, DType compute, const std::string& where);
const char* name_of(const StateTypes& states);

struct AdamWOptions {
  StateTypes states;
  uint64_t seed = 0;  // of stochastic rounding
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  bool decay_everything = false;  // norms and biases too
  double max_grad_norm = 1.0;  // 0 or less: no clipping
};

class AdamW {
 public:
  // Takes the two moments of this rank's shards from `arena` (group "optimizer states"). `manager` outlives this.
  AdamW(ParameterManager& manager, Kernels& kernels, const AdamWOptions& options, Arena& arena);

  struct Result {
    double grad_norm = 0;    // before clipping
    bool applied = true;     // false: the norm is not finite, nothing was changed
    std::string origin;      // then: the unit where that was found first
  };
  // One optimizer step with the gradients in the manager's accumulators (complete: after the last micro-step's finish()), which are zeroed
  // afterwards.
  // `communicator`: no collective of it may be under way.
  Result step(double learning_rate, Stream& compute, Communicator& communicator);

  int64_t steps_done() const { return steps_; }
  // The states, for checkpoints: this rank's shards of the moments of a unit's trained array.
  TensorView first_moment(int unit) const { return state_of(unit).m; }
  TensorView second_moment(int unit) const { return state_of(unit).v; }
  void set_steps_done(int64_t steps) { steps_ = steps; }

 private:
  // Neighbouring elements of a shard that share their decay.
  struct Range {
    int64_t begin, count;
    bool decay;
  };
  struct UnitState {
    int unit;
    TensorView m, v;  // [shard elements]
    std::vector<Range> ranges;
  };
  static std::vector<Range> ranges_of(const ShardLayout& layout, int unit, int rank);
  const UnitState& state_of(int unit) const;
  double global_norm(Stream& compute, Communicator& communicator, std::string& origin);

  ParameterManager& manager_;
  Kernels& kernels_;
  AdamWOptions options_;
  std::vector<UnitState> units_;
  int64_t steps_ = 0;
};

}  // namespace llmtrain
