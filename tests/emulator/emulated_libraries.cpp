// What the emulated plugin has in place of cuBLASLt: matrix products in float32, summed in order; and the versions of what it stands for.
#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "device/cuda/check.h"
#include "emulator/streams.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/versions.h"

namespace llmtrain::cuda {
namespace {

float read(const void* p, DType type, int64_t i) {
  return type == DType::float32 ? static_cast<const float*>(p)[i] : static_cast<float>(static_cast<const bfloat16*>(p)[i]);
}

// Widened copy with the inner dimension contiguous: [rows, k].
std::vector<float> rows_of(const void* p, DType type, int64_t rows, int64_t k, bool inner_is_row) {
  std::vector<float> out(static_cast<size_t>(rows * k));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < k; ++i) out[static_cast<size_t>(r * k + i)] = read(p, type, inner_is_row ? i * rows + r : r * k + i);
  return out;
}

class EmulatedGemm final : public Gemm {
 public:
  size_t workspace_bytes() const override { return 4096; }
  void multiply(cudaStream_t stream, const GemmShape& s, const void* a, const void* b, const void* bias, void* c, void*) override {
    const auto queue = emulator::find_queue(stream);
    LLMTRAIN_ASSERT(queue && emulator::device_of(*queue) == emulator::current_device(), "a matrix product on a stream of another device");
    const emulator::Position done = emulator::enqueue(queue, [=] { carry_out(s, a, b, bias, c); });
    if (emulator::launches_block()) emulator::wait_until(done);
  }
  std::string describe() const override { return "matrix products: emulated"; }

 private:
  static void carry_out(const GemmShape& s, const void* a, const void* b, const void* bias, void* c) {
    const std::vector<float> left = rows_of(a, s.inputs, s.m, s.k, s.a_transposed), right = rows_of(b, s.inputs, s.n, s.k, !s.b_transposed);
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        const float *x = &left[static_cast<size_t>(i * s.k)], *y = &right[static_cast<size_t>(j * s.k)];
        float parts[8] = {};
        int64_t p = 0;
        for (; p + 8 <= s.k; p += 8)
          for (int q = 0; q < 8; ++q) parts[q] += x[p + q] * y[p + q];
        for (; p < s.k; ++p) parts[0] += x[p] * y[p];
        float sum = 0;
        for (const float part : parts) sum += part;
        if (s.bias) sum += read(bias, s.inputs, j);
        const int64_t at = i * s.n + j;
        if (s.accumulate) sum += read(c, s.output, at);
        if (s.output == DType::float32) {
          static_cast<float*>(c)[at] = sum;
        } else {
          static_cast<bfloat16*>(c)[at] = bfloat16(sum);
        }
      }
    }
  }
};

}  // namespace

std::unique_ptr<Gemm> make_gemm(Device&, const CudaKernelsOptions&) { return std::make_unique<EmulatedGemm>(); }

std::vector<std::string> library_versions() { return {"emulated CUDA (tests)"}; }

}  // namespace llmtrain::cuda
