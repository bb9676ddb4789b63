// Linear layers against sums in double, at row counts that take every path: few rows, blocks, what is left of blocks.
#include "kernels/kernels_fixture.h"

namespace llmtrain::testing_support {
namespace {

class Linear : public KernelsFixture {
 protected:
  // c[m, n] = start + sum_k a(i, k) b(k, j); bound: sums of k + 2 terms in any order, one rounding to the type.
  template <class A, class B, class Start>
  static void product(int64_t m, int64_t n, int64_t k, DType type, const A& a, const B& b, const Start& start, std::vector<double>& want,
                      std::vector<double>& bound) {
    want.clear();
    bound.clear();
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = start(i, j), size = std::abs(sum);
        for (int64_t l = 0; l < k; ++l) {
          sum += a(i, l) * b(l, j);
          size += std::abs(a(i, l) * b(l, j));
        }
        want.push_back(sum);
        bound.push_back(store(sum, type) * 1.01 + static_cast<double>(k + 2) * kEps * size);
      }
    }
  }
};

struct LinearSize {
  int64_t tokens, in, out;
};
const LinearSize kSizes[] = {{1, 1, 1},   {1, 64, 48},  {2, 37, 19},    {3, 128, 5},   {5, 40, 70},    {8, 33, 33},
                             {9, 33, 34}, {31, 64, 96}, {130, 70, 515}, {513, 20, 30}, {40, 1030, 17}, {12, 600, 520}};

TEST_F(Linear, ForwardIsXTimesWTransposedPlusBias) {
  for (DType type : kComputeTypes) {
    for (const LinearSize& s : kSizes) {
      Tensor x = random_tensor(type, {s.tokens, s.in}), w = random_tensor(type, {s.out, s.in}), bias = random_tensor(type, {s.out});
      const Tensor before = random_tensor(type, {s.tokens, s.out});
      for (int variant = 0; variant < 4; ++variant) {
        const bool with_bias = variant & 1, accumulate = variant & 2;
        Tensor y = before;
        kernels().linear_forward(stream(), x.view(), w.view(), with_bias ? bias.view() : TensorView(), y.view(), accumulate);
        std::vector<double> want, bound;
        product(
            s.tokens, s.out, s.in, type, [&](int64_t t, int64_t k) { return x.get(t * s.in + k); },
            [&](int64_t k, int64_t n) { return w.get(n * s.in + k); },
            [&](int64_t t, int64_t n) { return (with_bias ? bias.get(n) : 0) + (accumulate ? before.get(t * s.out + n) : 0); }, want, bound);
        expect_close(y, want, bound,
                     std::string("linear_forward ") + name_of(type) + " " + x.view().shape.text() + w.view().shape.text() +
                         (with_bias ? " bias" : "") + (accumulate ? " accumulate" : ""));
      }
    }
  }
}

TEST_F(Linear, BackwardInputIsDyTimesW) {
  for (DType type : kComputeTypes) {
    for (const LinearSize& s : kSizes) {
      Tensor dy = random_tensor(type, {s.tokens, s.out}), w = random_tensor(type, {s.out, s.in});
      const Tensor before = random_tensor(type, {s.tokens, s.in});
      for (bool accumulate : {false, true}) {
        Tensor dx = before;
        kernels().linear_backward_input(stream(), dy.view(), w.view(), dx.view(), accumulate);
        std::vector<double> want, bound;
        product(
            s.tokens, s.in, s.out, type, [&](int64_t t, int64_t n) { return dy.get(t * s.out + n); },
            [&](int64_t n, int64_t k) { return w.get(n * s.in + k); },
            [&](int64_t t, int64_t k) { return accumulate ? before.get(t * s.in + k) : 0; }, want, bound);
        expect_close(dx, want, bound, std::string("linear_backward_input ") + name_of(type) + " " + dy.view().shape.text() + w.view().shape.text());
      }
    }
  }
}

TEST_F(Linear, BackwardWeightAddsInFloat32) {
  for (DType type : kComputeTypes) {
    for (const LinearSize& s : kSizes) {
      Tensor dy = random_tensor(type, {s.tokens, s.out}), x = random_tensor(type, {s.tokens, s.in}),
             dw = random_tensor(DType::float32, {s.out, s.in});
      const Tensor before = dw;
      kernels().linear_backward_weight(stream(), dy.view(), x.view(), dw.view());
      std::vector<double> want, bound;
      product(
          s.out, s.in, s.tokens, DType::float32, [&](int64_t n, int64_t t) { return dy.get(t * s.out + n); },
          [&](int64_t t, int64_t k) { return x.get(t * s.in + k); }, [&](int64_t n, int64_t k) { return before.get(n * s.in + k); }, want, bound);
      expect_close(dw, want, bound, std::string("linear_backward_weight ") + name_of(type) + " " + dy.view().shape.text() + x.view().shape.text());
    }
  }
}

TEST_F(Linear, BiasBackwardSumsTheTokens) {
  for (DType type : kComputeTypes) {
    for (auto [tokens, out] : {std::array<int64_t, 2>{1, 1}, {7, 70}, {300, 129}}) {
      Tensor dy = random_tensor(type, {tokens, out}), db = random_tensor(DType::float32, {out});
      const Tensor before = db;
      kernels().bias_backward(stream(), dy.view(), db.view());
      std::vector<double> want, bound;
      product(
          1, out, tokens, DType::float32, [](int64_t, int64_t) { return 1.0; }, [&](int64_t t, int64_t n) { return dy.get(t * out + n); },
          [&](int64_t, int64_t n) { return before.get(n); }, want, bound);
      expect_close(db, want, bound, "bias_backward");
    }
  }
}

TEST_F(Linear, AnEmptyBatchChangesNoGradient) {
  Tensor dy(DType::bfloat16, {0, 6}), x(DType::bfloat16, {0, 5}), dw = random_tensor(DType::float32, {6, 5}), db = random_tensor(DType::float32, {6});
  const Tensor dw_before = dw, db_before = db;
  Tensor w = random_tensor(DType::bfloat16, {6, 5});
  kernels().linear_backward_weight(stream(), dy.view(), x.view(), dw.view());
  kernels().bias_backward(stream(), dy.view(), db.view());
  kernels().linear_forward(stream(), x.view(), w.view(), TensorView(), dy.view(), false);
  kernels().linear_backward_input(stream(), dy.view(), w.view(), x.view(), false);
  EXPECT_TRUE(dw.same_bits(dw_before) && db.same_bits(db_before));
}

// More shapes than the cache of primitives holds: the oldest are made again.
TEST_F(Linear, ManyShapesInTurnStayRight) {
  for (int round = 0; round < 2; ++round) {
    for (int64_t tokens = 9; tokens < (round == 0 ? 275 : 13); ++tokens) {
      Tensor x = random_tensor(DType::bfloat16, {tokens, 4}), w = random_tensor(DType::bfloat16, {3, 4}), y(DType::bfloat16, {tokens, 3});
      kernels().linear_forward(stream(), x.view(), w.view(), TensorView(), y.view(), false);
      std::vector<double> want, bound;
      product(
          tokens, 3, 4, DType::bfloat16, [&](int64_t t, int64_t k) { return x.get(t * 4 + k); },
          [&](int64_t k, int64_t n) { return w.get(n * 4 + k); }, [](int64_t, int64_t) { return 0.0; }, want, bound);
      expect_close(y, want, bound, "linear_forward " + std::to_string(tokens));
    }
  }
}

}  // namespace
}  // namespace llmtrain::testing_support
