// Rates of the CPU kernels, one thread, at the shapes of a small Llama (hidden 512, 8/4 heads of 64, intermediate 1408, vocabulary 16384, 2048 tokens
// in sequences of 512), each beside the same operation as plain loops. Medians; rates are per core.
//
//   kernels_bench [part of a name] [seconds a row, default 0.3]
#include <omp.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/math/adamw.h"

using namespace llmtrain;

namespace {

constexpr int64_t kTokens = 2048, kHidden = 512, kIntermediate = 1408, kVocabulary = 16384, kSequence = 512;
constexpr HeadLayout kLayout{8, 4, 64};
constexpr int64_t kHeads = kLayout.heads * int64_t{kLayout.head_dim};

// Processor time of this thread, which does all the work: other programs on the machine do not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_of(const std::function<void()>& work) {
  const double start = thread_seconds();
  work();
  return thread_seconds() - start;
}

double median_seconds(const std::function<void()>& work, double budget) {
  std::vector<double> times;
  double total = 0;
  work();
  while (times.size() < 3 || (total < budget && times.size() < 1000)) {
    times.push_back(seconds_of(work));
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

class Bench {
 public:
  Bench(std::string only, double budget)
      : only_(std::move(only)),
        budget_(budget),
        device_(make_cpu_device(1)),
        stream_(device_->make_stream("compute", false)),
        kernels_(make_cpu_kernels(*device_)) {
    std::printf("%s\n%s\n%-34s %10s %10s %8s %12s %7s\n", device_->describe().c_str(), kernels_->describe().c_str(), "operation", "ms", "rate", "",
                "plain loops", "ratio");
  }
  ~Bench() {
    for (void* p : blocks_) device_->free(p);
  }

  TensorView tensor(DType type, Shape shape) {
    TensorView t(nullptr, type, shape);
    t.data = device_->allocate(t.bytes());
    blocks_.push_back(t.data);
    std::minstd_rand random(static_cast<unsigned>(blocks_.size()));
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t i = 0; i < t.elements(); ++i) {
      if (type == DType::float32) t.as<float>()[i] = uniform(random);
      if (type == DType::bfloat16) t.as<bfloat16>()[i] = bfloat16(uniform(random));
      if (type == DType::int32) t.as<int32_t>()[i] = static_cast<int32_t>(random() % 1000);
    }
    return t;
  }

  // `amount`: floating-point operations or bytes of a call. `plain` does `plain_amount` of them.
  void row(const std::string& name, bool flops, double amount, const std::function<void()>& work, double plain_amount = 0,
           const std::function<void()>& plain = {}) {
    if (name.find(only_) == std::string::npos) return;
    const double seconds = median_seconds(work, budget_), rate = amount / seconds * 1e-9;
    std::printf("%-34s %10.3f %10.1f %8s", name.c_str(), seconds * 1e3, rate, flops ? "GFLOP/s" : "GB/s");
    if (plain) {
      const double base = plain_amount / median_seconds(plain, budget_ / 3) * 1e-9;
      std::printf(" %12.2f %6.1fx", base, rate / base);
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  Kernels& k() { return *kernels_; }
  Stream& s() { return *stream_; }

 private:
  std::string only_;
  double budget_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Kernels> kernels_;
  std::vector<void*> blocks_;
};

float value(float x) { return x; }
float value(bfloat16 x) { return static_cast<float>(x); }

template <class X>
struct TypeName;
template <>
struct TypeName<float> {
  static constexpr DType type = DType::float32;
  static constexpr const char* name = " f32";
};
template <>
struct TypeName<bfloat16> {
  static constexpr DType type = DType::bfloat16;
  static constexpr const char* name = " bf16";
};

// c[m, n] = a[m, k] b[n, k]^T as three loops.
template <class X>
void plain_product(const X* a, const X* b, X* c, int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += value(a[i * k + l]) * value(b[j * k + l]);
      c[i * n + j] = X(sum);
    }
  }
}

template <class X>
void linear_rows(Bench& b) {
  constexpr DType type = TypeName<X>::type;
  const struct {
    const char* name;
    int64_t in, out;
  } shapes[] = {{"qkv", kHidden, kLayout.row()},
                {"o", kHeads, kHidden},
                {"gate_up", kHidden, 2 * kIntermediate},
                {"down", kIntermediate, kHidden},
                {"head", kHidden, kVocabulary}};
  for (const auto& s : shapes) {
    const TensorView x = b.tensor(type, {kTokens, s.in}), w = b.tensor(type, {s.out, s.in}), y = b.tensor(type, {kTokens, s.out});
    const TensorView dw = b.tensor(DType::float32, {s.out, s.in});
    const double flops = 2.0 * static_cast<double>(kTokens * s.in * s.out), plain_flops = 2.0 * 16 * static_cast<double>(s.in * 512);
    const std::string name = std::string(s.name) + TypeName<X>::name;
    b.row(
        "linear_forward " + name, true, flops, [&] { b.k().linear_forward(b.s(), x, w, TensorView(), y, false); }, plain_flops,
        [&] { plain_product(x.as<X>(), w.as<X>(), y.as<X>(), 16, 512, s.in); });
    b.row("linear_backward_input " + name, true, flops, [&] { b.k().linear_backward_input(b.s(), y, w, x, false); });
    b.row("linear_backward_weight " + name, true, flops, [&] { b.k().linear_backward_weight(b.s(), y, x, dw); });
  }
  const TensorView w = b.tensor(type, {kVocabulary, kHidden});
  for (int64_t tokens : {1, 2, 4, 8}) {
    const TensorView x = b.tensor(type, {tokens, kHidden}), y = b.tensor(type, {tokens, kVocabulary});
    b.row(
        "linear_forward head, " + std::to_string(tokens) + " token(s)" + TypeName<X>::name, false, static_cast<double>(w.bytes()),
        [&] { b.k().linear_forward(b.s(), x, w, TensorView(), y, false); }, static_cast<double>(w.bytes()) / 16,
        [&] { plain_product(x.as<X>(), w.as<X>(), y.as<X>(), tokens, kVocabulary / 16, kHidden); });
  }
}

// One head of one sequence, forward, as loops.
template <class X>
void plain_attention(const X* qkv, X* out, int64_t length) {
  constexpr int64_t kSize = kLayout.head_dim;
  std::vector<float> p(static_cast<size_t>(length));
  for (int64_t t = 0; t < length; ++t) {
    const X* q = qkv + t * kLayout.row();
    float largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= t; ++j) {
      float score = 0;
      for (int64_t d = 0; d < kSize; ++d) score += value(q[d]) * value(qkv[j * kLayout.row() + kHeads + d]);
      p[static_cast<size_t>(j)] = score * 0.125f;
      largest = std::max(largest, p[static_cast<size_t>(j)]);
    }
    for (int64_t j = 0; j <= t; ++j) sum += p[static_cast<size_t>(j)] = std::exp(p[static_cast<size_t>(j)] - largest);
    float row[kSize] = {};
    for (int64_t j = 0; j <= t; ++j) {
      for (int64_t d = 0; d < kSize; ++d) row[d] += p[static_cast<size_t>(j)] * value(qkv[j * kLayout.row() + kHeads + 4 * kSize + d]);
    }
    for (int64_t d = 0; d < kSize; ++d) out[t * kHeads + d] = X(row[d] / sum);
  }
}

template <class X>
void attention_rows(Bench& b) {
  constexpr DType type = TypeName<X>::type;
  const TensorView qkv = b.tensor(type, {kTokens, kLayout.row()}), dqkv = b.tensor(type, {kTokens, kLayout.row()}),
                   out = b.tensor(type, {kTokens, kHeads});
  const TensorView dout = b.tensor(type, {kTokens, kHeads}), lse = b.tensor(DType::float32, {kTokens, kLayout.heads});
  for (int64_t length : {int64_t{64}, kSequence, kTokens}) {
    std::vector<int32_t> cu;
    for (int64_t t = 0; t <= kTokens; t += length) cu.push_back(static_cast<int32_t>(t));
    const Sequences sequences{cu, static_cast<int32_t>(length)};
    // Exact causal count: two products of 2 D flops for each visible pair, five in the backward pass.
    const double pairs = static_cast<double>(kTokens) * static_cast<double>(length + 1) / 2, flops = 4 * pairs * static_cast<double>(kHeads);
    const std::string name = std::to_string(length) + TypeName<X>::name;
    b.row(
        "attention_forward " + name, true, flops, [&] { b.k().attention_forward(b.s(), qkv, sequences, kLayout, 0.125f, 0, out, lse); },
        4.0 * 64 * 256 * 257 / 2, [&] { plain_attention(qkv.as<X>(), out.as<X>(), 256); });
    b.k().attention_forward(b.s(), qkv, sequences, kLayout, 0.125f, 0, out, lse);
    b.row("attention_backward " + name, true, 2.5 * flops,
          [&] { b.k().attention_backward(b.s(), dout, qkv, out, lse, sequences, kLayout, 0.125f, 0, dqkv); });
  }
  const int64_t past = 4000, width = int64_t{kLayout.kv_heads} * kLayout.head_dim;
  const TensorView keys = b.tensor(type, {past + 1, width}), values = b.tensor(type, {past + 1, width}), one = b.tensor(type, {1, kLayout.row()});
  b.row(std::string("attention_cached 4001 keys") + TypeName<X>::name, false, static_cast<double>(2 * keys.bytes()),
        [&] { b.k().attention_cached(b.s(), one, keys, values, past, kLayout, 0.125f, 0, out.first(1)); });
}

template <class X>
void plain_rms_norm(const X* x, const X* weight, X* y, int64_t rows) {
  for (int64_t t = 0; t < rows; ++t) {
    float square = 0;
    for (int64_t j = 0; j < kHidden; ++j) square += value(x[t * kHidden + j]) * value(x[t * kHidden + j]);
    const float r = 1 / std::sqrt(square / kHidden + 1e-5f);
    for (int64_t j = 0; j < kHidden; ++j) y[t * kHidden + j] = X(value(weight[j]) * value(x[t * kHidden + j]) * r);
  }
}

template <class X>
void elementwise_rows(Bench& b) {
  constexpr DType type = TypeName<X>::type;
  const std::string suffix = TypeName<X>::name;
  const double item = sizeof(X);
  const TensorView x = b.tensor(type, {kTokens, kHidden}), delta = b.tensor(type, {kTokens, kHidden}), y = b.tensor(type, {kTokens, kHidden});
  const TensorView weight = b.tensor(type, {kHidden}), rstd = b.tensor(DType::float32, {kTokens}), dweight = b.tensor(DType::float32, {kHidden});
  const double row_bytes = static_cast<double>(kTokens * kHidden) * item;
  b.row(
      "rms_norm_forward" + suffix, false, 2 * row_bytes,
      [&] { b.k().rms_norm_forward(b.s(), x, TensorView(), weight, 1e-5f, TensorView(), y, rstd); }, 2 * row_bytes,
      [&] { plain_rms_norm(x.as<X>(), weight.as<X>(), y.as<X>(), kTokens); });
  b.row("rms_norm_forward + residual" + suffix, false, 4 * row_bytes,
        [&] { b.k().rms_norm_forward(b.s(), x, delta, weight, 1e-5f, delta, y, rstd); });
  b.row("rms_norm_backward" + suffix, false, 4 * row_bytes, [&] { b.k().rms_norm_backward(b.s(), y, x, weight, rstd, delta, delta, dweight); });
  b.row("add" + suffix, false, 3 * row_bytes, [&] { b.k().add(b.s(), x, y); });

  const TensorView qkv = b.tensor(type, {kTokens, kLayout.row()}), normed = b.tensor(type, {kTokens, kLayout.row()}),
                   positions = b.tensor(DType::int32, {kTokens});
  const TensorView cos = b.tensor(DType::float32, {kTokens, 32}), sin = b.tensor(DType::float32, {kTokens, 32}),
                   factors = b.tensor(DType::float32, {kTokens, 12});
  const TensorView head_weight = b.tensor(type, {64}), dq = b.tensor(DType::float32, {64}), dk = b.tensor(DType::float32, {64});
  const double qkv_bytes = static_cast<double>(qkv.bytes());
  b.row("rope" + suffix, false, 1.5 * qkv_bytes, [&] { b.k().rope(b.s(), qkv, positions, cos, sin, kLayout, 64, false); });
  b.row("qk_norm_forward" + suffix, false, 2 * qkv_bytes,
        [&] { b.k().qk_norm_forward(b.s(), qkv, head_weight, head_weight, 1e-5f, kLayout, normed, factors); });
  b.row("qk_norm_backward" + suffix, false, 2.25 * qkv_bytes,
        [&] { b.k().qk_norm_backward(b.s(), normed, qkv, head_weight, head_weight, factors, kLayout, dq, dk); });

  const TensorView gate_up = b.tensor(type, {kTokens, 2 * kIntermediate}), h = b.tensor(type, {kTokens, kIntermediate}),
                   dgate_up = b.tensor(type, {kTokens, 2 * kIntermediate});
  const double h_bytes = static_cast<double>(h.bytes());
  b.row(
      "swiglu_forward" + suffix, false, 3 * h_bytes, [&] { b.k().swiglu_forward(b.s(), gate_up, h); }, 3 * h_bytes / 8,
      [&] {
        for (int64_t t = 0; t < kTokens / 8; ++t) {
          const X* gate = gate_up.as<X>() + t * 2 * kIntermediate;
          for (int64_t j = 0; j < kIntermediate; ++j)
            h.as<X>()[t * kIntermediate + j] = X(value(gate[j]) / (1 + std::exp(-value(gate[j]))) * value(gate[kIntermediate + j]));
        }
      });
  b.row("swiglu_backward + recomputed" + suffix, false, 6 * h_bytes, [&] { b.k().swiglu_backward(b.s(), h, gate_up, dgate_up, h); });

  const TensorView logits = b.tensor(type, {kTokens / 4, kVocabulary}), labels = b.tensor(DType::int32, {kTokens / 4}),
                   losses = b.tensor(DType::float32, {kTokens / 4});
  const double logit_bytes = static_cast<double>(logits.bytes());
  b.row(
      "cross_entropy + gradient" + suffix, false, 2 * logit_bytes, [&] { b.k().cross_entropy(b.s(), logits, labels, 1e-3f, true, losses); },
      2 * logit_bytes / 32,
      [&] {
        for (int64_t t = 0; t < kTokens / 128; ++t) {
          X* row = logits.as<X>() + t * kVocabulary;
          float largest = -INFINITY, sum = 0;
          for (int64_t v = 0; v < kVocabulary; ++v) largest = std::max(largest, value(row[v]));
          for (int64_t v = 0; v < kVocabulary; ++v) sum += std::exp(value(row[v]) - largest);
          for (int64_t v = 0; v < kVocabulary; ++v) row[v] = X(std::exp(value(row[v]) - largest) / sum * 1e-3f);
        }
      });
  const TensorView table = b.tensor(type, {kVocabulary, kHidden}), dtable = b.tensor(DType::float32, {kVocabulary, kHidden});
  b.row("embedding_forward" + suffix, false, 2 * row_bytes, [&] { b.k().embedding_forward(b.s(), positions, table, y); });
  b.row("embedding_backward" + suffix, false, row_bytes + 8.0 * static_cast<double>(y.elements()),
        [&] { b.k().embedding_backward(b.s(), positions, y, dtable); });
  b.row("bias_backward" + suffix, false, row_bytes, [&] { b.k().bias_backward(b.s(), x, dweight); });
}

void state_rows(Bench& b) {
  const int64_t n = int64_t{1} << 23;
  const TensorView p = b.tensor(DType::float32, {n}), g = b.tensor(DType::float32, {n}), m = b.tensor(DType::float32, {n}),
                   v = b.tensor(DType::float32, {n});
  const TensorView low = b.tensor(DType::bfloat16, {n});
  b.k().zero(b.s(), v);
  const double bytes = 4.0 * static_cast<double>(n);
  b.row(
      "adamw, bf16 copy", false, 7.5 * bytes,
      [&] {
        b.k().adamw(b.s(), p, g, m, v, low, {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 10, 1});
      },
      7.5 * bytes,
      [&] {
        for (int64_t i = 0; i < n; ++i) {
          float& first = m.as<float>()[i];
          float& second = v.as<float>()[i];
          const float grad = g.as<float>()[i];
          first = 0.9f * first + 0.1f * grad;
          second = 0.95f * second + 0.05f * grad * grad;
          p.as<float>()[i] -= 1e-4f * (first / (std::sqrt(second) + 1e-8f) + 0.1f * p.as<float>()[i]);
          low.as<bfloat16>()[i] = bfloat16(p.as<float>()[i]);
        }
      });
  const TensorView low_m = b.tensor(DType::bfloat16, {n}), low_v = b.tensor(DType::bfloat16, {n});
  b.k().zero(b.s(), low_v);
  const AdamWStep step{1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 10, 1};
  b.row(
      "adamw, states in bf16", false, 4 * bytes, [&] { b.k().adamw(b.s(), low, g, low_m, low_v, TensorView(), step); }, 4 * bytes,
      [&] {
        const math::AdamWFactors f =
            math::adamw_factors(step.learning_rate, step.beta1, step.beta2, step.epsilon, step.weight_decay, step.step, step.grad_scale);
        const auto rounded = [](float x, uint32_t random) {
          bfloat16 y;
          y.bits = math::stochastic_bf16(x, random);
          return y;
        };
        for (int64_t i = 0; i < n; ++i) {
          const math::RoundingBits random = math::rounding_bits(step.seed, step.stream, step.step, i);
          float weight = static_cast<float>(low.as<bfloat16>()[i]), first = static_cast<float>(low_m.as<bfloat16>()[i]);
          float second = static_cast<float>(low_v.as<bfloat16>()[i]);
          math::adamw_update(f, g.as<float>()[i], weight, first, second);
          low.as<bfloat16>()[i] = rounded(weight, random.p);
          low_m.as<bfloat16>()[i] = rounded(first, random.m);
          low_v.as<bfloat16>()[i] = rounded(second, random.v);
        }
      });
  b.row(
      "sum_squares", false, bytes, [&] { b.k().sum_squares(b.s(), g); }, bytes,
      [&] {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(g.as<float>()[i]) * static_cast<double>(g.as<float>()[i]);
        volatile double keep = sum;
        static_cast<void>(keep);
      });
  b.row("cast f32 -> bf16", false, 1.5 * bytes, [&] { b.k().cast(b.s(), g, low); });
  b.row("cast bf16 -> f32", false, 1.5 * bytes, [&] { b.k().cast(b.s(), low, g); });
  b.row("zero", false, bytes, [&] { b.k().zero(b.s(), m); });
}

}  // namespace

int main(int argc, char** argv) {
  omp_set_num_threads(1);
  Bench b(argc > 1 ? argv[1] : "", argc > 2 ? std::atof(argv[2]) : 0.3);
  linear_rows<bfloat16>(b);
  linear_rows<float>(b);
  attention_rows<bfloat16>(b);
  attention_rows<float>(b);
  elementwise_rows<bfloat16>(b);
  elementwise_rows<float>(b);
  state_rows(b);
}
