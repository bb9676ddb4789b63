// Builds the engine of engine.h: facts of the machine, communicators, the plan, then the real thing by the same code.
#include "train/engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <set>
#include <utility>

#include "checkpoint/shard_image.h"
#include "comm/device_choice.h"
#include "comm/watchdog.h"
#include "core/error.h"
#include "core/philox.h"
#include "device/cuda_backend.h"
#include "train/checkpointing.h"
#include "train/random_weights.h"

namespace llmtrain {
namespace {

std::string mebibytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

// How many ranks give the same text as this one, and how many texts there are.
std::pair<int, int> count_alike(RankGroup& group, const std::string& text) {
  const uint64_t mine = name_hash(text);
  std::vector<uint64_t> all(static_cast<size_t>(group.size()));
  group.all_gather(&mine, all.data(), sizeof mine);
  return {static_cast<int>(std::count(all.begin(), all.end(), mine)), static_cast<int>(std::set<uint64_t>(all.begin(), all.end()).size())};
}

// Where chosen algorithms and compiled plans are kept: $XDG_CACHE_HOME/llmtrain or ~/.cache/llmtrain; empty where there is no home.
std::string cuda_cache_folder() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  if (cache && *cache) return std::string(cache) + "/llmtrain";
  return home && *home ? std::string(home) + "/.cache/llmtrain" : "";
}

bool true_on_all(RankGroup& group, bool mine) {
  const int32_t value = mine ? 1 : 0;
  std::vector<int32_t> all(static_cast<size_t>(group.size()));
  group.all_gather(&value, all.data(), sizeof value);
  return std::all_of(all.begin(), all.end(), [](int32_t v) { return v == 1; });
}

}  // namespace

const char* name_of(Recompute recompute) {
  switch (recompute) {
    case Recompute::none: return "none";
    case Recompute::cheap: return "cheap";
    case Recompute::full: return "full";
  }
  return "";
}

std::optional<Recompute> parse_recompute(const std::string& text, const std::string& where) {
  if (text.empty() || text == "auto") return std::nullopt;
  for (const Recompute r : {Recompute::none, Recompute::cheap, Recompute::full})
    if (text == name_of(r)) return r;
  throw InputError(where, "'" + text + "' is unknown", "choose auto, none, cheap or full");
}

std::optional<bool> parse_overlap(const std::string& text, const std::string& where) {
  if (text.empty() || text == "auto") return std::nullopt;
  if (text == "on" || text == "off") return text == "on";
  throw InputError(where, "'" + text + "' is unknown", "choose auto, on or off");
}

Engine::Engine(MpiRuntime& mpi, RankGroup& group, const ModelConfig& model, const EngineOptions& options, Log& log)
    : group_(group), log_(log), model_(model), options_(options) {
  try {
    set_up(mpi);
  } catch (const InputError&) {  // agreed on by all ranks
    throw;
  } catch (...) {
    abandon();
    throw;
  }
}

void Engine::set_up(MpiRuntime& mpi) {
  RankGroup& group = group_;
  const EngineOptions& options = options_;
  const ThreadPlan threads = plan_threads(mpi, group);
  threads_ = threads.threads;
  if (!threads.line.empty()) log_.info(threads.line);
  hosts_ = count_alike(group, mpi.host()).second;
  if (options.nodes.ranks_per_node > 0) hosts_ = std::max(hosts_, (group.size() + options.nodes.ranks_per_node - 1) / options.nodes.ranks_per_node);
  const DeviceChoice choice = make_device_choice(mpi, group_, {options_.device, options_.communicator, options_.device_where, options_.communicator_where});
  if (!choice.line.empty()) log_.info(choice.line);
  // A thread of its own for communication only pays where a core is left for it, or where messages need progress between nodes.
  overlap_ = options.overlap.value_or(group.size() > 1 && (threads_ >= 2 || hosts_ > 1 || choice.device == DeviceKind::cuda));
  std::string memory;
  run_on_all_or_fail(group_, [&] { memory = open_device(mpi, choice); });
  sharers_ = count_alike(group_, memory).first;
  log_.info("device: " + device_->describe() + "; " + kernels_->describe());
  if (options.time_kernels) {
    auto timed = std::make_unique<TimedKernels>(std::move(kernels_));
    timed_ = timed.get();
    kernels_ = std::move(timed);
  }
  gather_communicator_ = make_chosen_communicator(choice, mpi, group_, *device_, "gather", options.nodes);
  reduce_communicator_ = make_chosen_communicator(choice, mpi, group_, *device_, "reduce", options.nodes);
  compute_ = device_->make_stream("compute", false);
  gather_ = device_->make_stream("gather", overlap_);
  reduce_ = device_->make_stream("reduce", overlap_);

  run_on_all_or_fail(group_, [&] { choose_plan(options); });
  run_on_all_or_fail(group_, [&] { arena_ = std::make_unique<Arena>(*device_, arena_bytes_); });
  Parts parts = build(*arena_, recompute_);
  manager_ = std::move(parts.manager);
  optimizer_ = std::move(parts.optimizer);
  transformer_ = std::move(parts.transformer);
  arena_->seal();
  plan_ = arena_->table();
}

Engine::~Engine() {
  if (std::uncaught_exceptions() > 0) abandon();
}

// A rank that leaves because of an error leaves alone: what takes part in collectives when it is taken down would wait for the others. The program is
// about to end.
void Engine::abandon() {
  if (group_.size() == 1) return;
  static_cast<void>(transformer_.release());
  static_cast<void>(optimizer_.release());
  static_cast<void>(manager_.release());
  static_cast<void>(arena_.release());
  static_cast<void>(reduce_.release());
  static_cast<void>(gather_.release());
  static_cast<void>(compute_.release());
  static_cast<void>(reduce_communicator_.release());
  static_cast<void>(gather_communicator_.release());
  static_cast<void>(kernels_.release());
  static_cast<void>(device_.release());
}

// A GPU whose context has failed answers every call with the same error.
bool Engine::device_is_broken() const {
  if (device_->kind() == DeviceKind::cpu) return false;
  try {
    device_->bytes_available();
    return false;
  } catch (const std::exception&) {
    return true;
  }
}

// Device and kernels; returns the name of the memory that they draw from. Not collective: a rank may fail alone here.
std::string Engine::open_device(MpiRuntime& mpi, const DeviceChoice& choice) {
  device_ = make_chosen_device(choice, threads_);
  std::string memory = mpi.host();
  if (choice.device == DeviceKind::cpu) {
    kernels_ = make_cpu_kernels(*device_);
  } else {
    CudaKernelsOptions kernels;
    kernels.deterministic = options_.deterministic;
    kernels.cache_folder = cuda_cache_folder();
    kernels.log = [this](const std::string& line) { log_.info(line); };
    kernels_ = choice.backend->plugin().make_kernels(*device_, kernels);
    memory += choice.backend->plugin().device_info(choice.gpu).uuid;
    device_bytes_before_ = device_->bytes_available();
  }
  return memory;
}

size_t Engine::device_bytes_used() const {
  if (device_->kind() == DeviceKind::cpu) return 0;
  const size_t now = device_->bytes_available();
  return device_bytes_before_ > now ? device_bytes_before_ - now : 0;
}

Engine::Parts Engine::build(Arena& arena, Recompute recompute) {
  Parts parts;
  ParameterManagerOptions manager;
  manager.compute = options_.compute;
  manager.master = options_.adamw.states.master;
  manager.prefetch_depth = options_.prefetch_depth;
  manager.overlap = overlap_;
  manager.training = options_.training;
  const ParameterStreams streams{device_.get(),  kernels_.get(),           compute_.get(), gather_.get(), reduce_.get(), gather_communicator_.get(),
                                 reduce_communicator_.get()};
  parts.manager = std::make_unique<ParameterManager>(streams, ShardLayout(transformer_units(model_, options_.trained), group_.size()), manager, arena);
  if (options_.training) parts.optimizer = std::make_unique<AdamW>(*parts.manager, *kernels_, options_.adamw, arena);
  TransformerOptions transformer;
  transformer.compute = options_.compute;
  transformer.recompute = recompute;
  transformer.training = options_.training;
  transformer.max_tokens = options_.max_tokens;
  transformer.longest_sequence = options_.longest_sequence;
  transformer.max_positions = options_.max_positions;
  // A GPU wants products of many rows: logits of up to a GiB, and never of fewer than 1024 tokens.
  if (device_->kind() == DeviceKind::cuda) {
    const int64_t row_bytes = model_.vocab_size * static_cast<int64_t>(size_of(options_.compute));
    transformer.loss_chunk_tokens = std::max<int64_t>(1024, (int64_t{1} << 30) / row_bytes / 128 * 128);
  }
  parts.transformer = std::make_unique<Transformer>(model_, transformer, *device_, *kernels_, *compute_, *parts.manager, arena);
  if (options_.cache_tokens > 0) parts.transformer->reserve_cache(options_.cache_tokens, arena);
  if (options_.checkpoints && device_->kind() == DeviceKind::cpu)  // a GPU's snapshot lies in host memory
    arena.count_elsewhere("checkpoint image", ShardImage::planned_bytes(checkpoint_content(parts.manager->layout(), options_.compute, options_.adamw.states)));
  return parts;
}

bool Engine::fits(size_t bytes) {
  size_t free = device_->bytes_available();
  // CUDA's libraries load kernels when they are first used, and a driver has not all that it calls free in one block.
  if (device_->kind() == DeviceKind::cuda) free -= free / 64;
  return bytes <= free / static_cast<size_t>(sharers_);
}

// Sets recompute_, arena_bytes_ and planned_bytes_; InputError where nothing fits. Called on all ranks; the decision is common.
void Engine::choose_plan(const EngineOptions& options) {
  std::vector<Recompute> choices{options.recompute.value_or(Recompute::cheap)};
  if (!options.recompute && options.training) choices.push_back(Recompute::full);
  std::vector<std::string> table;
  for (const Recompute choice : choices) {
    Arena planning;
    build(planning, choice);
    recompute_ = choice;
    arena_bytes_ = planning.total();
    planned_bytes_ = planning.total_with_elsewhere();
    group_.barrier();  // planning takes memory of a GPU for a while, to time matrix products: ranks that share one look when all have given it back
    if (true_on_all(group_, fits(planned_bytes_))) return;
    table = planning.table();
  }
  std::string lines;
  for (const std::string& line : table) lines += "\n    " + line;
  throw InputError("memory plan", "a rank needs " + mebibytes(planned_bytes_) + ", and " + std::to_string(sharers_) + " rank(s) share " +
                                      mebibytes(device_->bytes_available()) + (device_->kind() == DeviceKind::cpu ? " on this host" : " of this GPU") + lines,
                   std::string("use more ranks on more ") + (device_->kind() == DeviceKind::cpu ? "hosts" : "GPUs") + ", a smaller per_device_train_batch_size or cutoff_len, or recompute: full");
}

void Engine::fill(const ParameterManager::Fill& fill) {
  std::exception_ptr failure;
  try {
    manager_->fill_shards(fill);
  } catch (...) {
    if (device_is_broken()) throw;  // this rank has left the collective in which the others are: they would never come to agree with it
    failure = std::current_exception();
  }
  run_on_all_or_fail(group_, [&] {
    if (failure) std::rethrow_exception(failure);
  });
  // Reading took as long as the disk needed. What follows is the ranks' meeting only: one that does not come hangs.
  if (options_.watchdog) {
    options_.watchdog->watch(communicators());
    options_.watchdog->progress("set-up", 0);
  }
  manager_->shards_filled();
  if (options_.watchdog) options_.watchdog->pause("set-up");
}

void Engine::load_weights(const ModelFolder& folder) {
  fill([&folder](const ParameterSpec& parameter, int64_t begin, int64_t count, float* out) {
    folder.read_range(parameter.name, begin, count, out, DType::float32);
  });
}

void Engine::random_weights(uint64_t seed) {
  const RandomWeights weights(model_, seed);
  fill([&weights](const ParameterSpec& parameter, int64_t begin, int64_t count, float* out) { weights.fill(parameter.name, begin, count, out); });
}

Engine::Times Engine::times() const {
  Times times;
  if (timed_) times.kernels = timed_->times();
  const ParameterManager::Counters& now = manager_->counters();
  times.exposed_gather = now.exposed_gather_seconds - counters_then_.exposed_gather_seconds;
  times.exposed_reduce = now.exposed_reduce_seconds - counters_then_.exposed_reduce_seconds;
  times.gathers = now.gathers - counters_then_.gathers;
  times.reductions = now.reductions - counters_then_.reductions;
  return times;
}

void Engine::reset_times() {
  counters_then_ = manager_->counters();
  if (timed_) timed_->reset();
}

std::vector<std::string> Engine::plan_lines() const { return plan_; }

size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return static_cast<size_t>(std::strtoull(line.c_str() + 6, nullptr, 10)) * 1024;
  return 0;
}

}  // namespace llmtrain
