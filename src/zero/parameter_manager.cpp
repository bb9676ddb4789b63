// ParameterManager (parameter_manager.h): the memory it takes, the state machine of gathers and reductions, the optimizer's side.
//
// Why no timing can change a result: which unit is gathered into which slot, and in which order, follows from the schedule alone; streams only wait
// for events.
#include "zero/parameter_manager.h"

#include <algorithm>
#include <exception>

#include "core/error.h"
#include "zero/slots.h"

namespace llmtrain {
namespace {

constexpr size_t kAlign = 256;
constexpr int64_t kFillChunk = int64_t{1} << 20;  // elements

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// One matrix over neighbouring tensors: rows add up, everything behind the first dimension is the same, and the data follow each other.
TensorView fuse(const std::vector<TensorView>& parameters, int first, int count) {
  TensorView whole = parameters.at(static_cast<size_t>(first));
  for (int i = 1; i < count; ++i) {
    const TensorView& next = parameters.at(static_cast<size_t>(first + i));
    bool fits = next.shape.rank == whole.shape.rank && next.dtype == whole.dtype && (next.data == nullptr) == (whole.data == nullptr);
    for (int d = 1; fits && d < whole.shape.rank; ++d) fits = next.shape[d] == whole.shape[d];
    LLMTRAIN_ASSERT(fits, "tensors of shapes " + whole.shape.text() + " and " + next.shape.text() + " cannot be seen as one matrix");
    LLMTRAIN_ASSERT(whole.data == nullptr || next.data == whole.as<char>() + whole.bytes(),
                    "tensors that are to be one matrix do not follow each other");
    whole.shape.dims[0] += next.shape[0];
  }
  return whole;
}

}  // namespace

TensorView UnitWeights::fused(int first, int count) const { return fuse(parameters, first, count); }
TensorView UnitGradients::fused(int first, int count) const { return fuse(parameters, first, count); }

// What this rank keeps of a unit.
struct UnitShards {
  TensorView master;          // trained; the same memory as compute[1] where both are of one type
  TensorView compute[2];      // [0] frozen, [1] trained: what is gathered
  TensorView gradient;        // float32, trained
  bool gradient_zero = true;  // the accumulator counts as zero, whatever it holds: nothing was added since zero_gradients()
};

struct WeightSlot {
  char* data = nullptr;
  int unit = -1;  // whose weights it holds or is being filled with
  int holders = 0;
  std::unique_ptr<Event> ready, released;
};

struct GradientSlot {
  char* data = nullptr;
  int unit = -1;  // whose gradients are being written
  std::unique_ptr<Event> filled, drained;
};

struct ParameterManager::State {
  State(ParameterStreams s, ShardLayout l, ParameterManagerOptions o) : streams(s), layout(std::move(l)), options(o) {}

  ParameterStreams streams;
  ShardLayout layout;
  ParameterManagerOptions options;
  int world = 1, rank = 0;
  Stream *gather = nullptr, *reduce = nullptr;  // the compute stream itself without overlap
  std::vector<UnitShards> shards;
  std::vector<SlotClass> weight_classes, gradient_classes;
  std::vector<std::vector<WeightSlot>> weight_slots;      // [class][slot]
  std::vector<std::vector<GradientSlot>> gradient_slots;  // [class][slot]
  std::vector<int> weight_class_of, gradient_class_of;    // [unit], -1: none
  std::vector<size_t> next_gradient_slot;                 // [class]: they take turns
  std::vector<int> solo_holders;                          // [unit], one rank: nothing is gathered
  std::unique_ptr<Event> compute_done, gather_done, reduce_done;
  Schedule schedule;
  Counters counters;
  std::unique_ptr<Spans> own_spans;
  Spans* spans = nullptr;
  std::vector<int> held;  // units in the order of their acquisition, while a trace is kept
  bool planning = false;

  int units() const { return static_cast<int>(layout.units().size()); }
  UnitShards& shard(int unit) { return shards.at(static_cast<size_t>(unit)); }
  const std::string& name(int unit) const { return layout.units()[static_cast<size_t>(unit)].name; }
  size_t element_bytes() const { return size_of(options.compute); }
  size_t full_bytes(int unit, bool trained) const {
    return static_cast<size_t>(layout.shard_elements(unit, trained)) * static_cast<size_t>(world) * element_bytes();
  }
  size_t full_gradient_bytes(int unit) const {
    return static_cast<size_t>(layout.shard_elements(unit, true)) * static_cast<size_t>(world) * sizeof(float);
  }
  bool gather_inline() const { return gather == streams.compute; }
  // For spans that only a trace wants, and for waits that exist only where a stream is the compute stream itself.
  Spans* traced() const { return spans->keeps() ? spans : nullptr; }
  Spans* if_inline(const Stream* stream) const { return stream == streams.compute ? spans : nullptr; }
  void now_held(int unit);
  void no_longer_held(int unit);

  void take_shards(Arena& arena);
  void take_weight_slots(Arena& arena);
  void take_gradient_slots(Arena& arena);
  WeightSlot* resident(int unit);
  WeightSlot* slot_for(int unit, bool must);
  void issue_gather(int unit, WeightSlot& slot);
  void prefetch(int current);
  GradientSlot* gradient_slot_of(int unit);
  void make_gradient_zero(int unit);
  UnitWeights weight_views(int unit, char* trained, char* frozen) const;
  UnitGradients gradient_views(int unit, char* full) const;
  void shards_changed(bool frozen_too);
};

// ---- memory

// Shards of the compute type lie in one registered allocation, at the same offsets on every rank; masters (where they are something else) and
// gradient accumulators in the arena. A process by itself registers nothing.
void ParameterManager::State::take_shards(Arena& arena) {
  shards.resize(static_cast<size_t>(units()));
  const bool one_copy = options.compute == options.master;
  size_t registered = 0;
  std::vector<size_t> offsets;
  for (int u = 0; u < units(); ++u) {
    for (const bool trained : {false, true}) {
      const int64_t n = layout.shard_elements(u, trained);
      UnitShards& unit = shard(u);
      unit.compute[trained] = TensorView(static_cast<void*>(nullptr), options.compute, {n});
      offsets.push_back(registered);
      registered += aligned(unit.compute[trained].bytes());
    }
  }
  const std::string group = one_copy && options.training ? "master weights" : "parameter shards";
  char* base = nullptr;
  if (world == 1) {
    base = static_cast<char*>(arena.take_bytes(group, registered));
  } else {
    arena.count_elsewhere(group, registered);
    if (!planning && registered > 0) base = static_cast<char*>(streams.gather_communicator->allocate_registered(registered, group));
  }
  counters.shard_bytes += registered;
  for (int u = 0; u < units(); ++u) {
    UnitShards& unit = shard(u);
    for (const bool trained : {false, true})
      if (base != nullptr && unit.compute[trained].elements() > 0) unit.compute[trained].data = base + offsets[static_cast<size_t>(u) * 2 + trained];
    const int64_t n = options.training ? layout.shard_elements(u, true) : 0;
    unit.master = one_copy && options.training ? unit.compute[true] : TensorView(static_cast<void*>(nullptr), options.master, {n});
    unit.gradient = TensorView(static_cast<void*>(nullptr), DType::float32, {n});
    if (n == 0) continue;
    if (!one_copy) unit.master = arena.take("master weights", options.master, {n});
    unit.gradient = arena.take("gradient shards", DType::float32, {n});
    counters.shard_bytes += aligned(unit.gradient.bytes()) + (one_copy ? 0 : aligned(unit.master.bytes()));
  }
}

void ParameterManager::State::take_weight_slots(Arena& arena) {
  weight_class_of.assign(static_cast<size_t>(units()), -1);
  if (world == 1) return;
  std::vector<size_t> bytes;
  for (int u = 0; u < units(); ++u) bytes.push_back(aligned(full_bytes(u, true)) + aligned(full_bytes(u, false)));
  weight_classes = plan_slot_classes(bytes, options.prefetch_depth + 1);
  for (size_t c = 0; c < weight_classes.size(); ++c) {
    for (int unit : weight_classes[c].units) weight_class_of[static_cast<size_t>(unit)] = static_cast<int>(c);
    std::vector<WeightSlot> slots(static_cast<size_t>(weight_classes[c].slots));
    for (WeightSlot& slot : slots) {
      slot.data = static_cast<char*>(arena.take_bytes("gather slots", weight_classes[c].bytes));
      counters.slot_bytes += weight_classes[c].bytes;
      ++counters.slots;
      if (planning) continue;
      slot.ready = streams.device->make_event();
      slot.released = streams.device->make_event();
    }
    weight_slots.push_back(std::move(slots));
  }
}

void ParameterManager::State::take_gradient_slots(Arena& arena) {
  gradient_class_of.assign(static_cast<size_t>(units()), -1);
  if (world == 1 || !options.training) return;
  std::vector<size_t> bytes;
  for (int u = 0; u < units(); ++u) bytes.push_back(aligned(full_gradient_bytes(u)));
  gradient_classes = plan_slot_classes(bytes, options.overlap ? 2 : 1);
  size_t total = 0;
  for (const SlotClass& c : gradient_classes) total += c.bytes * static_cast<size_t>(c.slots);
  arena.count_elsewhere("gradient slots", total);
  counters.gradient_slot_bytes = total;
  next_gradient_slot.assign(gradient_classes.size(), 0);
  char* at = nullptr;
  if (!planning && total > 0) at = static_cast<char*>(streams.reduce_communicator->allocate_registered(total, "gradient slots"));
  for (size_t c = 0; c < gradient_classes.size(); ++c) {
    for (int unit : gradient_classes[c].units) gradient_class_of[static_cast<size_t>(unit)] = static_cast<int>(c);
    std::vector<GradientSlot> slots(static_cast<size_t>(gradient_classes[c].slots));
    for (GradientSlot& slot : slots) {
      if (planning) continue;
      slot.data = at;
      at += gradient_classes[c].bytes;
      slot.filled = streams.device->make_event();
      slot.drained = streams.device->make_event();
    }
    gradient_slots.push_back(std::move(slots));
  }
}

ParameterManager::ParameterManager(ParameterStreams streams, ShardLayout layout, ParameterManagerOptions options, Arena& arena)
    : state_(std::make_unique<State>(streams, std::move(layout), options)) {
  State& s = *state_;
  LLMTRAIN_ASSERT(options.prefetch_depth >= 1, "prefetch depth " + std::to_string(options.prefetch_depth));
  LLMTRAIN_ASSERT(options.compute == DType::float32 || options.compute == DType::bfloat16, std::string("compute type ") + name_of(options.compute));
  s.planning = arena.planning();
  s.world = s.layout.world();
  if (s.world > 1 && !s.planning) {
    LLMTRAIN_ASSERT(streams.gather_communicator != nullptr && streams.gather_communicator->size() == s.world,
                    "the layout is for another number of ranks");
    s.rank = streams.gather_communicator->rank();
  }
  s.gather = options.overlap ? streams.gather : streams.compute;
  s.reduce = options.overlap ? streams.reduce : streams.compute;
  s.solo_holders.assign(static_cast<size_t>(s.units()), 0);
  s.take_shards(arena);
  s.take_weight_slots(arena);
  s.take_gradient_slots(arena);
  if (s.planning) return;
  if (!streams.spans) s.own_spans = std::make_unique<Spans>(*streams.device);
  s.spans = streams.spans ? streams.spans : s.own_spans.get();
  s.compute_done = streams.device->make_event();
  s.gather_done = streams.device->make_event();
  s.reduce_done = streams.device->make_event();
}

// The streams may still write into slots: they are waited for, unless an error is on its way out (then the other ranks may never answer).
ParameterManager::~ParameterManager() {
  const State& s = *state_;
  if (s.planning || s.world == 1 || std::uncaught_exceptions() > 0) return;
  for (Stream* stream : {s.gather, s.reduce}) {
    try {
      if (stream != nullptr) stream->synchronize();
    } catch (const std::exception&) {  // whoever waits for the result has been told, or nobody wants it any more
    }
  }
}

const ShardLayout& ParameterManager::layout() const { return state_->layout; }
int ParameterManager::rank() const { return state_->rank; }
const ParameterManager::Counters& ParameterManager::counters() const {
  State& s = *state_;
  if (s.spans) {
    s.spans->collect();
    s.counters.exposed_gather_seconds = s.spans->seconds(SpanKind::wait_gather);
    s.counters.exposed_reduce_seconds = s.spans->seconds(SpanKind::wait_reduce);
  }
  return s.counters;
}

Spans& ParameterManager::spans() { return *state_->spans; }

// What is computed next belongs to the unit that was acquired last.
void ParameterManager::State::now_held(int unit) {
  if (!traced()) return;
  held.push_back(unit);
  spans->set_unit(name(unit));
}

void ParameterManager::State::no_longer_held(int unit) {
  if (!traced()) return;
  const auto last = std::find(held.rbegin(), held.rend(), unit);
  if (last != held.rend()) held.erase(std::next(last).base());
  spans->set_unit(held.empty() ? std::string_view() : std::string_view(name(held.back())));
}

// ---- filling and reading

void ParameterManager::fill_weights(const Fill& fill) {
  // All ranks meet at the end, one whose `fill` fails too: the others would wait for it for ever.
  std::exception_ptr failure;
  try {
    fill_shards(fill);
  } catch (...) {
    failure = std::current_exception();
  }
  try {
    shards_filled();
  } catch (...) {
    if (!failure) throw;  // what broke first tells more than what broke after it
  }
  if (failure) std::rethrow_exception(failure);
}

void ParameterManager::shards_filled() { state_->shards_changed(true); }

void ParameterManager::fill_shards(const Fill& fill) {
  State& s = *state_;
  Device& device = *s.streams.device;
  std::vector<float> values;
  std::vector<char> low;
  for (int u = 0; u < s.units(); ++u) {
    for (const bool trained : {true, false}) {
      UnitShards& unit = s.shard(u);
      for (const OwnedRange& range : s.layout.owned(u, trained, s.rank)) {
        const ParameterSpec& spec = s.layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(range.parameter)];
        for (int64_t at = 0; at < range.count; at += kFillChunk) {
          const size_t n = static_cast<size_t>(std::min(kFillChunk, range.count - at)), to = static_cast<size_t>(range.shard_begin + at);
          values.resize(n);
          fill(spec, range.tensor_begin + at, static_cast<int64_t>(n), values.data());
          low.resize(n * s.element_bytes());
          convert_elements(values.data(), DType::float32, low.data(), s.options.compute, n);
          device.copy_to_device(*s.streams.compute, unit.compute[trained].as<char>() + to * s.element_bytes(), low.data(), low.size());
          if (trained && unit.master.data != nullptr && unit.master.data != unit.compute[1].data)
            device.copy_to_device(*s.streams.compute, unit.master.as<float>() + to, values.data(), n * sizeof(float));
          s.streams.compute->synchronize();  // the buffers are used again
        }
      }
    }
  }
}

void ParameterManager::read_weights(const Read& read, int64_t chunk) const {
  const State& s = *state_;
  Device& device = *s.streams.device;
  std::vector<float> values;
  std::vector<char> raw;
  for (int u = 0; u < s.units(); ++u) {
    for (const bool trained : {true, false}) {
      const UnitShards& unit = s.shards[static_cast<size_t>(u)];
      const TensorView& from = trained && unit.master.data != nullptr ? unit.master : unit.compute[trained];
      for (const OwnedRange& range : s.layout.owned(u, trained, s.rank)) {
        const ParameterSpec& spec = s.layout.units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(range.parameter)];
        for (int64_t at = 0; at < range.count; at += chunk) {
          const size_t n = static_cast<size_t>(std::min(chunk, range.count - at)), element = size_of(from.dtype);
          raw.resize(n * element);
          values.resize(n);
          device.copy_to_host(*s.streams.compute, raw.data(), from.as<char>() + static_cast<size_t>(range.shard_begin + at) * element, raw.size());
          s.streams.compute->synchronize();
          convert_elements(raw.data(), from.dtype, values.data(), DType::float32, n);
          read(spec, range.tensor_begin + at, static_cast<int64_t>(n), values.data());
        }
      }
    }
  }
}

// ---- gathers

WeightSlot* ParameterManager::State::resident(int unit) {
  for (WeightSlot& slot : weight_slots[static_cast<size_t>(weight_class_of[static_cast<size_t>(unit)])])
    if (slot.unit == unit) return &slot;
  return nullptr;
}

// An empty slot, or the one whose unit is used last of all (Belady 1966, https://doi.org/10.1147/sj.52.0078). A gather ahead of its use does not
// drive out what is used before it.
WeightSlot* ParameterManager::State::slot_for(int unit, bool must) {
  WeightSlot* best = nullptr;
  size_t best_use = 0;
  for (WeightSlot& slot : weight_slots[static_cast<size_t>(weight_class_of[static_cast<size_t>(unit)])]) {
    if (slot.unit < 0) return &slot;
    if (slot.holders > 0) continue;
    const size_t use = schedule.next_use(slot.unit);
    if (best == nullptr || use > best_use) {
      best = &slot;
      best_use = use;
    }
  }
  if (best != nullptr && !must && best_use < schedule.next_use(unit)) return nullptr;
  return best;
}

void ParameterManager::State::issue_gather(int unit, WeightSlot& slot) {
  slot.unit = unit;
  slot.released->wait(*gather);
  char* to = slot.data;
  const SpanScope span(traced(), *gather, SpanKind::gather, name(unit), shard(unit).compute[0].bytes() + shard(unit).compute[1].bytes());
  for (const bool trained : {true, false}) {
    const TensorView& from = shard(unit).compute[trained];
    if (from.elements() == 0) continue;
    streams.gather_communicator->all_gather_shards(*gather, from.data, to, from.bytes(), trained ? name(unit) : name(unit) + " (frozen)");
    to += aligned(full_bytes(unit, trained));
  }
  slot.ready->record(*gather);
  ++counters.gathers;
}

void ParameterManager::State::prefetch(int current) {
  for (int unit : schedule.upcoming(options.prefetch_depth, current)) {
    if (weight_class_of[static_cast<size_t>(unit)] < 0 || resident(unit) != nullptr) continue;
    if (WeightSlot* slot = slot_for(unit, false)) issue_gather(unit, *slot);
  }
}

void ParameterManager::begin(std::vector<int> uses) {
  State& s = *state_;
  for (int held : s.solo_holders) LLMTRAIN_ASSERT(held == 0, "a micro-step begins while a unit is held");
  for (const auto& slots : s.weight_slots)
    for (const WeightSlot& slot : slots) LLMTRAIN_ASSERT(slot.holders == 0, "a micro-step begins while unit '" + s.name(slot.unit) + "' is held");
  s.schedule = Schedule(std::move(uses), s.units());
  if (s.world == 1) return;
  const SpanScope wait(s.if_inline(s.gather), *s.streams.compute, SpanKind::wait_gather, "gather");
  s.prefetch(-1);
}

UnitWeights ParameterManager::State::weight_views(int unit, char* trained, char* frozen) const {
  UnitWeights weights;
  const std::vector<ParameterSpec>& specs = layout.units()[static_cast<size_t>(unit)].parameters;
  for (size_t p = 0; p < specs.size(); ++p) {
    const ParameterPlace& place = layout.place(unit, static_cast<int>(p));
    char* base = place.trained ? trained : frozen;
    weights.parameters.emplace_back(static_cast<void*>(base + static_cast<size_t>(place.offset) * element_bytes()), options.compute, specs[p].shape);
  }
  return weights;
}

UnitWeights ParameterManager::acquire(int unit) {
  State& s = *state_;
  LLMTRAIN_ASSERT(!s.schedule.done() && s.schedule.current() == unit, "unit '" + s.name(unit) + "' is used outside the schedule");
  if (s.world == 1) {
    s.schedule.advance();
    ++s.solo_holders[static_cast<size_t>(unit)];
    s.now_held(unit);
    return s.weight_views(unit, s.shard(unit).compute[1].as<char>(), s.shard(unit).compute[0].as<char>());
  }
  if (s.weight_class_of[static_cast<size_t>(unit)] < 0) {  // a unit without parameters
    s.schedule.advance();
    return {};
  }
  WeightSlot* slot = s.resident(unit);
  {
    const SpanScope wait(s.spans, *s.streams.compute, SpanKind::wait_gather, s.name(unit));
    if (slot == nullptr) {
      slot = s.slot_for(unit, true);
      LLMTRAIN_ASSERT(slot != nullptr, "no slot for unit '" + s.name(unit) + "': too many units of its size are held at the same time");
      s.issue_gather(unit, *slot);
    }
    s.schedule.advance();
    ++slot->holders;
    if (s.gather_inline()) s.prefetch(unit);  // its time is the gathers' own
    slot->ready->wait(*s.streams.compute);
  }
  if (!s.gather_inline()) s.prefetch(unit);
  s.now_held(unit);
  return s.weight_views(unit, slot->data, slot->data + aligned(s.full_bytes(unit, true)));
}

void ParameterManager::release(int unit) {
  State& s = *state_;
  if (s.world == 1) {
    LLMTRAIN_ASSERT(--s.solo_holders[static_cast<size_t>(unit)] >= 0, "unit '" + s.name(unit) + "' is released but not held");
    s.no_longer_held(unit);
    return;
  }
  if (s.weight_class_of[static_cast<size_t>(unit)] < 0) return;
  WeightSlot* slot = s.resident(unit);
  LLMTRAIN_ASSERT(slot != nullptr && slot->holders > 0, "unit '" + s.name(unit) + "' is released but not held");
  s.no_longer_held(unit);
  if (--slot->holders > 0) return;
  slot->released->record(*s.streams.compute);
  const SpanScope wait(s.if_inline(s.gather), *s.streams.compute, SpanKind::wait_gather, "gather");
  s.prefetch(-1);
}

// ---- gradients

GradientSlot* ParameterManager::State::gradient_slot_of(int unit) {
  for (GradientSlot& slot : gradient_slots[static_cast<size_t>(gradient_class_of[static_cast<size_t>(unit)])])
    if (slot.unit == unit) return &slot;
  return nullptr;
}

UnitGradients ParameterManager::State::gradient_views(int unit, char* full) const {
  UnitGradients gradients;
  const std::vector<ParameterSpec>& specs = layout.units()[static_cast<size_t>(unit)].parameters;
  for (size_t p = 0; p < specs.size(); ++p) {
    const ParameterPlace& place = layout.place(unit, static_cast<int>(p));
    void* data = place.trained && full != nullptr ? full + static_cast<size_t>(place.offset) * sizeof(float) : nullptr;
    gradients.parameters.emplace_back(data, DType::float32, specs[p].shape);
  }
  return gradients;
}

void ParameterManager::State::make_gradient_zero(int unit) {
  UnitShards& mine = shard(unit);
  if (mine.gradient_zero && mine.gradient.elements() > 0) streams.kernels->zero(*streams.compute, mine.gradient);
  mine.gradient_zero = false;
}

UnitGradients ParameterManager::gradients(int unit) {
  State& s = *state_;
  LLMTRAIN_ASSERT(s.options.training, "gradients of a model that is not trained");
  if (s.layout.elements(unit, true) == 0) return s.gradient_views(unit, nullptr);
  if (s.world == 1) {  // the accumulator itself
    s.make_gradient_zero(unit);
    return s.gradient_views(unit, s.shard(unit).gradient.as<char>());
  }
  if (GradientSlot* open = s.gradient_slot_of(unit)) return s.gradient_views(unit, open->data);
  const size_t c = static_cast<size_t>(s.gradient_class_of[static_cast<size_t>(unit)]);
  std::vector<GradientSlot>& slots = s.gradient_slots[c];
  GradientSlot* slot = nullptr;
  for (size_t tried = 0; tried < slots.size() && slot == nullptr; ++tried) {
    GradientSlot& next = slots[s.next_gradient_slot[c]++ % slots.size()];
    if (next.unit < 0) slot = &next;
  }
  LLMTRAIN_ASSERT(slot != nullptr, "no gradient slot for unit '" + s.name(unit) + "': gradients of another unit of its size were never reduced");
  slot->unit = unit;
  {
    const SpanScope wait(s.spans, *s.streams.compute, SpanKind::wait_reduce, s.name(unit));
    slot->drained->wait(*s.streams.compute);
  }
  const int64_t n = s.layout.shard_elements(unit, true) * s.world;
  s.streams.kernels->zero(*s.streams.compute, TensorView(reinterpret_cast<float*>(slot->data), {n}));
  return s.gradient_views(unit, slot->data);
}

void ParameterManager::reduce(int unit) {
  State& s = *state_;
  if (s.layout.elements(unit, true) == 0) return;
  ++s.counters.reductions;
  if (s.world == 1) return;
  GradientSlot* slot = s.gradient_slot_of(unit);
  LLMTRAIN_ASSERT(slot != nullptr, "unit '" + s.name(unit) + "' is reduced, but nobody asked for its gradients");
  const SpanScope wait(s.if_inline(s.reduce), *s.streams.compute, SpanKind::wait_reduce, s.name(unit));
  UnitShards& mine = s.shard(unit);
  slot->filled->record(*s.streams.compute);
  slot->filled->wait(*s.reduce);
  {
    const SpanScope span(s.traced(), *s.reduce, SpanKind::reduce, s.name(unit), mine.gradient.bytes());
    s.streams.reduce_communicator->reduce_scatter(*s.reduce, reinterpret_cast<const float*>(slot->data), mine.gradient.as<float>(),
                                                  static_cast<size_t>(mine.gradient.elements()), !mine.gradient_zero, s.name(unit));
  }
  slot->drained->record(*s.reduce);
  mine.gradient_zero = false;
  slot->unit = -1;
}

void ParameterManager::finish() {
  State& s = *state_;
  LLMTRAIN_ASSERT(s.schedule.done(), "a micro-step ends before its schedule");
  for (const auto& slots : s.gradient_slots)
    for (const GradientSlot& slot : slots) LLMTRAIN_ASSERT(slot.unit < 0, "the gradients of unit '" + s.name(slot.unit) + "' were never reduced");
  if (s.world > 1) {
    const SpanScope wait(s.spans, *s.streams.compute, SpanKind::wait_reduce, "the last reductions");
    s.reduce_done->record(*s.reduce);
    s.reduce_done->wait(*s.streams.compute);
  }
  s.spans->collect();  // so that few stay open
}

// ---- the optimizer's side

TensorView ParameterManager::master(int unit) { return state_->shard(unit).master; }

TensorView ParameterManager::gradient(int unit) {
  state_->make_gradient_zero(unit);
  return state_->shard(unit).gradient;
}

TensorView ParameterManager::frozen(int unit) { return state_->shards.at(static_cast<size_t>(unit)).compute[0]; }

TensorView ParameterManager::low(int unit) {
  const State& s = *state_;
  TensorView view = s.shards.at(static_cast<size_t>(unit)).compute[1];
  if (s.options.compute == s.options.master && s.options.training) view.data = nullptr;
  return view;
}

void ParameterManager::zero_gradients() {
  for (UnitShards& unit : state_->shards) unit.gradient_zero = true;
}

void ParameterManager::before_update() {
  State& s = *state_;
  if (s.world == 1) return;
  const SpanScope wait(s.spans, *s.streams.compute, SpanKind::wait_gather, "until all ranks have read");
  s.streams.gather_communicator->fence(*s.gather);
  s.gather_done->record(*s.gather);
  s.gather_done->wait(*s.streams.compute);
}

void ParameterManager::weights_changed() { state_->shards_changed(false); }

// All ranks have written their shards; from here on gathers bring the new values, and what lies in slots is old.
void ParameterManager::State::shards_changed(bool frozen_too) {
  if (world == 1) return;
  const SpanScope wait(if_inline(gather), *streams.compute, SpanKind::wait_gather, "until all ranks have written");
  compute_done->record(*streams.compute);
  compute_done->wait(*gather);
  streams.gather_communicator->fence(*gather);
  for (auto& slots : weight_slots) {
    for (WeightSlot& slot : slots) {
      if (slot.unit < 0 || (!frozen_too && layout.elements(slot.unit, true) == 0)) continue;
      LLMTRAIN_ASSERT(slot.holders == 0, "weights change while unit '" + name(slot.unit) + "' is held");
      slot.unit = -1;
    }
  }
}

}  // namespace llmtrain
