// What must not change a result: the number of threads (own kernels), repetition (all), the planned workspace, the rows beside a row.
#include <omp.h>

#include <functional>

#include "kernels/kernels_fixture.h"

namespace llmtrain::testing_support {
namespace {

class Determinism : public KernelsFixture {
 protected:
  ~Determinism() override { omp_set_num_threads(threads_before_); }
  const int threads_before_ = omp_get_max_threads();

  // The operations with sums over tokens or tasks over heads, on fixed inputs: their results one after the other.
  std::vector<Tensor> run_all(DType type, int threads) {
    omp_set_num_threads(threads);
    random_.seed(seed_);
    const HeadLayout layout{4, 2, 40};
    const int64_t tokens = 333, hidden = 72, vocabulary = 50;
    const std::vector<int32_t> cu{0, 100, 101, 333};
    Tensor x = random_tensor(type, {tokens, hidden}), dy = random_tensor(type, {tokens, hidden}), weight = random_tensor(type, {hidden});
    Tensor rstd = random_tensor(DType::float32, {tokens}, 0.1, 1), dx(type, {tokens, hidden}), dweight(DType::float32, {hidden}),
           db(DType::float32, {hidden});
    Tensor qkv = random_tensor(type, {tokens, layout.row()}), out(type, {tokens, 160}), lse(DType::float32, {tokens, 4}),
           dqkv(type, {tokens, layout.row()});
    Tensor dout = random_tensor(type, {tokens, 160}), ids(DType::int32, {tokens}), table(DType::float32, {vocabulary, hidden}),
           sums(DType::float32, {2});
    for (int64_t t = 0; t < tokens; ++t) ids.set(t, static_cast<double>(between(0, vocabulary - 1)));
    kernels().rms_norm_backward(stream(), dy.view(), x.view(), weight.view(), rstd.view(), TensorView(), dx.view(), dweight.view());
    kernels().bias_backward(stream(), dy.view(), db.view());
    kernels().attention_forward(stream(), qkv.view(), {cu, 232}, layout, 0.2f, 0, out.view(), lse.view());
    kernels().attention_backward(stream(), dout.view(), qkv.view(), out.view(), lse.view(), {cu, 232}, layout, 0.2f, 0, dqkv.view());
    kernels().embedding_backward(stream(), ids.view(), dy.view(), table.view());
    Tensor wide = random_tensor(DType::float32, {100001});
    Tensor few = random_tensor(type, {3, hidden}), w = random_tensor(type, {77, hidden}), y(type, {3, 77});
    kernels().linear_forward(stream(), few.view(), w.view(), TensorView(), y.view(), false);
    sums.set(0, kernels().sum(stream(), wide.view()));
    sums.set(1, kernels().sum_squares(stream(), wide.view()));
    return {dx, dweight, db, out, lse, dqkv, table, sums, y};
  }
};

TEST_F(Determinism, TheNumberOfThreadsDoesNotChangeABit) {
  for (DType type : kComputeTypes) {
    const std::vector<Tensor> one = run_all(type, 1);
    for (int threads : {2, 3, 7}) {
      const std::vector<Tensor> many = run_all(type, threads);
      for (size_t i = 0; i < one.size(); ++i)
        EXPECT_TRUE(one[i].same_bits(many[i])) << "result " << i << " with " << threads << " threads, " << name_of(type);
    }
  }
}

TEST_F(Determinism, LinearLayersRepeatBitForBit) {
  for (DType type : kComputeTypes) {
    for (int threads : {1, 2}) {
      omp_set_num_threads(threads);
      Tensor x = random_tensor(type, {300, 96}), w = random_tensor(type, {160, 96}), dy = random_tensor(type, {300, 160});
      std::vector<Tensor> first;
      for (int round = 0; round < 3; ++round) {
        Tensor y(type, {300, 160}), dx(type, {300, 96}), dw(DType::float32, {160, 96});
        kernels().linear_forward(stream(), x.view(), w.view(), TensorView(), y.view(), false);
        kernels().linear_backward_input(stream(), dy.view(), w.view(), dx.view(), false);
        kernels().linear_backward_weight(stream(), dy.view(), x.view(), dw.view());
        if (round == 0) first = {y, dx, dw};
        EXPECT_TRUE(first[0].same_bits(y) && first[1].same_bits(dx) && first[2].same_bits(dw));
      }
    }
  }
}

TEST_F(Determinism, TheReservedWorkspaceServesCallsUpToTheLimits) {
  for (DType type : kComputeTypes) {
    const std::vector<Tensor> without = run_all(type, 2);
    const Kernels::Limits limits{
        .tokens = 333, .hidden = 72, .intermediate = 100, .vocabulary = 50, .longest_sequence = 232, .layout = {4, 2, 40}, .compute = type};
    Arena plan;
    kernels().reserve(plan, limits);
    ASSERT_GT(plan.groups().at("kernel workspace"), 0u);
    Arena arena(*device_, plan.total());
    kernels().reserve(arena, limits);
    EXPECT_EQ(arena.total(), plan.total());
    const std::vector<Tensor> with = run_all(type, 2);
    for (size_t i = 0; i < with.size(); ++i) EXPECT_TRUE(with[i].same_bits(without[i])) << i;
    kernels_ = TestBackend::get().make_kernels();  // gives its use of the arena up before the arena goes
  }
}

TEST_F(Determinism, AnAsynchronousStreamDoesTheSameWork) {
  Tensor x = random_tensor(DType::float32, {5000}), y = random_tensor(DType::float32, {5000});
  Tensor want = y;
  kernels().add(stream(), x.view(), want.view());
  const std::unique_ptr<Stream> other = device_->make_stream("other", true);
  kernels().add(*other, x.view(), y.view());
  EXPECT_EQ(kernels().sum_squares(*other, y.view()), kernels().sum_squares(stream(), want.view()));
  other->synchronize();
  EXPECT_TRUE(y.same_bits(want));
}

}  // namespace
}  // namespace llmtrain::testing_support
