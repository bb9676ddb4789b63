// Rates of the backend's kernels at the shapes of the models of rows.tsv, beside the limits that are measured in the same run: a copy within the
// device's memory (bytes read and written) and a large bf16 matrix product. Goes through CudaBackend, Device and Kernels only.
//
//   gpu_kernels [--device cuda|cpu] [--only PART] [--seconds S a row, default 0.15] [--tiny] [--json FILE]
//
// A row's time is the median over several batches of calls on one stream, the host waiting at the end of each batch: launches overlap with work as they
// do in a step. Values are random (matrix products of zeros run faster), sizes those of a step, most of them beyond the L2 cache. Bytes are the least that
// the operation must move. `share`: the rate as a share of the measured limit that bounds the operation. --tiny: small shapes, one call each, for a dry
// run. --json FILE is written anew after each row.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "device/cuda_backend.h"
#include "kernels/kernels.h"

namespace llmtrain {
namespace {

struct Options {
  std::string device = "cuda", only, json;
  double seconds = 0.15;
  bool tiny = false;
};

struct Shapes {
  const char* name;
  int64_t hidden, intermediate, vocabulary, tokens, sequence;
  HeadLayout layout;
};

// The micro-batches of rows.tsv, the two ends and the middle of its models.
constexpr Shapes kShapes[] = {{"qwen2.5-0.5b", 896, 4864, 151936, 32768, 1024, {14, 2, 64}},
                              {"qwen2.5-7b", 3584, 18944, 152064, 4096, 1024, {28, 4, 128}},
                              {"llama-3-8b", 4096, 14336, 128256, 16384, 4096, {32, 8, 128}}};
constexpr Shapes kTiny[] = {{"tiny", 64, 160, 512, 128, 64, {4, 2, 16}}};

constexpr DType kType = DType::bfloat16;

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    if (options.device == "cpu") {
      device_ = make_cpu_device(1);
      kernels_ = make_cpu_kernels(*device_);
    } else {
      std::string why;
      const std::optional<CudaBackend> backend = CudaBackend::try_open(why);
      if (!backend) throw NotHere("no GPU: " + why);
      device_ = backend->plugin().make_device(0);
      CudaKernelsOptions kernels;
      kernels.log = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
      kernels_ = backend->plugin().make_kernels(*device_, kernels);
    }
    stream_ = device_->make_stream("compute", false);
    std::printf("%s\n%s\n%-44s %10s %10s %8s %7s\n", device_->describe().c_str(), kernels_->describe().c_str(), "operation", "us", "rate", "", "share");
  }
  ~Bench() {
    try {
      clear();
    } catch (const std::exception&) {  // a GPU that has failed says so again: what it said first is on its way out
    }
  }

  void clear() {
    stream_->synchronize();
    for (void* p : blocks_) device_->free(p);
    blocks_.clear();
  }

  Kernels& k() { return *kernels_; }
  Stream& s() { return *stream_; }
  Device& device() { return *device_; }
  bool tiny() const { return options_.tiny; }

  TensorView tensor(DType type, Shape shape) {
    TensorView t(nullptr, type, shape);
    t.data = device_->allocate(t.bytes());
    blocks_.push_back(t.data);
    // Random values of a million elements, repeated: the generator on the host is not what is measured.
    const int64_t part = std::min<int64_t>(t.elements(), 1 << 20);
    std::vector<char> host(static_cast<size_t>(part) * size_of(type));
    std::minstd_rand random(static_cast<unsigned>(blocks_.size()));
    for (int64_t i = 0; i < part; ++i) {
      const float value = static_cast<float>(random() % 20001) / 10000.0f - 1.0f;
      if (type == DType::float32) reinterpret_cast<float*>(host.data())[i] = value;
      if (type == DType::bfloat16) reinterpret_cast<bfloat16*>(host.data())[i] = bfloat16(value);
    }
    const size_t size = size_of(type);
    for (int64_t at = 0; at < t.elements(); at += part)
      device_->copy_to_device(*stream_, static_cast<char*>(t.data) + static_cast<size_t>(at) * size, host.data(),
                              static_cast<size_t>(std::min(part, t.elements() - at)) * size);
    stream_->synchronize();
    return t;
  }

  TensorView integers(const std::vector<int32_t>& values) {
    TensorView t(nullptr, DType::int32, {static_cast<int64_t>(values.size())});
    t.data = device_->allocate(t.bytes());
    blocks_.push_back(t.data);
    device_->copy_to_device(*stream_, t.data, values.data(), t.bytes());
    stream_->synchronize();
    return t;
  }

  bool wanted(const std::string& name) const { return name.find(options_.only) != std::string::npos; }

  // `amount`: bytes or floating-point operations of a call. Returns the rate, 0 where the row was not asked for.
  double row(const std::string& name, bool flops, double amount, const std::function<void()>& work, bool always = false) {
    if (!always && !wanted(name)) return 0;
    const double seconds = median_seconds(work), rate = amount / seconds;
    double& limit = flops ? gemm_limit_ : copy_limit_;
    const double share = limit > 0 ? rate / limit : 0;
    std::printf("%-44s %10.1f %10.1f %8s %6.1f%%\n", name.c_str(), seconds * 1e6, rate * (flops ? 1e-12 : 1e-9), flops ? "TFLOP/s" : "GB/s", 100 * share);
    std::fflush(stdout);
    results_.push_back(Json{{"operation", name}, {"seconds", seconds}, {flops ? "flop_per_second" : "bytes_per_second", rate}});
    if (share > 0) results_.back()["share_of_limit"] = share;
    write();
    return rate;
  }
  void set_limits(double copy, double gemm) { copy_limit_ = copy, gemm_limit_ = gemm; }

 private:
  using Clock = std::chrono::steady_clock;
  double batch_seconds(const std::function<void()>& work, int calls) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) work();
    stream_->synchronize();
    return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
  }
  double median_seconds(const std::function<void()>& work) {
    batch_seconds(work, 1);  // algorithms are chosen, plans compiled
    if (options_.tiny) return batch_seconds(work, 1);
    const double once = batch_seconds(work, 2);
    constexpr int kBatches = 5;
    const int calls = std::clamp(static_cast<int>(options_.seconds / kBatches / std::max(once, 1e-6)), 1, 2000);
    std::vector<double> times;
    for (int i = 0; i < kBatches; ++i) times.push_back(batch_seconds(work, calls));
    std::nth_element(times.begin(), times.begin() + kBatches / 2, times.end());
    return times[kBatches / 2];
  }
  void write() const {
    if (options_.json.empty()) return;
    const Json all{{"device", device_->describe()}, {"kernels", kernels_->describe()}, {"rows", results_}};
    std::ofstream(options_.json + ".tmp") << dump_json(all) << "\n";
    std::rename((options_.json + ".tmp").c_str(), options_.json.c_str());
  }

  Options options_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Stream> stream_;
  std::vector<void*> blocks_;
  std::vector<Json> results_;
  double copy_limit_ = 0, gemm_limit_ = 0;
};

double d(int64_t value) { return static_cast<double>(value); }

// What bounds everything else: a copy, a large matrix product, and the way to and from the host.
void limit_rows(Bench& b) {
  const int64_t n = b.tiny() ? 64 : 8192, mib = b.tiny() ? 1 : 1024;
  const size_t bytes = static_cast<size_t>(mib) << 20;
  const TensorView from = b.tensor(DType::float32, {static_cast<int64_t>(bytes / 4)}), to = b.tensor(DType::float32, {static_cast<int64_t>(bytes / 4)});
  const double copy = b.row("limit: copy within the device", false, 2 * d(mib << 20), [&] { b.device().copy(b.s(), to.data, from.data, bytes); }, true);
  const TensorView x = b.tensor(kType, {n, n}), w = b.tensor(kType, {n, n}), y = b.tensor(kType, {n, n});
  const double gemm = b.row("limit: matrix product of " + std::to_string(n) + "^3, bf16", true, 2 * d(n) * d(n) * d(n),
                            [&] { b.k().linear_forward(b.s(), x, w, TensorView(), y, false); }, true);
  void* host = b.device().allocate_host(bytes / 4);
  std::memset(host, 1, bytes / 4);
  b.row("host to device, pinned", false, d(mib << 20) / 4, [&] { b.device().copy_to_device(b.s(), to.data, host, bytes / 4); });
  b.row("device to host, pinned", false, d(mib << 20) / 4, [&] { b.device().copy_to_host(b.s(), host, from.data, bytes / 4); });
  b.s().synchronize();
  b.device().free_host(host);
  b.set_limits(copy, gemm);
  b.clear();
}

void gemm_rows(Bench& b, const Shapes& m) {
  const int64_t heads = static_cast<int64_t>(m.layout.heads) * m.layout.head_dim;
  const struct {
    const char* name;
    int64_t in, out, tokens;
  } shapes[] = {{"qkv", m.hidden, m.layout.row(), m.tokens},
                {"o", heads, m.hidden, m.tokens},
                {"gate_up", m.hidden, 2 * m.intermediate, m.tokens},
                {"down", m.intermediate, m.hidden, m.tokens},
                {"head", m.hidden, m.vocabulary, std::min<int64_t>(m.tokens, 4096)}};
  for (const auto& s : shapes) {
    const std::string name = std::string(m.name) + " " + s.name;
    if (!b.wanted("gemm forward " + name) && !b.wanted("gemm input " + name) && !b.wanted("gemm weight " + name)) continue;
    const TensorView x = b.tensor(kType, {s.tokens, s.in}), w = b.tensor(kType, {s.out, s.in}), y = b.tensor(kType, {s.tokens, s.out}),
                     dw = b.tensor(DType::float32, {s.out, s.in});
    const double flops = 2 * d(s.tokens) * d(s.in) * d(s.out);
    b.row("gemm forward " + name, true, flops, [&] { b.k().linear_forward(b.s(), x, w, TensorView(), y, false); });
    b.row("gemm input " + name, true, flops, [&] { b.k().linear_backward_input(b.s(), y, w, x, false); });
    b.row("gemm weight " + name, true, flops, [&] { b.k().linear_backward_weight(b.s(), y, x, dw); });
    b.clear();
  }
}

void attention_rows(Bench& b, const Shapes& m) {
  const std::string name = m.name;
  if (!b.wanted("attention forward " + name) && !b.wanted("attention backward " + name)) return;
  const int64_t heads = static_cast<int64_t>(m.layout.heads) * m.layout.head_dim;
  const TensorView qkv = b.tensor(kType, {m.tokens, m.layout.row()}), dqkv = b.tensor(kType, {m.tokens, m.layout.row()}),
                   out = b.tensor(kType, {m.tokens, heads}), dout = b.tensor(kType, {m.tokens, heads}),
                   lse = b.tensor(DType::float32, {m.tokens, m.layout.heads});
  std::vector<int32_t> cu;
  for (int64_t t = 0; t <= m.tokens; t += m.sequence) cu.push_back(static_cast<int32_t>(t));
  const Sequences sequences{cu, static_cast<int32_t>(m.sequence)};
  const float scale = 0.125f;
  // Exact causal count: two products of 2 D operations for each visible pair, five in the backward pass.
  const double flops = 4 * d(m.tokens) * d(m.sequence + 1) / 2 * d(heads);
  b.k().attention_forward(b.s(), qkv, sequences, m.layout, scale, 0, out, lse);
  b.row("attention forward " + name, true, flops, [&] { b.k().attention_forward(b.s(), qkv, sequences, m.layout, scale, 0, out, lse); });
  b.row("attention backward " + name, true, 2.5 * flops,
        [&] { b.k().attention_backward(b.s(), dout, qkv, out, lse, sequences, m.layout, scale, 0, dqkv); });
  b.clear();
}

void elementwise_rows(Bench& b, const Shapes& m) {
  const std::string name = m.name;
  const int64_t T = m.tokens, h = m.hidden, half = m.layout.head_dim / 2;
  {
    const TensorView x = b.tensor(kType, {T, h}), delta = b.tensor(kType, {T, h}), y = b.tensor(kType, {T, h}), weight = b.tensor(kType, {h}),
                     rstd = b.tensor(DType::float32, {T}), dweight = b.tensor(DType::float32, {h});
    const double bytes = d(x.bytes());
    b.row("rms_norm_forward + residual " + name, false, 4 * bytes, [&] { b.k().rms_norm_forward(b.s(), x, delta, weight, 1e-5f, delta, y, rstd); });
    b.row("rms_norm_backward " + name, false, 4 * bytes, [&] { b.k().rms_norm_backward(b.s(), y, x, weight, rstd, delta, delta, dweight); });
    b.row("add " + name, false, 3 * bytes, [&] { b.k().add(b.s(), x, y); });
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < T; ++t) ids.push_back(static_cast<int32_t>(t * 7919 % m.vocabulary));
    const TensorView tokens = b.integers(ids), table = b.tensor(kType, {m.vocabulary, h}), dtable = b.tensor(DType::float32, {m.vocabulary, h});
    b.row("embedding_forward " + name, false, 2 * bytes, [&] { b.k().embedding_forward(b.s(), tokens, table, y); });
    b.row("embedding_backward " + name, false, bytes + 8 * d(x.elements()), [&] { b.k().embedding_backward(b.s(), tokens, x, dtable); });
    b.clear();
  }
  {
    std::vector<int32_t> places;
    for (int64_t t = 0; t < T; ++t) places.push_back(static_cast<int32_t>(t % m.sequence));
    const TensorView qkv = b.tensor(kType, {T, m.layout.row()}), positions = b.integers(places), cos = b.tensor(DType::float32, {m.sequence, half}),
                     sin = b.tensor(DType::float32, {m.sequence, half});
    const double moved = 2 * d(T) * d(int64_t{m.layout.heads + m.layout.kv_heads} * m.layout.head_dim) * 2;
    b.row("rope " + name, false, moved, [&] { b.k().rope(b.s(), qkv, positions, cos, sin, m.layout, m.layout.head_dim, false); });
    b.clear();
  }
  {
    const TensorView gate_up = b.tensor(kType, {T, 2 * m.intermediate}), out = b.tensor(kType, {T, m.intermediate});
    const double bytes = d(out.bytes());
    b.row("swiglu_forward " + name, false, 3 * bytes, [&] { b.k().swiglu_forward(b.s(), gate_up, out); });
    b.row("swiglu_backward + recomputed " + name, false, 6 * bytes, [&] { b.k().swiglu_backward(b.s(), out, gate_up, gate_up, out); });
    b.clear();
  }
  {
    const int64_t rows = std::min<int64_t>(T, 4096);
    std::vector<int32_t> wanted;
    for (int64_t t = 0; t < rows; ++t) wanted.push_back(static_cast<int32_t>(t * 104729 % m.vocabulary));
    const TensorView logits = b.tensor(kType, {rows, m.vocabulary}), labels = b.integers(wanted), losses = b.tensor(DType::float32, {rows});
    b.row("cross_entropy + gradient " + name, false, 2 * d(logits.bytes()), [&] { b.k().cross_entropy(b.s(), logits, labels, 1e-3f, true, losses); });
    b.clear();
  }
}

void state_rows(Bench& b) {
  const int64_t n = b.tiny() ? 4096 : int64_t{1} << 28;
  const TensorView grad = b.tensor(DType::float32, {n});
  AdamWStep step{1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 10, 1};
  step.seed = 1;
  const double elements = d(n);
  const struct {
    const char* name;
    DType master, moments;
    double bytes;  // an element, read and written
  } kinds[] = {{"adamw, bfloat16 states", DType::bfloat16, DType::bfloat16, 4 + 2 * (2 + 2 + 2)},
               {"adamw, mixed states", DType::float32, DType::bfloat16, 4 + 2 * (4 + 2 + 2) + 2},
               {"adamw, float32 states", DType::float32, DType::float32, 4 + 2 * (4 + 4 + 4) + 2}};
  for (const auto& kind : kinds) {
    if (!b.wanted(kind.name)) continue;
    const TensorView p = b.tensor(kind.master, {n}), m = b.tensor(kind.moments, {n}), v = b.tensor(kind.moments, {n});
    const TensorView low = kind.master == DType::float32 ? b.tensor(kType, {n}) : TensorView();
    b.k().zero(b.s(), v);
    b.row(kind.name, false, kind.bytes * elements, [&] { b.k().adamw(b.s(), p, grad, m, v, low, step); });
    b.s().synchronize();
  }
  b.row("sum_squares", false, 4 * elements, [&] { b.k().sum_squares(b.s(), grad); });
  const TensorView low = b.tensor(kType, {n});
  b.row("cast f32 -> bf16", false, 6 * elements, [&] { b.k().cast(b.s(), grad, low); });
  b.row("zero", false, 4 * elements, [&] { b.k().zero(b.s(), grad); });
  b.clear();
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--tiny") {
      o.tiny = true;
      continue;
    }
    if (i + 1 == argc) throw InputError("usage: gpu_kernels [--device cuda|cpu] [--only PART] [--seconds S] [--tiny] [--json FILE]");
    const std::string value = argv[++i];
    if (word == "--device") {
      o.device = value;
    } else if (word == "--only") {
      o.only = value;
    } else if (word == "--seconds") {
      o.seconds = std::atof(value.c_str());
    } else if (word == "--json") {
      o.json = value;
    } else {
      throw InputError(word, "is no option of gpu_kernels");
    }
  }
  if (o.device != "cuda" && o.device != "cpu") throw InputError("--device", "'" + o.device + "' is unknown", "choose cuda or cpu");
  return o;
}

void run(const Options& options) {
  Bench b(options);
  limit_rows(b);
  for (const Shapes& m : options.tiny ? std::span<const Shapes>(kTiny) : std::span<const Shapes>(kShapes)) {
    gemm_rows(b, m);
    attention_rows(b, m);
    elementwise_rows(b, m);
  }
  state_rows(b);
}

}  // namespace
}  // namespace llmtrain

int main(int argc, char** argv) {
  try {
    llmtrain::run(llmtrain::parse(argc, argv));
    return llmtrain::kExitDone;
  } catch (const llmtrain::NotHere& error) {
    std::printf("SKIPPED: gpu_kernels\t%s\n", error.what());
    return llmtrain::kExitNotHere;
  } catch (const llmtrain::InputError& error) {
    std::fprintf(stderr, "gpu_kernels: %s\n", error.what());
    return llmtrain::kExitInput;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_kernels: %s\n", error.what());
    return llmtrain::kExitFailed;
  }
}
