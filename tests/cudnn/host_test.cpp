// What surrounds the vendor's libraries and needs no GPU: buckets, offsets, layouts and kept files of cuDNN's attention, kept choices of matrix
// products, and the small kernels, on the emulator.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/attention_cudnn_layout.h"
#include "kernels/cuda/attention_cudnn_shapes.h"
#include "kernels/cuda/gemm_choices.h"
#include "kernels/cuda/gemm_fallback.h"

namespace llmtrain::cuda {
namespace {

TEST(AttentionBuckets, HoldWhatTheyRound) {
  for (const int64_t limit : {0, 100, 128, 3000, 4096}) {
    for (const int64_t longest : {1, 2, 127, 128, 129, 1000, 3000, 4096, 5000}) {
      const int64_t bucket = length_bucket(longest, limit);
      EXPECT_GE(bucket, longest);
      EXPECT_EQ(bucket % kLengthStep, 0);
      if (longest <= limit) {
        EXPECT_LE(bucket, (limit + 127) / 128 * 128);
      }
    }
  }
  EXPECT_EQ(length_bucket(2900, 3000), 3072);
  EXPECT_EQ(slots_for(1), 1);
  EXPECT_EQ(slots_for(5), 8);
  EXPECT_EQ(slots_for(100000), kSlots);
  EXPECT_EQ(token_bucket(5, 4096), 4096);
  EXPECT_EQ(token_bucket(5000, 4096), 8192);
}

// Every call of up to kSlots sequences reads one offset for each of its slots and one more: none past the arrays' end.
TEST(AttentionBuckets, OffsetsCoverTheSlotsOfEveryCall) {
  for (int64_t count = 1; count < 3 * kSlots; ++count)
    for (int64_t first = 0; first < count; first += kSlots) ASSERT_LE(first + slots_for(count - first) + 1, AttentionOffsets::entries(count)) << count;
}

TEST(AttentionGradients, TakeTheSmallerLayout) {
  const GradientLayout one = gradient_layout({32, 32, 128}, 1000), four = gradient_layout({32, 8, 128}, 1000), two = gradient_layout({32, 16, 128}, 1000);
  EXPECT_TRUE(!one.dq_in_place && one.dkv_in_place);
  EXPECT_TRUE(four.dq_in_place && !four.dkv_in_place);
  EXPECT_TRUE(!two.dq_in_place && !two.dkv_in_place);
}

TEST(AttentionRefusals, NameTheReason) {
  const HeadLayout layout = {8, 2, 64};
  const auto refuse = [&](DType type, HeadLayout l, bool backward, bool deterministic, int sm, size_t version) {
    return refuse_attention(type, l, backward, deterministic, sm, version);
  };
  EXPECT_EQ(refuse(DType::bfloat16, layout, true, false, 90, 91900), "");
  EXPECT_NE(refuse(DType::float32, layout, false, false, 90, 91900).find("bfloat16"), std::string::npos);
  EXPECT_NE(refuse(DType::bfloat16, {8, 2, 36}, false, false, 90, 91900).find("head size 36"), std::string::npos);
  EXPECT_NE(refuse(DType::bfloat16, {8, 2, 24}, true, false, 90, 91900).find("multiples of 16"), std::string::npos);
  EXPECT_EQ(refuse(DType::bfloat16, layout, false, false, 80, 91900), "");
  EXPECT_NE(refuse(DType::bfloat16, layout, true, false, 80, 91900), "");
  EXPECT_NE(refuse(DType::bfloat16, layout, true, true, 90, 91900).find("deterministic"), std::string::npos);
  EXPECT_EQ(refuse(DType::bfloat16, layout, true, true, 90, 92500), "");
  for (const size_t bad : {91000u, 91001u, 91400u, 100000u}) EXPECT_NE(refuse_version(bad).find("cuDNN"), std::string::npos) << bad;
  EXPECT_EQ(refuse_version(91900), "");
}

TEST(AttentionPlanFiles, AreTakenOnlyWhole) {
  const std::string key = "cuDNN 9.19.0, sm_90, forward", file = pack_plan(key, "the plan");
  std::string blob;
  EXPECT_TRUE(unpack_plan(file, key, blob));
  EXPECT_EQ(blob, "the plan");
  EXPECT_FALSE(unpack_plan(file, "cuDNN 9.20.0, sm_90, forward", blob));
  for (size_t n = 0; n < file.size(); ++n) EXPECT_FALSE(unpack_plan(file.substr(0, n), key, blob)) << n;
  for (size_t i = 0; i < file.size(); ++i) {
    std::string damaged = file;
    damaged[i] ^= 4;
    EXPECT_FALSE(unpack_plan(damaged, key, blob)) << i;
  }
}

TEST(AttentionLayout, OffsetsAreWhatCudnnReads) {
  const std::vector<int32_t> ends = {0, 5, 6, 6 + 300};
  const HeadLayout layout = {6, 2, 16};
  const int64_t n = AttentionOffsets::entries(3);
  ASSERT_EQ(n, 5);
  std::vector<int64_t> qkv(n), q(n), kv(n), heads(n);
  std::vector<int32_t> length(n);
  attention_offsets(nullptr, ends.data(), 3, n, layout, {qkv.data(), q.data(), kv.data(), heads.data(), length.data()});
  const int64_t begin[] = {0, 5, 6, 306, 306}, expected_length[] = {5, 1, 300, 0, 0};
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(qkv[i], begin[i] * 10 * 16);
    EXPECT_EQ(q[i], begin[i] * 6 * 16);
    EXPECT_EQ(kv[i], begin[i] * 2 * 16);
    EXPECT_EQ(heads[i], begin[i] * 6);
    EXPECT_EQ(length[i], expected_length[i]);
  }
}

TEST(AttentionLayout, GradientsComeToTheirColumns) {
  const HeadLayout layout = {3, 1, 8};
  constexpr int64_t kTokens = 37;
  alignas(16) static uint16_t dq[kTokens * 24], dk[kTokens * 8], dv[kTokens * 8], out[kTokens * 40];
  for (int i = 0; i < kTokens * 24; ++i) dq[i] = static_cast<uint16_t>(i);
  for (int i = 0; i < kTokens * 8; ++i) dk[i] = static_cast<uint16_t>(10000 + i), dv[i] = static_cast<uint16_t>(20000 + i);
  std::fill(std::begin(out), std::end(out), uint16_t{7});
  place_gradients(nullptr, nullptr, dk, dv, layout, TensorView(reinterpret_cast<bfloat16*>(out), {kTokens, 40}));
  for (int t = 0; t < kTokens; ++t)
    for (int j = 0; j < 24; ++j) ASSERT_EQ(out[t * 40 + j], 7) << "dq was in place";
  place_gradients(nullptr, dq, dk, dv, layout, TensorView(reinterpret_cast<bfloat16*>(out), {kTokens, 40}));
  for (int t = 0; t < kTokens; ++t) {
    for (int j = 0; j < 40; ++j) ASSERT_EQ(out[t * 40 + j], j < 24 ? dq[t * 24 + j] : j < 32 ? dk[t * 8 + j - 24] : dv[t * 8 + j - 32]) << t << " " << j;
  }
}

TEST(GemmChoices, StepsAreCoarseAndNeverTooSmall) {
  for (int64_t t = 1; t < 5000; ++t) {
    ASSERT_GE(token_step(t), t);
    ASSERT_LE(token_step(t), t + t / 4 + 1);
    ASSERT_EQ(token_step(token_step(t)), token_step(t));
  }
}

TEST(GemmChoices, AreBorrowedFromTheNearestNeighbour) {
  GemmChoices choices;
  const auto key = [](int64_t tokens) { return key_of(forward_shape(tokens, 64, 32, DType::bfloat16, false, false), 16, false); };
  choices.set(key(1024), {1});
  choices.set(key(4096), {2});
  EXPECT_EQ(choices.find(key(1000)), GemmAlgorithm{1});
  EXPECT_EQ(choices.nearest(key(1500)), GemmAlgorithm{1});
  EXPECT_EQ(choices.nearest(key(3000)), GemmAlgorithm{2});
  EXPECT_FALSE(choices.nearest(key(1)));
  EXPECT_FALSE(choices.nearest(key_of(forward_shape(1024, 64, 32, DType::bfloat16, true, false), 16, false)));
  EXPECT_FALSE(choices.nearest(key_of(forward_shape(1024, 64, 32, DType::bfloat16, false, false), 2, false)));
}

TEST(GemmChoices, FileIsTakenOnlyWholeAndOnTheSameMachine) {
  GemmChoices choices;
  choices.set(key_of(backward_weight_shape(512, 64, 32, DType::bfloat16), 16, false), {1, 2, 3, 4, 5, 6, 7, ~uint64_t{0}});
  choices.set(key_of(forward_shape(512, 64, 32, DType::float32, true, false), 4, true), {9});
  const std::string text = choices.text("H100, driver 13000");
  std::string why;
  const auto read = GemmChoices::parse(text, "H100, driver 13000", why);
  ASSERT_TRUE(read) << why;
  EXPECT_TRUE(*read == choices);
  EXPECT_FALSE(GemmChoices::parse(text, "H100, driver 13010", why));
  EXPECT_NE(why.find("another"), std::string::npos);
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] ^= 1;
    EXPECT_FALSE(GemmChoices::parse(damaged, "H100, driver 13000", why)) << i;
    EXPECT_FALSE(GemmChoices::parse(text.substr(0, i), "H100, driver 13000", why)) << i;
  }
}

// Against the same sums in double. Float32 sums of k products of values below 1 err by at most k * 2^-24 * (sum of magnitudes); bfloat16 output rounds
// once more, by 2^-9 of the value.
template <class In, class Out>
void compare(GemmShape s) {
  std::mt19937 random(static_cast<unsigned>(s.m * 100 + s.n * 10 + s.k));
  std::uniform_real_distribution<float> uniform(-1, 1);
  const auto filled = [&](int64_t n, auto type) {
    std::vector<decltype(type)> x(static_cast<size_t>(n));
    for (auto& v : x) v = decltype(type)(uniform(random));
    return x;
  };
  const std::vector<In> a = filled(s.m * s.k, In{}), b = filled(s.n * s.k, In{}), bias = filled(s.n, In{});
  std::vector<Out> c = filled(s.m * s.n, Out{});
  const std::vector<Out> before = c;
  multiply_any_shape(nullptr, s, a.data(), b.data(), bias.data(), c.data());
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = s.accumulate ? static_cast<double>(static_cast<float>(before[i * s.n + j])) : 0, magnitude = std::abs(sum) + 1;
      if (s.bias) sum += static_cast<double>(static_cast<float>(bias[j]));
      for (int64_t p = 0; p < s.k; ++p) {
        const double x = static_cast<float>(a[s.a_transposed ? p * s.m + i : i * s.k + p]), y = static_cast<float>(b[s.b_transposed ? j * s.k + p : p * s.n + j]);
        sum += x * y;
        magnitude += std::abs(x * y);
      }
      const double allowed = static_cast<double>(s.k + 2) * std::ldexp(magnitude, -24) + (sizeof(Out) == 2 ? std::ldexp(std::abs(sum), -8) : 0);
      ASSERT_NEAR(static_cast<double>(static_cast<float>(c[i * s.n + j])), sum, allowed) << s.m << " x " << s.n << " x " << s.k << " at " << i << ", " << j;
    }
  }
}

TEST(GemmFallback, AnyShape) {
  struct {
    int64_t tokens, in, out;
  } const sizes[] = {{1, 33, 1}, {3, 33, 65}, {65, 17, 70}, {64, 64, 64}};
  for (const auto& s : sizes) {
    for (const bool flag : {false, true}) {
      compare<float, float>(forward_shape(s.tokens, s.in, s.out, DType::float32, flag, !flag));
      compare<bfloat16, bfloat16>(forward_shape(s.tokens, s.in, s.out, DType::bfloat16, flag, flag));
      compare<bfloat16, bfloat16>(backward_input_shape(s.tokens, s.in, s.out, DType::bfloat16, flag));
    }
    compare<float, float>(backward_weight_shape(s.tokens, s.in, s.out, DType::float32));
    compare<bfloat16, float>(backward_weight_shape(s.tokens, s.in, s.out, DType::bfloat16));
  }
}

TEST(GemmFallback, EmptyInnerDimension) {
  compare<bfloat16, bfloat16>(forward_shape(5, 0, 7, DType::bfloat16, true, false));
  compare<float, float>(forward_shape(5, 0, 7, DType::float32, false, false));
  compare<float, float>(backward_weight_shape(0, 5, 7, DType::float32));
}

}  // namespace
}  // namespace llmtrain::cuda
