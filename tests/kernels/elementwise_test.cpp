// Zeroing, conversion, addition, sums, embedding, rotary embedding and SwiGLU against the same formulas in double.
#include <omp.h>

#include <algorithm>
#include <limits>

#include "kernels/kernels_fixture.h"
#include "kernels/math/rope.h"
#include "kernels/math/silu.h"

namespace llmtrain::testing_support {
namespace {

class Elementwise : public KernelsFixture {};

TEST_F(Elementwise, ZeroClearsEveryByteAndNothingBeyond) {
  for (int64_t n : {1, 7, 64, 100003}) {
    Tensor x = random_tensor(DType::float32, {n + 1}, 1, 5);
    kernels().zero(stream(), x.view().first(n));
    stream().synchronize();  // no kernel on a GPU: CUDA_LAUNCH_BLOCKING does not wait for it
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(x.get(i), 0.0);
    EXPECT_NE(x.get(n), 0.0);
  }
}

TEST_F(Elementwise, CastRoundsToNearestEvenAsTheStorageTypeDoes) {
  for (int64_t n : {1, 15, 16, 17, 4099}) {
    Tensor x(DType::float32, {n}), low(DType::bfloat16, {n}), back(DType::float32, {n});
    for (int64_t i = 0; i < n; ++i) {  // any bit pattern: halves, infinities, numbers below the normal ones, NaN
      const uint32_t bits = static_cast<uint32_t>(random_()), tie = bits & 0xffff0000u;
      const uint32_t chosen = i % 3 == 0 ? (tie | 0x8000u) : bits;
      x.view().as<uint32_t>()[i] = chosen;
    }
    kernels().cast(stream(), x.view(), low.view());
    kernels().cast(stream(), low.view(), back.view());
    for (int64_t i = 0; i < n; ++i) {
      const bfloat16 want(x.view().as<float>()[i]);
      if (std::isnan(x.get(i))) {  // quiet, whatever its other bits: GPUs make all of them one
        ASSERT_TRUE(std::isnan(low.get(i)) && (low.view().as<uint16_t>()[i] & 0x40) != 0 && std::isnan(back.get(i))) << i;
        continue;
      }
      ASSERT_EQ(low.view().as<uint16_t>()[i], want.bits) << i;
      ASSERT_EQ(back.view().as<uint32_t>()[i], static_cast<uint32_t>(want.bits) << 16) << i;
    }
  }
}

TEST_F(Elementwise, CastBetweenEqualTypesCopies) {
  Tensor x = random_tensor(DType::bfloat16, {1003}), y(DType::bfloat16, {1003});
  kernels().cast(stream(), x.view(), y.view());
  stream().synchronize();  // a copy: no kernel on a GPU
  EXPECT_TRUE(x.same_bits(y));
}

TEST_F(Elementwise, AddRoundsTheFloatSumOnce) {
  for (DType type : kComputeTypes) {
    Tensor x = random_tensor(type, {1037}), y = random_tensor(type, {1037});
    Tensor want(type, {1037});
    for (int64_t i = 0; i < x.size(); ++i) want.set(i, static_cast<double>(static_cast<float>(x.get(i)) + static_cast<float>(y.get(i))));
    kernels().add(stream(), x.view(), y.view());
    EXPECT_TRUE(y.same_bits(want)) << name_of(type);
  }
}

TEST_F(Elementwise, SumsAreTakenInDouble) {
  for (int64_t n : {1, 5, 1000, 100003}) {
    Tensor x = random_tensor(DType::float32, {n}, 1e3, 1e4);
    long double sum = 0, squares = 0;
    for (double v : x.values()) {
      sum += v;
      squares += static_cast<long double>(v) * v;
    }
    // n additions in double, of terms of one sign.
    EXPECT_NEAR(kernels().sum(stream(), x.view()), static_cast<double>(sum), static_cast<double>(n) * 0x1p-53 * static_cast<double>(sum));
    EXPECT_NEAR(kernels().sum_squares(stream(), x.view()), static_cast<double>(squares),
                static_cast<double>(n) * 0x1p-53 * static_cast<double>(squares));
  }
}

TEST_F(Elementwise, SumOfSquaresTellsWhatIsNotFinite) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    Tensor x = random_tensor(DType::float32, {777});
    x.set(between(0, 776), static_cast<double>(bad));
    EXPECT_FALSE(std::isfinite(kernels().sum_squares(stream(), x.view())));
  }
  Tensor large(DType::float32, {100});  // float32 squares would overflow
  for (int64_t i = 0; i < 100; ++i) large.set(i, 1e30);
  EXPECT_NEAR(kernels().sum_squares(stream(), large.view()), 1e62, 1e55);
}

TEST_F(Elementwise, EmbeddingCopiesRowsAndAddsGradientsBack) {
  for (DType type : kComputeTypes) {
    for (auto [tokens, vocabulary, hidden] : {std::array<int64_t, 3>{1, 5, 3}, {37, 11, 50}, {64, 100, 128}, {5000, 300, 8}, {2049, 2, 33}, {3, 7, 1032}}) {
      Tensor table = random_tensor(type, {vocabulary, hidden}), out(type, {tokens, hidden}), dout = random_tensor(type, {tokens, hidden});
      Tensor dtable = random_tensor(DType::float32, {vocabulary, hidden});
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(between(0, vocabulary - 1)));
      Tensor id = integers(ids);
      kernels().embedding_forward(stream(), id.view(), table.view(), out.view());
      std::vector<float> want(static_cast<size_t>(dtable.size()));
      for (size_t i = 0; i < want.size(); ++i) want[i] = static_cast<float>(dtable.get(static_cast<int64_t>(i)));
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < hidden; ++j) {
          ASSERT_EQ(out.get(t * hidden + j), table.get(ids[static_cast<size_t>(t)] * hidden + j));
          want[static_cast<size_t>(ids[static_cast<size_t>(t)] * hidden + j)] += static_cast<float>(dout.get(t * hidden + j));
        }
      }
      kernels().embedding_backward(stream(), id.view(), dout.view(), dtable.view());
      for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(dtable.view().as<float>()[i], want[i]) << "the additions come in the order of the tokens";
    }
  }
}

TEST_F(Elementwise, RopeTurnsPairsOfHalvesAndTheInverseTurnsBack) {
  for (DType type : kComputeTypes) {
    for (auto [heads, kv_heads, head_dim, rotary] : {std::array<int, 4>{4, 2, 64, 64}, {3, 1, 80, 32}, {2, 2, 6, 6}, {1, 1, 18, 10}}) {
      const HeadLayout layout{heads, kv_heads, head_dim};
      const int64_t tokens = between(1, 20), longest = 50, half = rotary / 2, row = layout.row();
      Tensor x = random_tensor(type, {tokens, row}), cos(DType::float32, {longest, half}), sin(DType::float32, {longest, half});
      for (int64_t i = 0; i < cos.size(); ++i) {
        const double angle = normal(10), scale = 1 + std::abs(normal(0.2));  // YaRN scales the tables
        cos.set(i, scale * std::cos(angle));
        sin.set(i, scale * std::sin(angle));
      }
      std::vector<int32_t> at;
      for (int64_t t = 0; t < tokens; ++t) at.push_back(static_cast<int32_t>(between(0, longest - 1)));
      Tensor positions = integers(at);
      for (bool inverse : {false, true}) {
        std::vector<double> want = x.values(), bound(want.size(), 0.0);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t head = 0; head < heads + kv_heads; ++head) {
            for (int64_t i = 0; i < half; ++i) {
              const size_t a = static_cast<size_t>(t * row + head * head_dim + i), b = a + static_cast<size_t>(half);
              const int64_t entry = at[static_cast<size_t>(t)] * half + i;
              const double size = std::abs(cos.get(entry)) + std::abs(sin.get(entry)),
                           magnitude = size * std::max(std::abs(want[a]), std::abs(want[b]));
              math::rope_pair(want[a], want[b], cos.get(entry), inverse ? -sin.get(entry) : sin.get(entry));
              bound[a] = 2 * kEps * magnitude + store(want[a], type) * 1.01;  // a product and a fused sum, then the store
              bound[b] = 2 * kEps * magnitude + store(want[b], type) * 1.01;
            }
          }
        }
        Tensor got = x;
        kernels().rope(stream(), got.view(), positions.view(), cos.view(), sin.view(), layout, rotary, inverse);
        expect_close(got, want, bound, std::string("rope ") + name_of(type));
      }
    }
  }
}

TEST_F(Elementwise, SwigluAndItsGradientAreTheFormula) {
  for (DType type : kComputeTypes) {
    for (auto [tokens, features] : {std::array<int64_t, 2>{1, 1}, {3, 37}, {17, 128}, {2, 4104}}) {
      Tensor gate_up = random_tensor(type, {tokens, 2 * features}, 3), out(type, {tokens, features}), again(type, {tokens, features});
      Tensor dout = random_tensor(type, {tokens, features}), d(type, {tokens, 2 * features});
      if (tokens > 1) {  // where exp overflows and underflows
        gate_up.set(0, 200);
        gate_up.set(1, -200);
        gate_up.set(2, 0);
      }
      kernels().swiglu_forward(stream(), gate_up.view(), out.view());
      std::vector<double> want, bound, dwant(static_cast<size_t>(d.size())), dbound(dwant.size());
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < features; ++j) {
          const double a = gate_up.get(t * 2 * features + j), u = gate_up.get(t * 2 * features + features + j), g = dout.get(t * features + j);
          want.push_back(math::silu(a) * u);
          const double floor = 1e-38 * (1 + std::abs(a)) * (1 + std::abs(u)) * (1 + std::abs(g));  // exp(-a) stops growing at e^88: sigmoid >= 6e-39
          bound.push_back(store(want.back(), type) * 1.01 + 7 * kEps * std::abs(want.back()) + floor);  // exp 3 eps, sum, quotient, two products
          const size_t gate = static_cast<size_t>(t * 2 * features + j), up = gate + static_cast<size_t>(features);
          dwant[gate] = g * u * math::silu_derivative(a);
          // the derivative is sigmoid (1 + a (1 - sigmoid)): its parts are rounded apart, 1 - sigmoid by eps
          dbound[gate] = store(dwant[gate], type) * 1.01 + 10 * kEps * std::abs(g * u) * math::sigmoid(a) * (1 + 2 * std::abs(a)) + floor;
          dwant[up] = g * math::silu(a);
          dbound[up] = store(dwant[up], type) * 1.01 + 8 * kEps * std::abs(dwant[up]) + floor;
        }
      }
      expect_close(out, want, bound, "swiglu_forward");
      kernels().swiglu_backward(stream(), dout.view(), gate_up.view(), d.view(), again.view());
      expect_close(d, dwant, dbound, "swiglu_backward");
      EXPECT_TRUE(again.same_bits(out)) << "recomputing gives the bits of the forward pass";
      Tensor in_place = gate_up;
      kernels().swiglu_backward(stream(), dout.view(), in_place.view(), in_place.view(), TensorView());
      EXPECT_TRUE(in_place.same_bits(d));
    }
  }
}

TEST_F(Elementwise, SiluDerivativeIsTheSlopeOfSilu) {
  for (int i = 0; i < 200; ++i) {
    const double a = normal(4), h = 1e-5;
    EXPECT_NEAR((math::silu(a + h) - math::silu(a - h)) / (2 * h), math::silu_derivative(a), 1e-9);  // h^2 / 6 of the third derivative, and 1e-16 / h
  }
}

}  // namespace
}  // namespace llmtrain::testing_support
