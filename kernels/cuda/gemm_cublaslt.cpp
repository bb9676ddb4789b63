// Matrix products through cuBLASLt (gemm.h). Row-major [R, C] is column-major C x R, so c = op(a) op(b) is asked for as c^T = op(b)^T op(a)^T.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "device/cuda/check.h"
#include "device/cuda/cuda_device.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_choices.h"
#include "kernels/cuda/gemm_fallback.h"

namespace llmtrain::cuda {
namespace {

constexpr int kCandidates = 12;
constexpr int kTimedRuns = 3;

void check_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw OperationError(std::string(call) + ": " + cublasLtGetStatusName(status) + ", " + cublasLtGetStatusString(status));
}
#define LT_CHECK(call) check_lt((call), #call)

struct Destroy {
  void operator()(cublasLtMatmulDescOpaque_t* p) const { cublasLtMatmulDescDestroy(p); }
  void operator()(cublasLtMatrixLayoutOpaque_t* p) const { cublasLtMatrixLayoutDestroy(p); }
  void operator()(cublasLtMatmulPreferenceOpaque_t* p) const { cublasLtMatmulPreferenceDestroy(p); }
};
using Desc = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;

cudaDataType_t type_of(DType type) { return type == DType::float32 ? CUDA_R_32F : CUDA_R_16BF; }

GemmAlgorithm words_of(const cublasLtMatmulAlgo_t& algo) {
  GemmAlgorithm words;
  static_assert(sizeof words == sizeof algo);
  std::memcpy(&words, &algo, sizeof words);
  return words;
}

struct Operands {
  const void *a, *b, *bias;
  void* c;
};

// How far the addresses are aligned, up to the 16 bytes of the widest load.
int alignment_of(const Operands& o) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(o.a) | reinterpret_cast<uintptr_t>(o.b) | reinterpret_cast<uintptr_t>(o.c) |
                         reinterpret_cast<uintptr_t>(o.bias) | 16;
  return static_cast<int>(bits & (~bits + 1));
}

// A shape as cuBLASLt describes it, with its algorithm.
struct Product {
  Desc desc;
  Layout left, right, out;
  cublasLtMatmulAlgo_t algo = {};
  bool own_kernel = false;  // cuBLASLt has none
};

Layout layout_of(DType type, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  LT_CHECK(cublasLtMatrixLayoutCreate(&layout, type_of(type), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), columns));
  return Layout(layout);
}

Product describe_product(const GemmShape& s, bool tf32) {
  Product p;
  cublasLtMatmulDesc_t desc = nullptr;
  LT_CHECK(cublasLtMatmulDescCreate(&desc, tf32 && s.inputs == DType::float32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  p.desc.reset(desc);
  // b is stored [n, k] where transposed, else [k, n]; a [k, m] or [m, k].
  const cublasOperation_t op_left = s.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, op_right = s.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_left, sizeof op_left));
  LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_right, sizeof op_right));
  if (s.bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t bias_type = type_of(s.inputs);
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type));
  }
  p.left = layout_of(s.inputs, s.b_transposed ? s.n : s.k, s.b_transposed ? s.k : s.n);
  p.right = layout_of(s.inputs, s.a_transposed ? s.k : s.m, s.a_transposed ? s.m : s.k);
  p.out = layout_of(s.output, s.m, s.n);
  return p;
}

// Memory for timing shapes before the run; freed at the end.
class Trial {
 public:
  // False where there is not enough.
  bool take(void** pointer, size_t bytes) {
    if (cudaMalloc(pointer, std::max<size_t>(bytes, 256)) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    blocks_.push_back(*pointer);
    return true;
  }
  ~Trial() {
    for (void* block : blocks_) cudaFree(block);
  }

 private:
  std::vector<void*> blocks_;
};

// Values as in a network: timings with constant ones flatter (a GPU that multiplies zeros draws less power and clocks higher).
void fill_random(void* memory, size_t bytes, DType type) {
  constexpr size_t kBlock = size_t{1} << 20;
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<char> block(std::min(bytes, kBlock));
  for (size_t i = 0; i + size_of(type) <= block.size(); i += size_of(type)) {
    const float x = uniform(random);
    const bfloat16 half(x);
    std::memcpy(&block[i], type == DType::float32 ? static_cast<const void*>(&x) : &half, size_of(type));
  }
  CUDA_CHECK(cudaMemcpy(memory, block.data(), block.size(), cudaMemcpyHostToDevice));
  for (size_t done = block.size(); done < bytes; done *= 2)
    CUDA_CHECK(cudaMemcpy(static_cast<char*>(memory) + done, memory, std::min(done, bytes - done), cudaMemcpyDeviceToDevice));
}

class CublasLtGemm final : public Gemm {
 public:
  CublasLtGemm(Device& device, const CudaKernelsOptions& options);
  ~CublasLtGemm() override;
  size_t workspace_bytes() const override { return workspace_bytes_; }
  void announce(std::span<const GemmShape> shapes) override;
  void multiply(cudaStream_t stream, const GemmShape& shape, const void* a, const void* b, const void* bias, void* c, void* workspace) override;
  std::string describe() const override {
    return "matrix products: cuBLASLt " + std::to_string(cublasLtGetVersion()) + ", " +
           (options_.deterministic ? "its first proposal for each shape" : std::to_string(choices_.size()) + " timed choices") +
           (options_.tf32 ? ", float32 as TF32" : "");
  }
  void save_choices() override;

 private:
  // Where work is submitted, and scratch memory; `flush`: what is overwritten to empty the L2 cache.
  struct Place {
    cudaStream_t stream;
    void* workspace;
    void* flush;
    size_t flush_bytes;
  };
  Product& product(const Place& place, const GemmShape& shape, const Operands& operands);
  void choose(const Place& place, Product& p, const GemmShape& shape, const Operands& operands);
  bool fits(Product& p, const std::optional<GemmAlgorithm>& words) const;
  void keep(const GemmKey& key, const cublasLtMatmulAlgo_t& algo);
  std::vector<cublasLtMatmulAlgo_t> propose(const Product& p, int alignment) const;
  size_t fastest(const Place& place, const Product& p, const std::vector<cublasLtMatmulAlgo_t>& algorithms, const GemmShape& shape,
                 const Operands& operands);
  float timed(const Place& place, const Product& p, const cublasLtMatmulAlgo_t& algo, const GemmShape& shape, const Operands& operands, float best);
  cublasStatus_t run(const Place& place, const Product& p, const cublasLtMatmulAlgo_t& algo, const GemmShape& shape, const Operands& operands) const;
  void load_choices();
  void time_on_trial_memory(const std::vector<GemmShape>& unknown);
  void log(const std::string& line) const {
    if (options_.log) options_.log(line);
  }

  CudaKernelsOptions options_;
  cublasLtHandle_t handle_ = nullptr;
  size_t workspace_bytes_ = 0, l2_bytes_ = 0;
  std::string environment_, file_;
  GemmChoices choices_;  // timed, here or in an earlier run
  GemmChoices settled_;  // what this process runs, whatever is timed later
  bool unsaved_ = false;
  std::set<std::string> said_;
  using ShapeKey = std::tuple<int64_t, int64_t, int64_t, int, DType, DType, int>;
  std::map<ShapeKey, Product> products_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

CublasLtGemm::CublasLtGemm(Device& device, const CudaKernelsOptions& options) : options_(options) {
  const int index = device_index(device);
  CUDA_CHECK(cudaSetDevice(index));
  int major = 0, multiprocessors = 0, l2 = 0, driver = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index));
  CUDA_CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, index));
  CUDA_CHECK(cudaDriverGetVersion(&driver));
  CUDA_CHECK(cudaEventCreate(&begin_));
  CUDA_CHECK(cudaEventCreate(&end_));
  LT_CHECK(cublasLtCreate(&handle_));
  workspace_bytes_ = size_t{major >= 9 ? 32u : 4u} << 20;
  l2_bytes_ = static_cast<size_t>(l2);
  environment_ = device_info(index).name + ", " + std::to_string(multiprocessors) + " multiprocessors, driver " + std::to_string(driver) + ", cuBLASLt " +
                 std::to_string(cublasLtGetVersion()) + ", workspace " + std::to_string(workspace_bytes_);
  if (options_.cache_folder.empty() || options_.deterministic) return;
  std::string name = environment_;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
  file_ = options_.cache_folder + "/gemm-" + name + ".txt";
  load_choices();
}

CublasLtGemm::~CublasLtGemm() {
  products_.clear();
  cublasLtDestroy(handle_);
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

void CublasLtGemm::load_choices() {
  if (!is_regular_file(file_)) return;
  std::string why;
  try {
    if (const auto found = GemmChoices::parse(read_file(file_, size_t{16} << 20), environment_, why)) {
      choices_.merge(*found);
      return;
    }
  } catch (const std::exception& e) {
    why = e.what();
  }
  log("the algorithms kept in " + file_ + " are not used: " + why);
}

void CublasLtGemm::save_choices() {
  if (!unsaved_ || file_.empty()) return;
  unsaved_ = false;
  load_choices();  // another rank may have written meanwhile; what is chosen here stays
  try {
    make_directories(options_.cache_folder);
    write_file_atomically(file_, choices_.text(environment_));
  } catch (const std::exception& e) {
    file_.clear();
    log(std::string("chosen matrix-product algorithms are not kept: ") + e.what());
  }
}

cublasStatus_t CublasLtGemm::run(const Place& place, const Product& p, const cublasLtMatmulAlgo_t& algo, const GemmShape& s, const Operands& o) const {
  const float one = 1, beta = s.accumulate ? 1.0f : 0.0f;
  return cublasLtMatmul(handle_, p.desc.get(), &one, o.b, p.left.get(), o.a, p.right.get(), &beta, o.c, p.out.get(), o.c, p.out.get(), &algo,
                        place.workspace, workspace_bytes_, place.stream);
}

void CublasLtGemm::multiply(cudaStream_t stream, const GemmShape& s, const void* a, const void* b, const void* bias, void* c, void* workspace) {
  if (s.m == 0 || s.n == 0) return;
  if (s.k == 0) return multiply_any_shape(stream, s, a, b, bias, c);
  const Operands operands = {a, b, s.bias ? bias : nullptr, c};
  const Place place = {stream, workspace, workspace, workspace_bytes_};
  Product& p = product(place, s, operands);
  if (p.own_kernel) return multiply_any_shape(stream, s, a, b, bias, c);
  if (s.bias) LT_CHECK(cublasLtMatmulDescSetAttribute(p.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
  LT_CHECK(run(place, p, p.algo, s, operands));
}

Product& CublasLtGemm::product(const Place& place, const GemmShape& s, const Operands& operands) {
  constexpr size_t kMostProducts = 8192;  // packed batches bring ever new numbers of tokens
  const int flags = s.a_transposed + 2 * s.b_transposed + 4 * s.accumulate + 8 * s.bias;
  const ShapeKey key = {s.m, s.n, s.k, flags, s.inputs, s.output, alignment_of(operands)};
  const auto found = products_.find(key);
  if (found != products_.end()) return found->second;
  Product p = describe_product(s, options_.tf32);
  // The bias has to be there when algorithms are asked for: its alignment counts.
  if (s.bias) LT_CHECK(cublasLtMatmulDescSetAttribute(p.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &operands.bias, sizeof operands.bias));
  choose(place, p, s, operands);
  if (products_.size() >= kMostProducts) products_.clear();
  return products_.emplace(key, std::move(p)).first->second;
}

void CublasLtGemm::choose(const Place& place, Product& p, const GemmShape& s, const Operands& operands) {
  const int alignment = alignment_of(operands);
  const GemmKey key = key_of(s, alignment, options_.tf32);
  const auto settled = settled_.find(key);
  if (!options_.deterministic && (settled ? fits(p, settled) : fits(p, choices_.find(key)) || fits(p, choices_.nearest(key)))) {
    settled_.set(key, words_of(p.algo));
    return;
  }
  const std::vector<cublasLtMatmulAlgo_t> proposed = propose(p, alignment);
  p.own_kernel = proposed.empty();
  if (p.own_kernel) {
    if (said_.insert(key.kind).second) log("matrix products of " + key.kind + " run on an own kernel: cuBLASLt has no algorithm for them");
    return;
  }
  p.algo = proposed[0];
  if (options_.deterministic || settled) return;
  if (!s.accumulate && proposed.size() > 1) {
    p.algo = proposed[fastest(place, p, proposed, s, operands)];
    keep(key, p.algo);
  }
  settled_.set(key, words_of(p.algo));
}

void CublasLtGemm::keep(const GemmKey& key, const cublasLtMatmulAlgo_t& algo) {
  choices_.set(key, words_of(algo));
  unsaved_ = true;
}

// Takes the algorithm where there is one and the library says that it fits this shape.
bool CublasLtGemm::fits(Product& p, const std::optional<GemmAlgorithm>& words) const {
  if (!words) return false;
  cublasLtMatmulAlgo_t algo;
  std::memcpy(&algo, &*words, sizeof algo);
  cublasLtMatmulHeuristicResult_t result = {};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle_, p.desc.get(), p.left.get(), p.right.get(), p.out.get(), p.out.get(), &algo, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > workspace_bytes_) return false;
  p.algo = algo;
  return true;
}

std::vector<cublasLtMatmulAlgo_t> CublasLtGemm::propose(const Product& p, int alignment) const {
  cublasLtMatmulPreference_t raw = nullptr;
  LT_CHECK(cublasLtMatmulPreferenceCreate(&raw));
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy> preference(raw);
  const uint32_t bytes = static_cast<uint32_t>(alignment), reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;  // or none
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    LT_CHECK(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes_});
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction);
  for (const auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(attribute, bytes);
  cublasLtMatmulHeuristicResult_t results[kCandidates] = {};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, p.desc.get(), p.left.get(), p.right.get(), p.out.get(), p.out.get(), raw,
                                                               kCandidates, results, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  check_lt(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < found; ++i)
    if (results[i].state == CUBLAS_STATUS_SUCCESS && results[i].workspaceSize <= workspace_bytes_) algorithms.push_back(results[i].algo);
  return algorithms;
}

size_t CublasLtGemm::fastest(const Place& place, const Product& p, const std::vector<cublasLtMatmulAlgo_t>& algorithms, const GemmShape& s,
                             const Operands& operands) {
  size_t best = 0;
  float best_time = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < algorithms.size(); ++i) {
    const float time = timed(place, p, algorithms[i], s, operands, best_time);
    if (time >= best_time) continue;
    best = i;
    best_time = time;
  }
  return best;
}

// Milliseconds of the fastest run; infinity where it does not run. Given up early where the first is far slower than the best so far.
float CublasLtGemm::timed(const Place& place, const Product& p, const cublasLtMatmulAlgo_t& algo, const GemmShape& s, const Operands& operands,
                          float best) {
  float time = std::numeric_limits<float>::infinity();
  if (run(place, p, algo, s, operands) != CUBLAS_STATUS_SUCCESS) return time;  // also loads the kernel
  for (int i = 0; i < kTimedRuns; ++i) {
    CUDA_CHECK(cudaMemsetAsync(place.flush, 0, place.flush_bytes, place.stream));
    CUDA_CHECK(cudaEventRecord(begin_, place.stream));
    if (run(place, p, algo, s, operands) != CUBLAS_STATUS_SUCCESS) return std::numeric_limits<float>::infinity();
    CUDA_CHECK(cudaEventRecord(end_, place.stream));
    CUDA_CHECK(cudaEventSynchronize(end_));
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin_, end_));
    time = std::min(time, milliseconds);
    if (time > 1.5f * best) break;
  }
  return time;
}

void CublasLtGemm::announce(std::span<const GemmShape> shapes) {
  if (options_.deterministic) return;
  std::vector<GemmShape> unknown;
  for (const GemmShape& s : shapes)
    if (s.m > 0 && s.n > 0 && s.k > 0 && !choices_.find(key_of(s, 16, options_.tf32))) unknown.push_back(s);
  if (unknown.empty()) return;
  const auto begin = std::chrono::steady_clock::now();
  time_on_trial_memory(unknown);
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.1f s", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  log("timed algorithms for " + std::to_string(unknown.size()) + " matrix-product shapes in " + seconds);
  save_choices();
}

void CublasLtGemm::time_on_trial_memory(const std::vector<GemmShape>& unknown) {
  size_t a = 0, b = 0, c = 0, bias = 0;
  for (const GemmShape& s : unknown) {
    a = std::max(a, static_cast<size_t>(s.m * s.k) * size_of(s.inputs));
    b = std::max(b, static_cast<size_t>(s.k * s.n) * size_of(s.inputs));
    c = std::max(c, static_cast<size_t>(s.m * s.n) * size_of(s.output));
    bias = std::max(bias, static_cast<size_t>(s.n) * size_of(s.inputs));
  }
  Trial memory;
  void *left = nullptr, *right = nullptr, *out = nullptr, *bias_row = nullptr, *workspace = nullptr, *flush = nullptr;
  const size_t flush_bytes = std::max<size_t>(2 * l2_bytes_, 4096);
  if (!memory.take(&left, a) || !memory.take(&right, b) || !memory.take(&out, c) || !memory.take(&bias_row, bias) ||
      !memory.take(&workspace, workspace_bytes_) || !memory.take(&flush, flush_bytes)) {
    log("too little free memory on the GPU to time matrix products: cuBLASLt's first proposals are taken");
    return;
  }
  fill_random(left, a, unknown[0].inputs);
  fill_random(right, b, unknown[0].inputs);
  fill_random(bias_row, bias, unknown[0].inputs);
  CUDA_CHECK(cudaMemset(out, 0, c));
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_CHECK(cudaDeviceSynchronize());
  const Place place = {stream, workspace, flush, flush_bytes};
  for (const GemmShape& s : unknown) {
    const Operands operands = {left, right, s.bias ? bias_row : nullptr, out};
    Product p = describe_product(s, options_.tf32);
    if (s.bias) LT_CHECK(cublasLtMatmulDescSetAttribute(p.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &operands.bias, sizeof operands.bias));
    const std::vector<cublasLtMatmulAlgo_t> proposed = propose(p, 16);
    if (proposed.empty()) continue;  // multiply() says so when the shape comes
    keep(key_of(s, 16, options_.tf32), proposed[fastest(place, p, proposed, s, operands)]);
  }
  CUDA_CHECK(cudaStreamSynchronize(stream));
  CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace

std::unique_ptr<Gemm> make_gemm(Device& device, const CudaKernelsOptions& options) { return std::make_unique<CublasLtGemm>(device, options); }

}  // namespace llmtrain::cuda
