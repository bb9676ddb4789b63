// Engine: the model of a run over all ranks, ready to step: device, kernels, communicators, streams, the planned arena, the ParameterManager, the
// Transformer and the optimizer, made in the order that they need and ended in the opposite one.
//
// Memory is planned first: the same code runs with a planning Arena, the plan is compared with what the node has, and only then is anything taken.
// Errors: InputError (on all ranks) when the plan does not fit, with what to change. Thread rules: one thread; construction is collective.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/context.h"
#include "device/arena.h"
#include "hf/model_folder.h"
#include "model/transformer.h"
#include "optim/adamw.h"
#include "train/timed_kernels.h"
#include "zero/parameter_manager.h"

namespace llmtrain {

class Watchdog;

struct EngineOptions {
  std::string device = "auto";         // auto: the GPU where every rank has one, else the CPU; cpu; cuda
  std::string communicator = "auto";   // auto, mpi, shared, nccl, staged (comm/device_choice.h)
  std::string device_where = "device", communicator_where = "communicator";  // where these were asked for, for errors
  bool deterministic = false;          // GPUs only: the CPU is so always
  DType compute = DType::float32;
  bool training = true;
  int prefetch_depth = 1;
  std::optional<bool> overlap;           // nothing: on with two threads a rank or ranks on several nodes
  std::optional<Recompute> recompute;    // nothing: cheap, or full where the plan does not fit otherwise
  NodeOptions nodes;
  int64_t max_tokens = 0;                // of a rank's largest micro-batch
  int64_t longest_sequence = 0;          // tokens
  int64_t max_positions = 0;
  int64_t cache_tokens = 0;              // generation: capacity of the key-value cache, 0: none
  bool checkpoints = false;              // the image of a checkpoint is in the plan
  bool time_kernels = false;             // measure each operation (kernel_times)
  Watchdog* watchdog = nullptr;          // watches the communicators from the first time that the ranks meet in them; forget() before the engine goes
  AdamWOptions adamw;
  std::function<bool(const std::string&)> trained;  // by Hugging Face name; null: everything
};

const char* name_of(Recompute recompute);
// "auto" gives nothing; "none", "cheap", "full"; InputError naming `where`.
std::optional<Recompute> parse_recompute(const std::string& text, const std::string& where);
// "auto" gives nothing; "on", "off".
std::optional<bool> parse_overlap(const std::string& text, const std::string& where);

struct DeviceChoice;

class Engine {
 public:
  Engine(MpiRuntime& mpi, RankGroup& group, const ModelConfig& model, const EngineOptions& options, Log& log);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Each rank reads its own ranges only. Collective.
  void load_weights(const ModelFolder& folder);
  void random_weights(uint64_t seed);
  void set_weights(const ParameterManager::Fill& from) { fill(from); }
  // For the watchdog.
  std::vector<Communicator*> communicators() const { return {gather_communicator_.get(), reduce_communicator_.get()}; }

  // One micro-step and the optimizer's step, as Transformer and AdamW define them.
  double forward_backward(const Batch& batch, double scale) { return transformer_->forward_backward(batch, static_cast<float>(scale)); }
  AdamW::Result update(double learning_rate) { return optimizer_->step(learning_rate, *compute_, *reduce_communicator_); }

  AdamW& optimizer() { return *optimizer_; }
  ParameterManager& manager() { return *manager_; }
  Transformer& transformer() { return *transformer_; }
  Device& device() { return *device_; }
  Stream& compute_stream() { return *compute_; }
  // What measures waits and, with time_kernels, every operation from the first call of this on (for bench --breakdown and a trace).
  Spans& spans() {
    if (timed_) timed_->measure_with(manager_->spans());
    return manager_->spans();
  }
  const StateTypes& states() const { return options_.adamw.states; }
  // For small values between steps.
  Communicator& communicator() { return *reduce_communicator_; }
  // Where time went since the last reset_times(): operations (with time_kernels) and waiting for communication.
  struct Times {
    std::map<std::string, KernelTime> kernels;
    double exposed_gather = 0, exposed_reduce = 0;  // seconds
    int64_t gathers = 0, reductions = 0;
  };
  Times times() const;
  void reset_times();
  const ModelConfig& model() const { return model_; }
  int threads() const { return threads_; }
  Recompute recompute() const { return recompute_; }
  bool overlaps() const { return overlap_; }
  // What the GPU's driver counts as taken since this engine began, on a GPU that nobody else uses; 0 on the CPU.
  size_t device_bytes_used() const;
  // Planned bytes of this rank, and the table of the plan as text.
  size_t planned_bytes() const { return planned_bytes_; }
  std::vector<std::string> plan_lines() const;

 private:
  struct Parts {
    std::unique_ptr<ParameterManager> manager;
    std::unique_ptr<AdamW> optimizer;
    std::unique_ptr<Transformer> transformer;
  };
  std::string open_device(MpiRuntime& mpi, const DeviceChoice& choice);
  Parts build(Arena& arena, Recompute recompute);
  void choose_plan(const EngineOptions& options);
  bool fits(size_t bytes);
  void fill(const ParameterManager::Fill& fill);
  void set_up(MpiRuntime& mpi);
  bool device_is_broken() const;
  void abandon();

  RankGroup& group_;
  Log& log_;
  ModelConfig model_;
  EngineOptions options_;
  int threads_ = 1;
  int sharers_ = 1;   // ranks that draw from the same memory: a host's, or a GPU's
  int hosts_ = 1;
  size_t device_bytes_before_ = 0;  // free memory of the GPU when this engine began
  bool overlap_ = false;
  Recompute recompute_ = Recompute::cheap;
  size_t arena_bytes_ = 0, planned_bytes_ = 0;
  std::vector<std::string> plan_;

  std::unique_ptr<Device> device_;
  std::unique_ptr<Kernels> kernels_;
  TimedKernels* timed_ = nullptr;
  ParameterManager::Counters counters_then_;  // at the last reset_times()
  std::unique_ptr<Communicator> gather_communicator_, reduce_communicator_;
  std::unique_ptr<Stream> compute_, gather_, reduce_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<ParameterManager> manager_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Transformer> transformer_;
};

// Largest resident set of this process so far (VmHWM), bytes.
size_t peak_resident_bytes();

}  // namespace llmtrain
