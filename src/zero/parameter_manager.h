// ParameterManager: ZeRO-3 (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054) as a small explicit state machine over a static schedule.
//
// Each rank owns a shard of every unit: the master copy (trained; float32, or the compute type's copy itself), the compute-type copy that is gathered, the gradient accumulator. A
// unit's full weights exist only in one of a fixed number of slots, between acquire() and release(). The order of uses is known before the run
// (begin()), so acquire(i) waits for its own gather and issues those of the next uses; release() frees the slot by event; reduce() starts the
// reduce-scatter of a unit's gradients into the accumulators. Gathers and reductions run on streams and communicators of their own.
//
//   manager.begin({0, 1, 2, 3, 3, 2, 1});          // the uses of one micro-step, in order
//   UnitWeights w = manager.acquire(0); …; manager.release(0);
//   UnitGradients g = manager.gradients(3); … kernels add into g …; manager.reduce(3);
//   manager.finish();                              // all reductions are in the accumulators
//
// Nothing here knows what a layer is. The result does not depend on prefetch depth, slots or overlap: bitwise.
// Thread rules: one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "device/arena.h"
#include "device/spans.h"
#include "kernels/kernels.h"
#include "zero/shard_layout.h"

namespace llmtrain {

struct UnitWeights {
  std::vector<TensorView> parameters;  // in the unit's order, compute type, full tensors
  // A view over `count` neighbouring parameters of the same row length as one matrix [sum of rows, columns] (q, k, v -> qkv).
  TensorView fused(int first, int count) const;
};

struct UnitGradients {
  std::vector<TensorView> parameters;  // float32, full tensors; no data for frozen parameters
  TensorView fused(int first, int count) const;
};

struct ParameterManagerOptions {
  DType compute = DType::float32;
  DType master = DType::float32;  // of the weights that the optimizer updates; as `compute`, they are the gathered copy itself
  int prefetch_depth = 1;     // gathers issued ahead of use, >= 1; also the number of slots beyond the one in use
  bool overlap = true;        // gathers and reductions on asynchronous streams; else inline
  bool training = true;       // masters, gradients; false: compute-type shards only
};

// Streams and communicators that the manager works with; owned by the Context.
struct ParameterStreams {
  Device* device = nullptr;
  Kernels* kernels = nullptr;
  Stream* compute = nullptr;
  Stream* gather = nullptr;
  Stream* reduce = nullptr;
  Communicator* gather_communicator = nullptr;
  Communicator* reduce_communicator = nullptr;
  Spans* spans = nullptr;  // null: the manager measures with its own
};

class ParameterManager {
 public:
  // Takes its slots from `arena` (groups "gather slots", "gradient slots", "gradient shards", "master weights") and its registered memory from the
  // communicators (counted into the arena with count_elsewhere). With a planning arena nothing is allocated and only the plan may be asked for.
  ParameterManager(ParameterStreams streams, ShardLayout layout, ParameterManagerOptions options, Arena& arena);
  ~ParameterManager();

  const ShardLayout& layout() const;
  int rank() const;

  // ---- filling and reading shards (set-up, export, checkpoints). `fill` writes `count` float32 elements of the named tensor starting at element
  // `tensor_begin`; called for each range this rank owns, in order. Masters and compute-type copies are both set.
  // Collective; what `fill` throws on a rank is thrown there after all have met. The same in two parts: fill_shards(), which is not collective and may take long,
  // and shards_filled() on all ranks.
  using Fill = std::function<void(const ParameterSpec& parameter, int64_t tensor_begin, int64_t count, float* out)>;
  void fill_weights(const Fill& fill);
  void fill_shards(const Fill& fill);
  void shards_filled();
  // `read` is called for each range this rank owns, in chunks of at most `chunk` elements, with float32 values (masters, or widened compute-type
  // copies).
  using Read = std::function<void(const ParameterSpec& parameter, int64_t tensor_begin, int64_t count, const float* values)>;
  void read_weights(const Read& read, int64_t chunk = 1 << 20) const;

  // ---- one micro-step
  void begin(std::vector<int> uses);
  UnitWeights acquire(int unit);
  void release(int unit);
  UnitGradients gradients(int unit);  // zeroed full-size gradients of the unit; every trained parameter
  void reduce(int unit);              // may come more than once per unit and micro-step (tied weights): contributions add up
  void finish();

  // ---- the optimizer's side: this rank's shards of the trained array of `unit` (device memory, padded length)
  TensorView master(int unit);  // of the master type
  TensorView gradient(int unit);  // float32
  TensorView frozen(int unit);  // this rank's shard of the frozen array, compute type; no data where the unit has none
  TensorView low(int unit);  // compute-type copy to be written with the master (no data where the master is of the compute type: it is that copy)
  void zero_gradients();
  // All ranks have stopped reading shards: the optimizer may write. Call before the first write; after the last, call weights_changed().
  void before_update();
  void weights_changed();

  // ---- what happened
  struct Counters {
    // The compute stream waited (or, without overlap, did the communication itself), as far as the stream has come.
    double exposed_gather_seconds = 0, exposed_reduce_seconds = 0;
    int64_t gathers = 0, reductions = 0;
    size_t slot_bytes = 0, shard_bytes = 0, gradient_slot_bytes = 0;  // allocated, counted; shards: compute type, masters, gradients
    int slots = 0;
  };
  const Counters& counters() const;
  // What measures the waits; not with a planning arena.
  Spans& spans();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmtrain
