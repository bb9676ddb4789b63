// ParameterManager over ranks: a toy model with a random schedule against the same computation in one process, residency, counted bytes, and the same
// bits whatever the prefetch depth, overlap and spread over nodes.
//
// The toy: y = sum over uses of <w_unit, a(use, element, rank)>; its gradient with respect to w is a. The optimizer subtracts a multiple of the
// summed gradient. Every value follows from its indices, so that the expected weights can be had without communication.
#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "comm/context.h"
#include "zero/parameter_manager.h"

namespace llmtrain {
namespace {

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr);
  return runtime;
}

std::vector<UnitSpec> units() {
  std::vector<UnitSpec> all;
  all.push_back({"embed", {{"embed.weight", {997, 16}, true, true}}});
  for (int l = 0; l < 6; ++l) {
    const std::string n = "layers." + std::to_string(l);
    all.push_back({n, {{n + ".q", {16, 16}, true, true}, {n + ".base", {31, 70}, l % 2 == 0, true}, {n + ".norm", {16}, true, false}}});
  }
  all.push_back({"adapterless", {{"frozen.weight", {40, 16}, false, true}}});
  all.push_back({"head", {{"norm", {16}, true, false}, {"lm_head.weight", {1003, 16}, true, true}}});
  return all;
}
constexpr int kUnits = 9;

// Forward through all units, backward through all but the embedding's gather, with the embedding (tied weights) used at the head too.
std::vector<int> model_uses() {
  std::vector<int> uses;
  for (int u = 0; u < kUnits; ++u) uses.push_back(u);
  for (int u = kUnits - 1; u >= 0; --u) uses.push_back(u);
  return uses;
}

float initial(int unit, int parameter, int64_t i) {
  return static_cast<float>((unit * 131 + parameter * 17 + static_cast<int>(i % 1009)) % 256) / 64.0f - 2.0f;
}
// Few bits each, but sums of them over ranks and steps round in float32.
float slope(int step, int use, int rank, int64_t i) {
  return static_cast<float>((step * 37 + use * 101 + rank * 53 + static_cast<int>(i % 4001) * 7) % 8191) * 1.37e-4f - 0.5f;
}

struct ToySetup {
  DType compute = DType::float32;
  int depth = 1;
  bool overlap = true;
  NodeOptions nodes;
};

// Everything that a rank needs to run the toy.
class ToyRun {
 public:
  explicit ToyRun(const ToySetup& setup) : setup_(setup) {
    gather_comm_ = make_mpi_communicator(mpi(), "gather", setup.nodes);
    reduce_comm_ = make_mpi_communicator(mpi(), "reduce", setup.nodes);
    streams_ = {device_.get(), kernels_.get(), compute_.get(), gather_.get(), reduce_.get(), gather_comm_.get(), reduce_comm_.get()};
    ParameterManagerOptions options;
    options.compute = setup.compute;
    options.prefetch_depth = setup.depth;
    options.overlap = setup.overlap;
    const ShardLayout layout(units(), mpi().size());
    { ParameterManager planned(streams_, layout, options, plan_); }
    const size_t before = gather_comm_->bytes_registered() + reduce_comm_->bytes_registered();
    arena_ = std::make_unique<Arena>(*device_, plan_.total());
    manager_ = std::make_unique<ParameterManager>(streams_, layout, options, *arena_);
    registered_ = gather_comm_->bytes_registered() + reduce_comm_->bytes_registered() - before;
    manager_->fill_weights([](const ParameterSpec& spec, int64_t begin, int64_t count, float* out) {
      const auto [unit, parameter] = find(spec.name);
      for (int64_t i = 0; i < count; ++i) out[i] = initial(unit, parameter, begin + i);
    });
  }
  ~ToyRun() {
    manager_.reset();
    MPI_Barrier(MPI_COMM_WORLD);  // nobody unmaps what another still reads
  }

  static std::pair<int, int> find(const std::string& name) {
    const auto all = units();
    for (int u = 0; u < kUnits; ++u)
      for (size_t p = 0; p < all[static_cast<size_t>(u)].parameters.size(); ++p)
        if (all[static_cast<size_t>(u)].parameters[p].name == name) return {u, static_cast<int>(p)};
    return {-1, -1};
  }

  float weight(const TensorView& w, int64_t i) const {
    return setup_.compute == DType::float32 ? w.as<float>()[i] : static_cast<float>(w.as<bfloat16>()[i]);
  }

  // One micro-step over `uses`; in its second half (backward) gradients are made and reduced. Returns the sum of all weights seen, in order.
  double micro_step(const std::vector<int>& uses, int step, size_t backward_from) {
    double seen = 0;
    manager_->begin(uses);
    for (size_t use = 0; use < uses.size(); ++use) {
      const int unit = uses[use];
      const UnitWeights w = manager_->acquire(unit);
      for (const TensorView& p : w.parameters)
        for (int64_t i = 0; i < p.elements(); ++i)
          seen += static_cast<double>(weight(p, i)) * static_cast<double>(1 + (i + static_cast<int64_t>(use)) % 7);
      if (use >= backward_from) {
        const UnitGradients g = manager_->gradients(unit);
        for (size_t p = 0; p < g.parameters.size(); ++p)
          for (int64_t i = 0; g.parameters[p] && i < g.parameters[p].elements(); ++i)
            g.parameters[p].as<float>()[i] += slope(step, static_cast<int>(use), manager_->rank(), i + static_cast<int64_t>(p) * 13);
        manager_->reduce(unit);
      }
      manager_->release(unit);
    }
    manager_->finish();
    return seen;
  }

  void update() {
    manager_->before_update();
    for (int u = 0; u < kUnits; ++u) {
      const TensorView master = manager_->master(u), gradient = manager_->gradient(u), low = manager_->low(u);
      for (int64_t i = 0; i < master.elements(); ++i) {
        master.as<float>()[i] -= 0.01f * gradient.as<float>()[i];
        if (low) low.as<bfloat16>()[i] = bfloat16(master.as<float>()[i]);
      }
    }
    manager_->weights_changed();
    manager_->zero_gradients();
  }

  // All masters of this rank, in order.
  std::vector<float> masters() const {
    std::vector<float> all;
    manager_->read_weights([&](const ParameterSpec&, int64_t, int64_t count, const float* v) { all.insert(all.end(), v, v + count); });
    return all;
  }

  ParameterManager& manager() { return *manager_; }
  const Arena& arena() const { return *arena_; }
  const Arena& plan() const { return plan_; }
  size_t registered() const { return registered_; }
  Communicator& gather_comm() { return *gather_comm_; }

 private:
  ToySetup setup_;
  std::unique_ptr<Device> device_ = make_cpu_device(1);
  std::unique_ptr<Kernels> kernels_ = make_cpu_kernels(*device_);
  std::unique_ptr<Communicator> gather_comm_, reduce_comm_;
  std::unique_ptr<Stream> compute_ = device_->make_stream("compute", false), gather_ = device_->make_stream("gather", true),
                          reduce_ = device_->make_stream("reduce", true);
  ParameterStreams streams_;
  Arena plan_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<ParameterManager> manager_;
  size_t registered_ = 0;
};

// The same in one process: weights whole, gradients added over ranks in their order, then into the accumulator.
class Expected {
 public:
  Expected() {
    const auto all = units();
    for (int u = 0; u < kUnits; ++u) {
      for (size_t p = 0; p < all[static_cast<size_t>(u)].parameters.size(); ++p) {
        Tensor t{u, all[static_cast<size_t>(u)].parameters[p], {}, {}};
        for (int64_t i = 0; i < t.spec.shape.elements(); ++i) t.weights.push_back(initial(u, static_cast<int>(p), i));
        t.gradient.resize(t.weights.size());
        t.index = static_cast<int>(p);
        tensors_.push_back(std::move(t));
      }
    }
  }
  double micro_step(const std::vector<int>& uses, int step, size_t backward_from, DType compute) {
    double seen = 0;
    for (size_t use = 0; use < uses.size(); ++use) {
      for (Tensor& t : tensors_) {
        if (t.unit != uses[use]) continue;
        for (size_t i = 0; i < t.weights.size(); ++i) {
          const float w = compute == DType::float32 ? t.weights[i] : static_cast<float>(bfloat16(t.weights[i]));
          seen += static_cast<double>(w) * static_cast<double>(1 + (i + use) % 7);
          if (use < backward_from || !t.spec.trained) continue;
          float sum = 0;
          for (int q = 0; q < mpi().size(); ++q) {
            const float g = slope(step, static_cast<int>(use), q, static_cast<int64_t>(i) + t.index * 13);
            sum = q == 0 ? 0.0f + g : sum + g;
          }
          t.gradient[i] += sum;
        }
      }
    }
    return seen;
  }
  void update() {
    for (Tensor& t : tensors_) {
      for (size_t i = 0; t.spec.trained && i < t.weights.size(); ++i) t.weights[i] -= 0.01f * t.gradient[i];
      std::fill(t.gradient.begin(), t.gradient.end(), 0.0f);
    }
  }
  float weight(const std::string& name, int64_t i) const {
    for (const Tensor& t : tensors_)
      if (t.spec.name == name) return t.weights[static_cast<size_t>(i)];
    return NAN;
  }

 private:
  struct Tensor {
    int unit;
    ParameterSpec spec;
    std::vector<float> weights, gradient;
    int index = 0;
  };
  std::vector<Tensor> tensors_;
};

std::vector<ToySetup> setups() {
  std::vector<ToySetup> all;
  for (const DType compute : {DType::float32, DType::bfloat16})
    for (const int depth : {1, 2, 4})
      for (const bool overlap : {true, false}) {
        ToySetup s;
        s.compute = compute;
        s.depth = depth;
        s.overlap = overlap;
        all.push_back(s);
      }
  for (int k = 1; k <= 3; ++k) {
    ToySetup s;
    s.nodes.ranks_per_node = k;
    all.push_back(s);
  }
  ToySetup s;
  s.nodes.shared_memory = false;
  all.push_back(s);
  return all;
}

TEST(ParameterManager, ToyTrainingEqualsOneProcessBitForBitOnEverySetup) {
  for (const ToySetup& setup : setups()) {
    ToyRun run(setup);
    Expected expected;
    std::mt19937 random(7);
    for (int step = 0; step < 3; ++step) {
      for (int micro = 0; micro < 2; ++micro) {
        std::vector<int> uses = model_uses();
        size_t backward_from = kUnits;
        if (step == 2) {  // any order at all
          for (int& u : uses) u = static_cast<int>(random() % kUnits);
          backward_from = random() % uses.size();
        }
        const double seen = run.micro_step(uses, step * 2 + micro, backward_from);
        EXPECT_EQ(seen, expected.micro_step(uses, step * 2 + micro, backward_from, setup.compute)) << "depth " << setup.depth << " step " << step;
      }
      run.update();
      expected.update();
    }
    int64_t wrong = 0;
    run.manager().read_weights([&](const ParameterSpec& spec, int64_t begin, int64_t count, const float* v) {
      // A frozen tensor has no master: what is read is the compute-type copy.
      for (int64_t i = 0; i < count; ++i) {
        const float w = expected.weight(spec.name, begin + i);
        wrong += v[i] != (spec.trained || setup.compute == DType::float32 ? w : static_cast<float>(bfloat16(w)));
      }
    });
    EXPECT_EQ(wrong, 0) << name_of(setup.compute) << " depth " << setup.depth << " overlap " << setup.overlap << " ranks per node "
                        << setup.nodes.ranks_per_node;
  }
}

TEST(ParameterManager, NoRankAllocatesMoreThanItsShardAndItsSlots) {
  const int world = mpi().size();
  if (world == 1) return;
  for (const DType compute : {DType::float32, DType::bfloat16}) {
    for (const bool overlap : {true, false}) {
      ToySetup setup;
      setup.compute = compute;
      setup.overlap = overlap;
      ToyRun run(setup);
      const ParameterManager::Counters& c = run.manager().counters();
      EXPECT_EQ(run.arena().groups(), run.plan().groups());
      const ShardLayout layout(units(), world);
      // Bound computed from the model alone: a rank's part of what is stored, each array rounded up to 64 elements a rank and 256 bytes.
      size_t shards = 0;
      for (int u = 0; u < kUnits; ++u) {
        const size_t trained = static_cast<size_t>((layout.elements(u, true) + world - 1) / world),
                     frozen = static_cast<size_t>((layout.elements(u, false) + world - 1) / world);
        const size_t low = size_of(compute), rounding = 64 * 4 + 256;
        shards += (trained + frozen) * low + 2 * rounding + (compute == DType::float32 ? 0 : trained * 4 + rounding) + trained * 4 + rounding;
      }
      EXPECT_LE(c.shard_bytes, shards);
      // Slots: two of a block (depth 1), one each of embedding and head (similar sizes share a class of two) and one of the frozen unit.
      const size_t block = (16 * 16 + 31 * 70 + 16), large = 1003 * 16 + 16, frozen = 640, padding = 2 * (static_cast<size_t>(world) * 64);
      EXPECT_LE(c.slot_bytes, (2 * (block + padding) + 2 * (large + padding) + 2 * (frozen + padding)) * size_of(compute) + 12 * 256);
      EXPECT_LE(c.gradient_slot_bytes, (4 * (block + padding) + 2 * (large + padding)) * sizeof(float) + 12 * 256);
      // What the arena and the communicators really handed out is exactly what was counted; the communicator rounds an allocation up to pages.
      const size_t counted = c.shard_bytes + c.slot_bytes + c.gradient_slot_bytes;
      EXPECT_EQ(run.arena().total_with_elsewhere(), counted);
      EXPECT_LE(run.arena().total() + run.registered(), counted + 2 * 4096);
    }
  }
}

TEST(ParameterManager, TurnFromForwardToBackwardGathersNothingAgain) {
  if (mpi().size() == 1) return;
  for (const int depth : {1, 2, 4}) {
    for (const bool overlap : {true, false}) {
      ToySetup setup;
      setup.depth = depth;
      setup.overlap = overlap;
      ToyRun run(setup);
      ParameterManager& manager = run.manager();
      // Blocks 1, 3, 5 have a trained base; 2, 4, 6 a frozen one: all of a similar size, one class. depth + 1 slots for six blocks.
      run.micro_step({1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1}, 0, 6);
      // Forward 6 gathers; the last depth + 1 are still there at the turn, the others come again.
      EXPECT_EQ(manager.counters().gathers, 6 + std::max(0, 6 - (depth + 1))) << "depth " << depth;
      const int64_t before = manager.counters().gathers;
      run.micro_step({0, 8, 8, 0}, 1, 2);
      EXPECT_EQ(manager.counters().gathers, before + 2);  // embedding and head have slots of their own
      run.micro_step({0, 8, 8, 0}, 2, 2);
      EXPECT_EQ(manager.counters().gathers, before + 2);  // accumulation uses what is there
      run.update();
      run.micro_step({0, 8, 8, 0}, 3, 2);
      EXPECT_EQ(manager.counters().gathers, before + 4);  // new weights
    }
  }
}

// A rank that is late gathers what the others have not yet overwritten: before_update() holds them. No reduction synchronises the ranks here.
TEST(ParameterManager, FastRankDoesNotWriteShardsThatASlowOneStillGathers) {
  for (const bool overlap : {true, false}) {
    ToySetup setup;
    setup.overlap = overlap;
    ToyRun run(setup);
    ParameterManager& manager = run.manager();
    manager.fill_weights([](const ParameterSpec&, int64_t, int64_t count, float* out) { std::fill(out, out + count, 0.0f); });
    for (int step = 0; step < 5; ++step) {
      double seen = 0;
      manager.begin({8, 0});
      for (int unit : {8, 0}) {
        if (manager.rank() == step % mpi().size()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        const UnitWeights w = manager.acquire(unit);
        for (int64_t i = 0; i < w.parameters[0].elements(); ++i) seen += static_cast<double>(w.parameters[0].as<float>()[i]);
        manager.release(unit);
      }
      manager.finish();
      EXPECT_EQ(seen, step * static_cast<double>(16 + 997 * 16)) << "rank " << manager.rank();
      manager.before_update();
      for (int unit : {8, 0})
        for (int64_t i = 0; i < manager.master(unit).elements(); ++i) manager.master(unit).as<float>()[i] = static_cast<float>(step + 1);
      manager.weights_changed();
    }
  }
}

TEST(ParameterManager, FrozenUnitsStayWhenTrainedWeightsChange) {
  if (mpi().size() == 1) return;
  ToyRun run(ToySetup{});
  run.micro_step({7, 7}, 0, 1);
  EXPECT_EQ(run.manager().counters().gathers, 1);
  run.update();
  run.micro_step({7, 7}, 1, 1);
  EXPECT_EQ(run.manager().counters().gathers, 1);
}

TEST(ParameterManager, TiedUnitMayBeHeldTwiceAndReducedTwice) {
  ToyRun run(ToySetup{});
  ParameterManager& manager = run.manager();
  manager.begin({0, 1, 0, 1});
  const UnitWeights first = manager.acquire(0);
  manager.acquire(1);
  const UnitWeights second = manager.acquire(0);
  EXPECT_EQ(first.parameters[0].data, second.parameters[0].data);
  manager.gradients(0).parameters[0].as<float>()[3] += 1;
  manager.reduce(0);
  manager.release(0);
  manager.release(1);
  manager.acquire(1);
  EXPECT_EQ(second.parameters[0].as<float>()[3], initial(0, 0, 3));  // still held once
  manager.gradients(0).parameters[0].as<float>()[3] += 2;
  manager.reduce(0);
  manager.release(0);
  manager.release(1);
  manager.finish();
  if (manager.rank() == 0) {
    EXPECT_EQ(manager.gradient(0).as<float>()[3], 3.0f * static_cast<float>(mpi().size()));
  }
}

TEST(ParameterManager, GradientsAskedForTwiceBeforeReducingAreTheSameMemory) {
  ToyRun run(ToySetup{});
  ParameterManager& manager = run.manager();
  manager.begin({});
  manager.gradients(3).parameters[0].as<float>()[1] += 1;
  manager.gradients(3).parameters[0].as<float>()[1] += 1;
  manager.reduce(3);
  manager.finish();
  if (manager.rank() == 0) {
    EXPECT_EQ(manager.gradient(3).as<float>()[1], 2.0f * static_cast<float>(mpi().size()));
  }
}

}  // namespace
}  // namespace llmtrain
