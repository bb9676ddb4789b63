// Cross entropy and AdamW against the formulas in double; the random number generator against its published vectors.
#include <algorithm>
#include <limits>

#include "kernels/kernels_fixture.h"
#include "kernels/math/adamw.h"
#include "kernels/math/bf16.h"
#include "kernels/math/philox.h"

namespace llmtrain::testing_support {
namespace {

class LossAndOptimizer : public KernelsFixture {};

TEST_F(LossAndOptimizer, CrossEntropyAndItsGradientAreTheFormula) {
  for (DType type : kComputeTypes) {
    for (auto [tokens, vocabulary] : {std::array<int64_t, 2>{1, 1}, {1, 2}, {9, 37}, {20, 1000}, {4, 16411}, {3, 24584}, {2, 40001}}) {
      const Tensor logits = random_tensor(type, {tokens, vocabulary}, 4, normal(20));
      std::vector<int32_t> labels;
      for (int64_t t = 0; t < tokens; ++t) labels.push_back(t % 4 == 2 ? -100 : static_cast<int32_t>(between(0, vocabulary - 1)));
      Tensor label = integers(labels), losses(DType::float32, {tokens}), gradient = logits;
      const double scale = static_cast<double>(static_cast<float>(std::abs(normal(0.1)) + 0.01));
      std::vector<double> want, bound, dwant, dbound;
      for (int64_t t = 0; t < tokens; ++t) {
        const int32_t target = labels[static_cast<size_t>(t)];
        double largest = -1e30, sum = 0;
        for (int64_t v = 0; v < vocabulary; ++v) largest = std::max(largest, logits.get(t * vocabulary + v));
        for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(logits.get(t * vocabulary + v) - largest);
        want.push_back(target == -100 ? 0 : std::log(sum) + largest - logits.get(t * vocabulary + target));
        // The sum: V / 16 float32 additions a lane at most, exp 3 eps and its rounded argument up to 40 eps; then the stored loss.
        const double relative = (static_cast<double>(vocabulary) / 4 + 50) * kEps;
        bound.push_back(target == -100 ? 0 : relative + 2 * kEps * std::abs(want.back()));
        for (int64_t v = 0; v < vocabulary; ++v) {
          const double p = std::exp(logits.get(t * vocabulary + v) - largest) / sum;
          dwant.push_back(target == -100 ? 0 : (p - (v == target ? 1 : 0)) * scale);
          dbound.push_back(target == -100 ? 0 : store(dwant.back(), type) * 1.01 + (relative + 50 * kEps) * p * scale + 1e-44);
        }
      }
      kernels().cross_entropy(stream(), gradient.view(), label.view(), static_cast<float>(scale), false, losses.view());
      EXPECT_TRUE(gradient.same_bits(logits)) << "without a gradient the logits stay";
      expect_close(losses, want, bound, std::string("cross_entropy ") + name_of(type));
      Tensor again(DType::float32, {tokens});
      kernels().cross_entropy(stream(), gradient.view(), label.view(), static_cast<float>(scale), true, again.view());
      EXPECT_TRUE(again.same_bits(losses));
      expect_close(gradient, dwant, dbound, std::string("gradient of cross_entropy ") + name_of(type));
    }
  }
}

TEST_F(LossAndOptimizer, CrossEntropyTellsNaNAndBearsMinusInfinity) {
  Tensor logits = random_tensor(DType::float32, {2, 100});
  logits.set(13, std::nan(""));
  for (int64_t v = 150; v < 200; ++v) logits.set(v, -INFINITY);
  Tensor label = integers({5, 5}), losses(DType::float32, {2});
  kernels().cross_entropy(stream(), logits.view(), label.view(), 1.0f, false, losses.view());
  EXPECT_TRUE(std::isnan(losses.get(0)));
  EXPECT_TRUE(std::isfinite(losses.get(1)));
}

TEST_F(LossAndOptimizer, AdamWIsTorchsFormula) {
  for (DType type : kComputeTypes) {
    for (int64_t n : {1, 17, 5003}) {
      Tensor p = random_tensor(DType::float32, {n}), m = random_tensor(DType::float32, {n}, 0.1), v(DType::float32, {n}), low(type, {n});
      for (int64_t i = 0; i < n; ++i) v.set(i, std::abs(normal(0.1)));
      for (int64_t step : {1, 2, 1000}) {
        const Tensor grad = random_tensor(DType::float32, {n});
        const AdamWStep s{
            .learning_rate = 0.1f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-3f, .weight_decay = 0.2f, .step = step, .grad_scale = 0.7f};
        const double lr = static_cast<double>(s.learning_rate), b1 = static_cast<double>(s.beta1), b2 = static_cast<double>(s.beta2);
        std::vector<double> pw, mw, vw, pb, mb, vb;
        for (int64_t i = 0; i < n; ++i) {
          const double g = grad.get(i) * static_cast<double>(s.grad_scale);
          mw.push_back(b1 * m.get(i) + (1 - b1) * g);
          mb.push_back(4 * kEps * (std::abs(b1 * m.get(i)) + std::abs((1 - b1) * g)));
          vw.push_back(b2 * v.get(i) + (1 - b2) * g * g);
          vb.push_back(6 * kEps * vw.back());
          const double decayed = p.get(i) * (1 - lr * static_cast<double>(s.weight_decay));
          const double denominator = std::sqrt(vw.back()) / std::sqrt(1 - std::pow(b2, static_cast<double>(step))) + static_cast<double>(s.epsilon);
          const double rate = lr / (1 - std::pow(b1, static_cast<double>(step)));
          pw.push_back(decayed - rate * mw.back() / denominator);
          pb.push_back(3 * kEps * std::abs(decayed) + rate / denominator * (mb.back() + 10 * kEps * std::abs(mw.back())) +
                       kEps * std::abs(pw.back()));
        }
        Tensor g = grad;
        kernels().adamw(stream(), p.view(), g.view(), m.view(), v.view(), low.view(), s);
        expect_close(m, mw, mb, "m");
        expect_close(v, vw, vb, "v");
        expect_close(p, pw, pb, "master");
        Tensor rounded(type, {n});
        rounded.assign(p.values());
        EXPECT_TRUE(low.same_bits(rounded)) << "low is the rounded master";
      }
    }
  }
}

TEST_F(LossAndOptimizer, AdamWLeavesOutTheLowCopyWhereThereIsNone) {
  Tensor p = random_tensor(DType::float32, {100}), m(DType::float32, {100}), v(DType::float32, {100}), g = random_tensor(DType::float32, {100});
  const Tensor before = p;
  kernels().adamw(stream(), p.view(), g.view(), m.view(), v.view(), TensorView(), {0.1f, 0.9f, 0.99f, 1e-8f, 0, 1, 1});
  // First step from zero states: m / (1 - b1) = g, sqrt(v / (1 - b2)) = |g|, so every element moves by the rate.
  // Less epsilon's part, 1e-8 of |g|; and roundings of numbers below 8 (2^-22 each) and of a quotient near 1.
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_NEAR(p.get(i), before.get(i) - 0.1 * (g.get(i) > 0 ? 1 : -1), 2e-6 + 0.1 * 1e-8 / std::abs(g.get(i))) << g.get(i);
  }
}

// AdamW whose states are (partly) bfloat16. One element of a step in double, and the error of the kernel's float32 arithmetic.
struct StepReference {
  double p, m, v, p_bound, m_bound, v_bound;
};
StepReference adamw_reference(const AdamWStep& s, double p, double g, double m, double v) {
  const double lr = static_cast<double>(s.learning_rate), b1 = static_cast<double>(s.beta1), b2 = static_cast<double>(s.beta2);
  g *= static_cast<double>(s.grad_scale);
  StepReference r{};
  r.m = b1 * m + (1 - b1) * g;
  r.m_bound = 4 * kEps * (std::abs(b1 * m) + std::abs((1 - b1) * g));
  r.v = b2 * v + (1 - b2) * g * g;
  r.v_bound = 6 * kEps * r.v;
  const double decayed = p * (1 - lr * static_cast<double>(s.weight_decay));
  const double denominator = std::sqrt(r.v) / std::sqrt(1 - std::pow(b2, static_cast<double>(s.step))) + static_cast<double>(s.epsilon);
  const double rate = lr / (1 - std::pow(b1, static_cast<double>(s.step)));
  r.p = decayed - rate * r.m / denominator;
  r.p_bound = 3 * kEps * std::abs(decayed) + rate / denominator * (r.m_bound + 10 * kEps * std::abs(r.m)) + kEps * std::abs(r.p);
  return r;
}

// A stochastically rounded value is one of the two neighbours: less than 2^-7 of its size away (one unit in the last of 8 places).
double neighbour(double x, DType type) { return type == DType::bfloat16 ? std::abs(x) * 0x1p-7 + 0x1p-133 : 0; }

struct States {
  DType master, moments, low;  // low: float16 stands for none
};
const States kAllStates[] = {{DType::float32, DType::float32, DType::float16},   {DType::float32, DType::bfloat16, DType::float16},
                             {DType::float32, DType::bfloat16, DType::bfloat16}, {DType::float32, DType::bfloat16, DType::float32},
                             {DType::bfloat16, DType::bfloat16, DType::float16}, {DType::bfloat16, DType::float32, DType::float16}};

constexpr AdamWStep kStep{.learning_rate = 0.1f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-3f, .weight_decay = 0.2f, .step = 3,
                          .grad_scale = 0.7f, .seed = 0x123456789abcdefull, .stream = 5, .first_element = 0};

TEST_F(LossAndOptimizer, AdamWWithBfloat16StatesIsTheFormulaRoundedToANeighbour) {
  for (const States& types : kAllStates) {
    for (int64_t n : {1, 8, 17, 2051}) {
      for (int64_t first : {0, 7}) {
        Tensor p = random_tensor(types.master, {n}), m = random_tensor(types.moments, {n}, 0.1), v(types.moments, {n});
        Tensor grad = random_tensor(DType::float32, {n}), low(types.low == DType::float16 ? DType::float32 : types.low, {n});
        for (int64_t i = 0; i < n; ++i) v.set(i, std::abs(normal(0.1)));
        std::vector<double> want[3], bound[3];
        for (int64_t i = 0; i < n; ++i) {
          const StepReference r = adamw_reference(kStep, p.get(i), grad.get(i), m.get(i), v.get(i));
          const double wanted[] = {r.p, r.m, r.v}, errors[] = {r.p_bound, r.m_bound, r.v_bound};
          for (int k = 0; k < 3; ++k) {
            want[k].push_back(wanted[k]);
            bound[k].push_back(errors[k] + 1.01 * neighbour(wanted[k], k == 0 ? types.master : types.moments));
          }
        }
        AdamWStep step = kStep;
        step.first_element = first;
        const bool has_low = types.low != DType::float16;
        kernels().adamw(stream(), p.view(), grad.view(), m.view(), v.view(), has_low ? low.view() : TensorView(), step);
        expect_close(p, want[0], bound[0], "master");
        expect_close(m, want[1], bound[1], "m");
        expect_close(v, want[2], bound[2], "v");
        if (!has_low) continue;
        Tensor rounded(types.low, {n});
        rounded.assign(p.values());
        EXPECT_TRUE(low.same_bits(rounded)) << "low is the master rounded to nearest";
      }
    }
  }
}

// Which neighbour is taken follows from the published random numbers, on either backend: where rounding is all that happens (rate 0, no decay, betas
// that keep nothing or all), the arithmetic is exact and so are the expected bits.
TEST_F(LossAndOptimizer, AdamWRoundsByTheBitsOfSeedElementStepAndStream) {
  const int64_t n = 1000, first = 13;
  Tensor p = random_tensor(DType::bfloat16, {n}), m(DType::bfloat16, {n}), v(DType::bfloat16, {n}), g = random_tensor(DType::float32, {n});
  const Tensor before = p;
  const AdamWStep s{.learning_rate = 0, .beta1 = 0, .beta2 = 0, .epsilon = 1, .weight_decay = 0, .step = 9, .grad_scale = 1, .seed = 77, .stream = 3,
                    .first_element = first};
  kernels().adamw(stream(), p.view(), g.view(), m.view(), v.view(), TensorView(), s);
  EXPECT_TRUE(p.same_bits(before)) << "what bfloat16 can represent is not moved";
  for (int64_t i = 0; i < n; ++i) {
    const math::RoundingBits random = math::rounding_bits(s.seed, s.stream, s.step, first + i);
    const float gradient = g.view().as<float>()[i];
    ASSERT_EQ(m.view().as<uint16_t>()[i], math::stochastic_bf16(gradient, random.m)) << i;
    ASSERT_EQ(v.view().as<uint16_t>()[i], math::stochastic_bf16(gradient * gradient, random.v)) << i;
  }
}

TEST_F(LossAndOptimizer, AdamWDoesNotDependOnHowTheRangeIsCut) {
  const int64_t n = 531;
  for (const States& types : kAllStates) {
    const Tensor p0 = random_tensor(types.master, {n}), m0 = random_tensor(types.moments, {n}, 0.1), g0 = random_tensor(DType::float32, {n});
    Tensor v0(types.moments, {n});
    for (int64_t i = 0; i < n; ++i) v0.set(i, std::abs(normal(0.1)));
    const auto run = [&](const std::vector<int64_t>& cuts) {
      Tensor p = p0, m = m0, v = v0, g = g0;
      for (size_t k = 0; k + 1 < cuts.size(); ++k) {
        const auto part = [&](Tensor& t) {
          TensorView view = t.view();
          view.data = static_cast<char*>(view.data) + static_cast<size_t>(cuts[k]) * size_of(view.dtype);
          return view.first(cuts[k + 1] - cuts[k]);
        };
        AdamWStep step = kStep;
        step.first_element = 1000 + cuts[k];
        kernels().adamw(stream(), part(p), part(g), part(m), part(v), TensorView(), step);
      }
      return std::vector<Tensor>{p, m, v};
    };
    const std::vector<Tensor> whole = run({0, n}), cut = run({0, 16, 17, 100, 263, n});
    for (size_t k = 0; k < whole.size(); ++k) EXPECT_TRUE(whole[k].same_bits(cut[k])) << name_of(types.master) << " " << name_of(types.moments);
  }
}

TEST_F(LossAndOptimizer, StochasticRoundingIsRightOnTheAverage) {
  // The bits of n elements are n draws: the number of rounded-up ones is binomial, so 5 standard deviations miss once in 1.7 million runs for a fixed
  // input; seed and inputs are fixed here.
  const int64_t n = 200000;
  for (float fraction : {0.1f, 0.5f, 0.93f}) {
    const float low = 1.0f, step = 0x1p-7f, x = low + fraction * step;
    Tensor g(DType::float32, {n}), p(DType::float32, {n}), m(DType::bfloat16, {n}), v(DType::bfloat16, {n});
    for (int64_t i = 0; i < n; ++i) g.set(i, static_cast<double>(x));
    const AdamWStep s{.learning_rate = 0, .beta1 = 0, .beta2 = 0, .epsilon = 1, .weight_decay = 0, .step = 1, .grad_scale = 1, .seed = 4, .stream = 1,
                      .first_element = 0};
    kernels().adamw(stream(), p.view(), g.view(), m.view(), v.view(), TensorView(), s);
    double mean = 0, square_mean = 0;
    for (int64_t i = 0; i < n; ++i) {
      mean += m.get(i) / static_cast<double>(n);
      square_mean += v.get(i) / static_cast<double>(n);
    }
    const double deviation = 5 * 0.5 * static_cast<double>(step) / std::sqrt(static_cast<double>(n));
    EXPECT_NEAR(mean, static_cast<double>(x), deviation);
    EXPECT_NEAR(square_mean, static_cast<double>(x * x), deviation);
  }
}

TEST_F(LossAndOptimizer, StochasticRoundingKeepsWhatIsExactInfiniteOrNaN) {
  for (int i = 0; i < 65536; ++i) {  // every bfloat16
    const uint16_t bits = static_cast<uint16_t>(i);
    const float x = math::float_from_bf16(bits);
    const uint16_t rounded = math::stochastic_bf16(x, static_cast<uint32_t>(random_()));
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(math::float_from_bf16(rounded)));
    } else {
      ASSERT_EQ(rounded, bits);
    }
  }
  EXPECT_EQ(math::stochastic_bf16(std::numeric_limits<float>::max(), 0xffff), 0x7f80) << "past the largest number comes infinity";
  EXPECT_EQ(math::stochastic_bf16(math::bits_float(0x7f800001), 0), 0x7fc0) << "a NaN whose payload would be cut away stays one";
  for (double bad : {HUGE_VAL, -HUGE_VAL, std::nan("")}) {  // through the kernel
    Tensor p = random_tensor(DType::bfloat16, {16}), m(DType::bfloat16, {16}), v(DType::bfloat16, {16}), g(DType::float32, {16});
    g.set(3, bad);
    kernels().adamw(stream(), p.view(), g.view(), m.view(), v.view(), TensorView(), kStep);
    EXPECT_EQ(std::isnan(m.get(3)), std::isnan(bad));
    EXPECT_FALSE(std::isfinite(m.get(3)));
    EXPECT_FALSE(std::isfinite(v.get(3)));
    EXPECT_TRUE(std::isnan(p.get(3)));
    EXPECT_TRUE(std::isfinite(p.get(2)) && std::isfinite(p.get(4)));
  }
}

// Known answers of Philox4x32-10, from the authors' Random123 library (file kat_vectors).
TEST_F(LossAndOptimizer, PhiloxGivesThePublishedNumbers) {
  const auto words = [](const math::Philox4& p) { return std::vector<uint32_t>(p.x, p.x + 4); };
  EXPECT_EQ(words(math::philox4x32({{0, 0, 0, 0}}, 0, 0)), (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t all = 0xffffffff;
  EXPECT_EQ(words(math::philox4x32({{all, all, all, all}}, all, all)), (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(math::philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0)),
            (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_GT(math::uniform_open(0), 0.0f);
  EXPECT_LT(math::uniform_open(all), 1.0f);
}

TEST_F(LossAndOptimizer, ScalarBf16RoundsAsTheStorageType) {
  for (int i = 0; i < 100000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random_());
    const float f = math::bits_float(bits);
    ASSERT_EQ(math::bf16_from_float(f), bfloat16(f).bits);
  }
  EXPECT_EQ(math::float_from_bf16(0x3f80), 1.0f);
}

}  // namespace
}  // namespace llmtrain::testing_support
