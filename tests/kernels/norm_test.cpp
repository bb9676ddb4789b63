// RMSNorm and per-head RMSNorm against the formula in double; the gradient's formula against finite differences.
#include "kernels/kernels_fixture.h"

namespace llmtrain::testing_support {
namespace {

class Norm : public KernelsFixture {};

struct NormReference {
  std::vector<double> y, rstd, dx, dweight, dx_bound, dweight_bound;
};

// rows of n elements. dx without dres. The bounds are for float32 sums of n terms.
NormReference reference(const std::vector<double>& x, const std::vector<double>& weight, const std::vector<double>& dy, double eps) {
  const size_t n = weight.size(), rows = x.size() / n;
  NormReference r{std::vector<double>(x.size()), std::vector<double>(rows),     std::vector<double>(x.size()),
                  std::vector<double>(n),        std::vector<double>(x.size()), std::vector<double>(n)};
  for (size_t t = 0; t < rows; ++t) {
    double square = 0, dot = 0, size = 0;
    for (size_t j = 0; j < n; ++j) {
      square += x[t * n + j] * x[t * n + j];
      dot += dy[t * n + j] * weight[j] * x[t * n + j];
      size += std::abs(dy[t * n + j] * weight[j] * x[t * n + j]);
    }
    const double rstd = 1 / std::sqrt(square / static_cast<double>(n) + eps);
    r.rstd[t] = rstd;
    for (size_t j = 0; j < n; ++j) {
      const size_t i = t * n + j;
      r.y[i] = weight[j] * x[i] * rstd;
      const double g = dy[i] * weight[j], along = x[i] * rstd * rstd * rstd / static_cast<double>(n);
      r.dx[i] = rstd * g - along * dot;
      r.dx_bound[i] = (8 + static_cast<double>(n)) * kEps * (std::abs(rstd * g) + std::abs(along) * size);
      r.dweight[j] += dy[i] * x[i] * rstd;
      r.dweight_bound[j] += (4 + static_cast<double>(rows)) * kEps * std::abs(dy[i] * x[i] * rstd);
    }
  }
  return r;
}

TEST_F(Norm, GradientFormulaIsTheSlope) {
  const size_t n = 7;
  std::vector<double> x(2 * n), weight(n), dy(2 * n);
  for (double& v : x) v = normal();
  for (double& v : weight) v = normal();
  for (double& v : dy) v = normal();
  const auto loss = [&](const std::vector<double>& a, const std::vector<double>& w) {
    const NormReference r = reference(a, w, dy, 1e-3);
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += r.y[i] * dy[i];
    return sum;
  };
  const NormReference r = reference(x, weight, dy, 1e-3);
  const double h = 1e-5;
  for (size_t i = 0; i < x.size(); ++i) {
    std::vector<double> up = x, down = x;
    up[i] += h;
    down[i] -= h;
    EXPECT_NEAR((loss(up, weight) - loss(down, weight)) / (2 * h), r.dx[i], 1e-6 * (1 + std::abs(r.dx[i])));
  }
  for (size_t j = 0; j < n; ++j) {
    std::vector<double> up = weight, down = weight;
    up[j] += h;
    down[j] -= h;
    EXPECT_NEAR((loss(x, up) - loss(x, down)) / (2 * h), r.dweight[j], 1e-8 * (1 + std::abs(r.dweight[j])));
  }
}

TEST_F(Norm, RmsNormAddsNormalisesAndKeepsTheFactor) {
  for (DType type : kComputeTypes) {
    // The last ones: rows that a GPU's block keeps in registers, and longer ones.
    for (auto [tokens, hidden] : {std::array<int64_t, 2>{1, 1}, {1, 33}, {70, 64}, {131, 48}, {5, 1000}, {2, 8200}, {2, 16416}}) {
      for (bool with_delta : {false, true}) {
        Tensor x = random_tensor(type, {tokens, hidden}, 2), delta = random_tensor(type, {tokens, hidden}),
               weight = random_tensor(type, {hidden}, 0.3, 1);
        Tensor sum(type, {tokens, hidden}), y(type, {tokens, hidden}), rstd(DType::float32, {tokens});
        const float eps = static_cast<float>(std::abs(normal(0.1)));
        kernels().rms_norm_forward(stream(), x.view(), with_delta ? delta.view() : TensorView(), weight.view(), eps, sum.view(), y.view(),
                                   rstd.view());
        Tensor want_sum = x;
        for (int64_t i = 0; with_delta && i < x.size(); ++i) want_sum.set(i, x.get(i) + delta.get(i));  // exact in double, rounded to X once
        EXPECT_TRUE(sum.same_bits(want_sum)) << name_of(type);
        const NormReference r = reference(sum.values(), weight.values(), x.values(), static_cast<double>(eps));
        std::vector<double> bound, rstd_bound;
        for (double v : r.y)
          bound.push_back(store(v, type) * 1.01 + (6 + static_cast<double>(hidden) / 2) * kEps * std::abs(v));  // half: under the root
        for (double v : r.rstd) rstd_bound.push_back((4 + static_cast<double>(hidden) / 2) * kEps * v);
        expect_close(y, r.y, bound, std::string("rms_norm_forward ") + name_of(type));
        expect_close(rstd, r.rstd, rstd_bound, "rstd");
        Tensor in_place = delta, again(type, {tokens, hidden});  // the sum in delta's place
        if (with_delta) {
          kernels().rms_norm_forward(stream(), x.view(), in_place.view(), weight.view(), eps, in_place.view(), again.view(), TensorView());
          EXPECT_TRUE(in_place.same_bits(sum) && again.same_bits(y));
        } else {
          kernels().rms_norm_forward(stream(), x.view(), TensorView(), weight.view(), eps, TensorView(), again.view(), TensorView());
          EXPECT_TRUE(again.same_bits(y));
        }
      }
    }
  }
}

TEST_F(Norm, RmsNormBackwardIsTheGradientAddedToTheResidual) {
  for (DType type : kComputeTypes) {
    for (auto [tokens, hidden] : {std::array<int64_t, 2>{1, 1}, {1, 33}, {70, 64}, {131, 48}, {5, 1000}, {9, 8200}, {2, 16416}, {16500, 4}}) {
      if (tokens > 1000 && TestBackend::get().emulated()) continue;  // more than the smallest groups of rows: half a minute there
      Tensor x = random_tensor(type, {tokens, hidden}, 2), weight = random_tensor(type, {hidden}, 0.3, 1), dy = random_tensor(type, {tokens, hidden});
      Tensor dres = random_tensor(type, {tokens, hidden}), dweight = random_tensor(DType::float32, {hidden}), dx(type, {tokens, hidden});
      const NormReference r = reference(x.values(), weight.values(), dy.values(), 1e-5);
      Tensor rstd(DType::float32, {tokens});
      rstd.assign(r.rstd);
      std::vector<double> want = r.dx, bound, plain_bound, want_weight = dweight.values(), weight_bound;
      for (size_t i = 0; i < want.size(); ++i) {
        plain_bound.push_back(store(r.dx[i], type) * 1.01 + r.dx_bound[i]);
        want[i] += dres.get(static_cast<int64_t>(i));
        bound.push_back(store(want[i], type) * 1.01 + r.dx_bound[i] + kEps * std::abs(want[i]));
      }
      for (size_t j = 0; j < want_weight.size(); ++j) {
        weight_bound.push_back(r.dweight_bound[j] + kEps * (std::abs(want_weight[j]) + std::abs(want_weight[j] + r.dweight[j])));
        want_weight[j] += r.dweight[j];
      }
      kernels().rms_norm_backward(stream(), dy.view(), x.view(), weight.view(), rstd.view(), TensorView(), dx.view(), TensorView());
      expect_close(dx, r.dx, plain_bound, std::string("rms_norm_backward ") + name_of(type));
      kernels().rms_norm_backward(stream(), dy.view(), x.view(), weight.view(), rstd.view(), dres.view(), dres.view(), dweight.view());
      expect_close(dres, want, bound, std::string("rms_norm_backward on the residual ") + name_of(type));
      expect_close(dweight, want_weight, weight_bound, "dweight");
    }
  }
}

TEST_F(Norm, HeadsOfQAndKAreNormalisedWithTheirOwnWeights) {
  for (DType type : kComputeTypes) {
    for (auto [heads, kv_heads, head_dim] : {std::array<int, 3>{4, 2, 64}, {3, 1, 20}, {2, 2, 7}, {2, 1, 256}, {1, 1, 250}}) {
      const HeadLayout layout{heads, kv_heads, head_dim};
      const int64_t tokens = between(1, 140), row = layout.row(), normed = heads + kv_heads;
      Tensor qkv = random_tensor(type, {tokens, row}, 2), out(type, {tokens, row}), rstd(DType::float32, {tokens, normed});
      Tensor q_weight = random_tensor(type, {head_dim}, 0.3, 1), k_weight = random_tensor(type, {head_dim}, 0.3, 1);
      Tensor d = random_tensor(type, {tokens, row}), dq_weight = random_tensor(DType::float32, {head_dim}),
             dk_weight = random_tensor(DType::float32, {head_dim});
      kernels().qk_norm_forward(stream(), qkv.view(), q_weight.view(), k_weight.view(), 1e-3f, layout, out.view(), rstd.view());
      std::vector<double> want = qkv.values(), bound(want.size()), dwant = d.values(), dbound(want.size()),
                          rstd_want(static_cast<size_t>(rstd.size()));
      std::vector<double> rstd_bound(rstd_want.size());
      for (bool is_q : {true, false}) {
        const int64_t count = is_q ? heads : kv_heads, first = is_q ? 0 : heads, n = head_dim;
        Tensor& dweight = is_q ? dq_weight : dk_weight;
        std::vector<double> x, dy;
        const auto place = [&](int64_t i) { return static_cast<size_t>(i / (count * n) * row + first * n + i % (count * n)); };
        for (int64_t i = 0; i < tokens * count * n; ++i) {
          x.push_back(qkv.get(static_cast<int64_t>(place(i))));
          dy.push_back(d.get(static_cast<int64_t>(place(i))));
        }
        const NormReference r = reference(x, (is_q ? q_weight : k_weight).values(), dy, static_cast<double>(1e-3f));
        for (int64_t i = 0; i < tokens * count * n; ++i) {
          const size_t k = static_cast<size_t>(i);
          want[place(i)] = r.y[k];
          bound[place(i)] = store(r.y[k], type) * 1.01 + (6 + head_dim / 2.0) * kEps * std::abs(r.y[k]);
          dwant[place(i)] = r.dx[k];
          dbound[place(i)] = store(r.dx[k], type) * 1.01 + 2 * r.dx_bound[k];  // twice: rstd is the kernel's own, itself rounded
        }
        for (int64_t i = 0; i < tokens * count; ++i) {
          const size_t k = static_cast<size_t>(i / count * normed + first + i % count);
          rstd_want[k] = r.rstd[static_cast<size_t>(i)];
          rstd_bound[k] = (4 + head_dim / 2.0) * kEps * rstd_want[k];
        }
        Tensor before = dweight;
        std::vector<double> weight_want = before.values(), weight_bound = r.dweight_bound;
        for (size_t j = 0; j < weight_want.size(); ++j) {
          weight_want[j] += r.dweight[j];
          weight_bound[j] = 2 * weight_bound[j] + head_dim * kEps * std::abs(weight_want[j]) + kEps * std::abs(before.get(static_cast<int64_t>(j)));
        }
        Tensor unused = random_tensor(DType::float32, {head_dim}), other = d, got = before;
        kernels().qk_norm_backward(stream(), other.view(), qkv.view(), q_weight.view(), k_weight.view(), rstd.view(), layout,
                                   is_q ? got.view() : unused.view(), is_q ? unused.view() : got.view());
        expect_close(got, weight_want, weight_bound, is_q ? "dq_weight" : "dk_weight");
      }
      expect_close(out, want, bound, std::string("qk_norm_forward ") + name_of(type));
      expect_close(rstd, rstd_want, rstd_bound, "rstd");
      kernels().qk_norm_backward(stream(), d.view(), qkv.view(), q_weight.view(), k_weight.view(), rstd.view(), layout, TensorView(), TensorView());
      expect_close(d, dwant, dbound, std::string("qk_norm_backward ") + name_of(type));
    }
  }
}

}  // namespace
}  // namespace llmtrain::testing_support
