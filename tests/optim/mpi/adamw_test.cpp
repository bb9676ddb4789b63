// AdamW over shards against the formula in double, at any rank count.
#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <mutex>

#include "comm/context.h"
#include "core/philox.h"

namespace llmtrain {
namespace {

// Elements as functions of tensor and index, so that every rank can make its own.
float value_at(const std::string& tensor, int64_t element, uint32_t salt) {
  const auto bits = philox({static_cast<uint32_t>(element), salt, static_cast<uint32_t>(name_hash(tensor)), 1}, {1, 2});
  return 2 * philox_uniform(bits[0]) - 1;
}

const std::vector<UnitSpec>& units() {
  static const std::vector<UnitSpec> all = {
      {"embedding", {{"embed", {37, 8}, true, true}}},
      {"layer 0",
       {{"a.norm", {8}, true, false}, {"a.weight", {24, 8}, true, true}, {"a.bias", {24}, true, false}, {"b.weight", {8, 24}, true, true}}},
      {"frozen", {{"f.weight", {5, 7}, false, true}}},
      {"head", {{"norm", {8}, true, false}, {"head", {37, 8}, true, true}}}};
  return all;
}

// What a run over these units needs; one arena, planned by a first pass.
struct Machine {
  Machine(MpiRuntime& mpi, const AdamWOptions& options, DType compute) : group(make_rank_group(mpi)) {
    device = make_cpu_device(1);
    kernels = make_cpu_kernels(*device);
    gather_communicator = make_mpi_communicator(mpi, "gather", {});
    reduce_communicator = make_mpi_communicator(mpi, "reduce", {});
    stream = device->make_stream("compute", false);
    Arena planning;
    build(options, compute, planning);
    arena = std::make_unique<Arena>(*device, planning.total());
    build(options, compute, *arena);
    manager->fill_weights([](const ParameterSpec& p, int64_t begin, int64_t count, float* out) {
      for (int64_t i = 0; i < count; ++i) out[i] = value_at(p.name, begin + i, 0);
    });
    manager->weights_changed();
  }
  void build(const AdamWOptions& options, DType compute, Arena& to) {
    optimizer.reset();
    manager.reset();
    ParameterManagerOptions manager_options;
    manager_options.compute = compute;
    manager_options.master = options.states.master;
    manager_options.overlap = false;
    manager = std::make_unique<ParameterManager>(
        ParameterStreams{device.get(), kernels.get(), stream.get(), stream.get(), stream.get(), gather_communicator.get(), reduce_communicator.get()},
        ShardLayout(units(), group->size()), manager_options, to);
    optimizer = std::make_unique<AdamW>(*manager, *kernels, options, to);
  }
  void set_gradients(uint32_t step, float size) {
    for (int u = 0; u < 4; ++u) {
      for (const OwnedRange& range : manager->layout().owned(u, true, group->rank())) {
        const ParameterSpec& p = units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(range.parameter)];
        float* g = manager->gradient(u).as<float>() + range.shard_begin;
        for (int64_t i = 0; i < range.count; ++i) g[i] = size * value_at(p.name, range.tensor_begin + i, step);
      }
    }
  }
  std::unique_ptr<RankGroup> group;
  std::unique_ptr<Device> device;
  std::unique_ptr<Kernels> kernels;
  std::unique_ptr<Communicator> gather_communicator, reduce_communicator;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<ParameterManager> manager;
  std::unique_ptr<AdamW> optimizer;
};

MpiRuntime& mpi() {
  static MpiRuntime runtime(nullptr, nullptr, true);
  return runtime;
}

double norm_in_double(uint32_t step, float size) {
  double sum = 0;
  for (const UnitSpec& unit : units())
    for (const ParameterSpec& p : unit.parameters)
      for (int64_t i = 0; p.trained && i < p.shape.elements(); ++i) sum += std::pow(static_cast<double>(size * value_at(p.name, i, step)), 2);
  return std::sqrt(sum);
}

// One element through three steps of torch.optim.AdamW's formula.
double expected_weight(const ParameterSpec& p, int64_t element, const AdamWOptions& o, double lr, const std::vector<double>& scales, float size) {
  double w = value_at(p.name, element, 0), m = 0, v = 0;
  for (size_t i = 0; i < scales.size(); ++i) {
    const double g = static_cast<double>(size * value_at(p.name, element, static_cast<uint32_t>(i + 1))) * scales[i], t = static_cast<double>(i + 1);
    if (p.decay || o.decay_everything) w -= lr * o.weight_decay * w;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    w -= lr / (1 - std::pow(o.beta1, t)) * m / (std::sqrt(v) / std::sqrt(1 - std::pow(o.beta2, t)) + o.epsilon);
  }
  return w;
}

void check_three_steps(float size, DType compute, bool decay_everything = false) {
  AdamWOptions o;
  o.decay_everything = decay_everything;
  o.weight_decay = 0.1;
  o.max_grad_norm = 1.0;
  const double lr = 0.01;
  Machine machine(mpi(), o, compute);
  std::vector<double> scales;
  for (uint32_t step = 1; step <= 3; ++step) {
    machine.set_gradients(step, size);
    const AdamW::Result r = machine.optimizer->step(lr, *machine.stream, *machine.reduce_communicator);
    const double norm = norm_in_double(step, size);
    EXPECT_TRUE(r.applied);
    EXPECT_NEAR(r.grad_norm, norm, 1e-12 * norm);
    scales.push_back(std::min(1.0, 1.0 / (norm + 1e-6)));
    for (int u : {0, 1, 3})
      for (const OwnedRange& range : machine.manager->layout().owned(u, true, machine.group->rank()))
        for (int64_t i = 0; i < range.count; ++i)
          ASSERT_EQ(machine.manager->gradient(u).as<float>()[range.shard_begin + i], 0.0f) << "gradients are zeroed";
  }
  machine.manager->read_weights([&](const ParameterSpec& p, int64_t begin, int64_t count, const float* values) {
    for (int64_t i = 0; i < count; ++i) {
      const double want = p.trained ? expected_weight(p, begin + i, o, lr, scales, size) : value_at(p.name, begin + i, 0);
      // Weights are up to 1 and three steps move them by up to 0.03: float32 rounds each of ~10 operations a step by 2^-24 of the value. A frozen
      // weight is only kept in the compute type.
      const double tolerance = p.trained                   ? 3 * 10 * std::ldexp(1.0, -24) * (std::abs(want) + 0.03)
                               : compute == DType::float32 ? 0
                                                           : std::ldexp(std::abs(want), -8);
      ASSERT_NEAR(values[i], want, tolerance) << p.name << " " << begin + i;
    }
  });
}

TEST(AdamW, ThreeStepsEqualTheFormulaWithClipping) { check_three_steps(1.0f, DType::float32); }
TEST(AdamW, ThreeStepsEqualTheFormulaWithoutClipping) { check_three_steps(0.01f, DType::float32); }
TEST(AdamW, DecayOfNormsAndBiasesUnderDeepSpeedsOptimizerSection) { check_three_steps(0.01f, DType::float32, true); }
TEST(AdamW, MastersStayFloat32UnderBfloat16) { check_three_steps(1.0f, DType::bfloat16); }

float widened(const TensorView& states, int64_t i) {
  return states.dtype == DType::float32 ? states.as<float>()[i] : static_cast<float>(states.as<bfloat16>()[i]);
}

// One element, kept as either type.
struct Element {
  float wide;
  bfloat16 narrow;
  DType dtype;
  Element(DType type, float x) : wide(x), narrow(x), dtype(type) {}
  TensorView view() { return dtype == DType::float32 ? TensorView(&wide, {1}) : TensorView(&narrow, {1}); }
  float value() { return widened(view(), 0); }
};

// States in bfloat16 are rounded by random bits of the element, so every rank count gives the bits of this loop, which takes single elements by their place
// in the whole array. (The kernel itself, and its bits, are compared with the formula in tests/kernels.)
void check_stochastic_states(const StateTypes& states) {
  AdamWOptions o;
  o.weight_decay = 0.1;
  o.max_grad_norm = 0;
  o.states = states;
  o.seed = 0x123456789abcdefull;
  const float lr = 0.01f;
  Machine machine(mpi(), o, DType::bfloat16);
  for (uint32_t step = 1; step <= 4; ++step) {
    machine.set_gradients(step, 1.0f);
    ASSERT_TRUE(machine.optimizer->step(lr, *machine.stream, *machine.reduce_communicator).applied);
  }
  int64_t moved = 0;
  for (int u : {0, 1, 3}) {
    const int64_t shard_begin = machine.manager->layout().shard_elements(u, true) * machine.group->rank();
    for (const OwnedRange& range : machine.manager->layout().owned(u, true, machine.group->rank())) {
      const ParameterSpec& spec = units()[static_cast<size_t>(u)].parameters[static_cast<size_t>(range.parameter)];
      for (int64_t i = 0; i < range.count; ++i) {
        const int64_t at = range.shard_begin + i, element = shard_begin + at;
        Element p(states.master, value_at(spec.name, range.tensor_begin + i, 0)), m(states.moments, 0), v(states.moments, 0);
        const float first = p.value();
        for (uint32_t step = 1; step <= 4; ++step) {
          Element gradient(DType::float32, value_at(spec.name, range.tensor_begin + i, step));
          machine.kernels->adamw(*machine.stream, p.view(), gradient.view(), m.view(), v.view(), TensorView(),
                                 {lr, 0.9f, 0.999f, 1e-8f, spec.decay ? 0.1f : 0.0f, step, 1.0f, o.seed, static_cast<uint32_t>(u), element});
        }
        ASSERT_EQ(widened(machine.optimizer->first_moment(u), at), m.value()) << spec.name << " " << i;
        ASSERT_EQ(widened(machine.optimizer->second_moment(u), at), v.value()) << spec.name << " " << i;
        ASSERT_EQ(widened(machine.manager->master(u), at), p.value()) << spec.name << " " << i;
        moved += p.value() != first;
      }
    }
  }
  EXPECT_GT(moved, 0);
}

TEST(AdamW, MomentsInBfloat16DoNotDependOnTheNumberOfRanks) { check_stochastic_states({DType::float32, DType::bfloat16}); }
TEST(AdamW, WeightsAndMomentsInBfloat16DoNotDependOnTheNumberOfRanks) { check_stochastic_states({DType::bfloat16, DType::bfloat16}); }

TEST(AdamW, AGradientThatIsNotFiniteChangesNothingOnAnyRank) {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    AdamWOptions o;
    o.weight_decay = 0.1;
    Machine machine(mpi(), o, DType::float32);
    machine.set_gradients(1, 1.0f);
    if (machine.group->rank() == machine.group->size() - 1) machine.manager->gradient(1).as<float>()[0] = poison;
    const AdamW::Result r = machine.optimizer->step(0.01, *machine.stream, *machine.reduce_communicator);
    EXPECT_FALSE(r.applied);
    EXPECT_FALSE(std::isfinite(r.grad_norm));
    EXPECT_EQ(r.origin, "layer 0");
    EXPECT_EQ(machine.optimizer->steps_done(), 0);
    machine.manager->read_weights([&](const ParameterSpec& p, int64_t begin, int64_t count, const float* values) {
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(values[i], value_at(p.name, begin + i, 0)) << p.name;
    });
    // The next step is as if nothing had been.
    machine.set_gradients(1, 1.0f);
    EXPECT_TRUE(machine.optimizer->step(0.01, *machine.stream, *machine.reduce_communicator).applied);
  }
}

TEST(AdamW, NoClippingWhenMaxGradNormIsZero) {
  AdamWOptions o;
  o.max_grad_norm = 0;
  Machine machine(mpi(), o, DType::float32);
  machine.set_gradients(1, 1.0f);
  EXPECT_TRUE(machine.optimizer->step(0.01, *machine.stream, *machine.reduce_communicator).applied);
  machine.manager->read_weights([&](const ParameterSpec& p, int64_t begin, int64_t count, const float* values) {
    for (int64_t i = 0; p.trained && i < count; ++i) {
      const double g = value_at(p.name, begin + i, 1), w = value_at(p.name, begin + i, 0);
      // The first step of Adam is lr * g / (|g| + eps), whatever the size of g.
      ASSERT_NEAR(values[i], w - 0.01 * g / (std::abs(g) + o.epsilon), 1e-6) << p.name;
    }
  });
}

}  // namespace
}  // namespace llmtrain
