// Cross entropy and AdamW against the formulas in double; the random number generator against its published vectors.
#include <algorithm>

#include "kernels/kernels_fixture.h"
#include "kernels/math/adamw.h"
#include "kernels/math/bf16.h"
#include "kernels/math/philox.h"

namespace llmtrain::testing_support {
namespace {

class LossAndOptimizer : public KernelsFixture {};

TEST_F(LossAndOptimizer, CrossEntropyAndItsGradientAreTheFormula) {
  for (DType type : kComputeTypes) {
    for (auto [tokens, vocabulary] : {std::array<int64_t, 2>{1, 1}, {1, 2}, {9, 37}, {20, 1000}, {4, 16411}}) {
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
  for (int64_t i = 0; i < 100; ++i) EXPECT_NEAR(p.get(i), before.get(i) - 0.1 * (g.get(i) > 0 ? 1 : -1), 2e-6);
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
