// The vector exponentials against double, for every instruction set that this processor has.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/vector_math_test.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

void exponentials(const float* x, float* natural, float* binary, int64_t n) {
  for_vectors(0, n, [&](int64_t i, auto lanes) HWY_ATTR {
    store(exp(load(x + i, lanes)), natural + i, lanes);
    store(exp2_small(load(x + i, lanes)), binary + i, lanes);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(exponentials);

namespace {

struct Exponentials {
  std::vector<float> x, natural, binary;
  explicit Exponentials(std::vector<float> at) : x(std::move(at)), natural(x.size()), binary(x.size()) {
    HWY_DYNAMIC_DISPATCH(exponentials)(x.data(), natural.data(), binary.data(), static_cast<int64_t>(x.size()));
  }
};

double ulps(float got, double want) {
  const float nearest = static_cast<float>(want);
  const double ulp =
      static_cast<double>(std::nextafter(std::abs(nearest), std::numeric_limits<float>::infinity())) - static_cast<double>(std::abs(nearest));
  return std::abs(static_cast<double>(got) - want) / ulp;
}

TEST(VectorMath, ExponentialsAreWithinOneAndAHalfUlp) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<float> natural_at, binary_at;
  for (int i = 0; i < 300000; ++i) {
    const float scale = std::exp2(std::uniform_real_distribution<float>(-20, 0)(random));
    natural_at.push_back(std::uniform_real_distribution<float>(-87.3f, 87.9f)(random) * scale);
    binary_at.push_back(std::uniform_real_distribution<float>(-125.9f, 0)(random) * scale);
  }
  const Exponentials natural(natural_at), binary(binary_at);
  double worst_natural = 0, worst_binary = 0;
  for (size_t i = 0; i < natural_at.size(); ++i) {
    worst_natural = std::max(worst_natural, ulps(natural.natural[i], std::exp(static_cast<double>(natural_at[i]))));
    worst_binary = std::max(worst_binary, ulps(binary.binary[i], std::exp2(static_cast<double>(binary_at[i]))));
  }
  EXPECT_LT(worst_natural, 1.5);
  EXPECT_LT(worst_binary, 1.5);
}

TEST(VectorMath, ExponentialsAtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Exponentials e({0.0f, -infinity, -1e30f, std::numeric_limits<float>::quiet_NaN(), 1e30f, infinity, -100.0f});
  EXPECT_EQ(e.natural[0], 1.0f);
  EXPECT_EQ(e.binary[0], 1.0f);
  for (size_t i : {1u, 2u}) {
    EXPECT_LT(e.natural[i], 1.1e-38f);
    EXPECT_GE(e.natural[i], 0.0f);
    EXPECT_LT(e.binary[i], 1.2e-38f);
    EXPECT_GE(e.binary[i], 0.0f);
  }
  EXPECT_TRUE(std::isnan(e.natural[3]) && std::isnan(e.binary[3]));
  for (size_t i : {4u, 5u}) EXPECT_GT(e.natural[i], 1.6e38f);
  EXPECT_NEAR(e.binary[6], 0x1p-100f, 0x1p-123f);
}

}  // namespace
}  // namespace llmtrain::cpu
#endif
