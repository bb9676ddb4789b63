// Sums over ranks and large copies (rank_sum.h).
#include "comm/rank_sum.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace llmtrain {
namespace {

constexpr size_t kBlock = 2048;                          // floats: a block of partial sums stays in the first-level cache
constexpr size_t kParallelBytes = size_t{1} << 20;       // below, a team costs more than it gains

// Plain loops that the compiler vectorises for the processor at hand; additions alone, so every width gives the same bits.
__attribute__((target_clones("avx512f", "avx2", "default"))) void first_sum(const float* a, const float* b, size_t n, float* out) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_to(const float* a, size_t n, float* out) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] += a[i];
}

// The commonest case, two ranks, in one pass.
__attribute__((target_clones("avx512f", "avx2", "default"))) void add_two_to(const float* a, const float* b, size_t n, float* out) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] += a[i] + b[i];
}

void sum_block(const float* const* sources, int n, size_t begin, size_t count, float* out, bool accumulate) {
  if (n == 2 && accumulate) {
    add_two_to(sources[0] + begin, sources[1] + begin, count, out + begin);
    return;
  }
  if (n == 1 && accumulate) {
    add_to(sources[0] + begin, count, out + begin);
    return;
  }
  alignas(64) float partial[kBlock];
  float* to = accumulate ? partial : out + begin;
  if (n == 1) {
    std::memcpy(to, sources[0] + begin, count * sizeof(float));
  } else {
    first_sum(sources[0] + begin, sources[1] + begin, count, to);
  }
  for (int q = 2; q < n; ++q) add_to(sources[q] + begin, count, to);
  if (accumulate) {
    add_to(partial, count, out + begin);
  } else {
    for (size_t i = 0; i < count; ++i) to[i] += 0.0f;  // as 0 + sum: a negative zero becomes zero, so that accumulating into zeros gives the same bits
  }
}

}  // namespace

void sum_in_rank_order(const float* const* sources, int n, size_t count, float* out, bool accumulate, bool parallel) {
  const int64_t blocks = static_cast<int64_t>((count + kBlock - 1) / kBlock);
  const bool team = parallel && count * sizeof(float) >= kParallelBytes && omp_get_max_threads() > 1;
#pragma omp parallel for schedule(static) if (team)
  for (int64_t b = 0; b < blocks; ++b) {
    const size_t begin = static_cast<size_t>(b) * kBlock;
    sum_block(sources, n, begin, std::min(kBlock, count - begin), out, accumulate);
  }
}

void copy_bytes(void* to, const void* from, size_t bytes, bool parallel) {
  if (!parallel || bytes < kParallelBytes || omp_get_max_threads() == 1) {
    std::memcpy(to, from, bytes);
    return;
  }
  const size_t piece = kParallelBytes / 4;
  const int64_t pieces = static_cast<int64_t>((bytes + piece - 1) / piece);
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < pieces; ++p) {
    const size_t begin = static_cast<size_t>(p) * piece;
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, std::min(piece, bytes - begin));
  }
}

}  // namespace llmtrain
