// Products of small matrices in the cache, the inner loops of attention: c[m, n] (+)= a[m, k] b[k, n], c float32.
//
// Both kinds of tile work on 32-bit elements along k: a float, or a pair of neighbouring bfloat16 (k counts elements; "interleaved" rows:
// b[k][n] holds the pair (row 2k, row 2k + 1) of column n). a may be stored in any order (a_row and a_step are the distances of neighbours in m
// and in k); b and c are rows, n a multiple of the vector's lanes.

#include "kernels/cpu/simd-inl.h"

#if defined(LLMTRAIN_KERNELS_CPU_TILE_MULTIPLY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LLMTRAIN_KERNELS_CPU_TILE_MULTIPLY_INL_H_
#undef LLMTRAIN_KERNELS_CPU_TILE_MULTIPLY_INL_H_
#else
#define LLMTRAIN_KERNELS_CPU_TILE_MULTIPLY_INL_H_
#endif

#undef LLMTRAIN_DOT_TILES
#if HWY_TARGET == HWY_AVX3 && HWY_COMPILER_GCC_ACTUAL
#include <immintrin.h>
#define LLMTRAIN_DOT_TILES 1
#else
#define LLMTRAIN_DOT_TILES 0
#endif

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

// Rows and vectors of c that stay in registers: 6 x 4 of 32 with AVX-512, 6 x 2 of 16 otherwise.
inline constexpr int kTileRows = 6;
inline constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

// Cuts c into register blocks; Micro::run<rows, vectors>() does one.
template <class Micro, int kVectors, class Element>
HWY_INLINE void tile_columns(const Element* a, int64_t a_row, int64_t a_step, const Element* b, int64_t b_row, float* c, int64_t c_row, int64_t m,
                             int64_t k, bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    Micro::template run<kTileRows, kVectors>(a + i * a_row, a_row, a_step, b, b_row, c + i * c_row, c_row, k, accumulate);
  }
  for (; i + 4 <= m; i += 4) Micro::template run<4, kVectors>(a + i * a_row, a_row, a_step, b, b_row, c + i * c_row, c_row, k, accumulate);
  for (; i < m; ++i) Micro::template run<1, kVectors>(a + i * a_row, a_row, a_step, b, b_row, c + i * c_row, c_row, k, accumulate);
}

template <class Micro, class Element>
void tile_multiply(const Element* a, int64_t a_row, int64_t a_step, const Element* b, int64_t b_row, float* c, int64_t c_row, int64_t m, int64_t n,
                   int64_t k, bool accumulate) {
  int64_t j = 0;
  for (; j + kTileVectors * static_cast<int64_t>(kLanes) <= n; j += kTileVectors * kLanes) {
    tile_columns<Micro, kTileVectors>(a, a_row, a_step, b + j, b_row, c + j, c_row, m, k, accumulate);
  }
  for (; j < n; j += kLanes) tile_columns<Micro, 1>(a, a_row, a_step, b + j, b_row, c + j, c_row, m, k, accumulate);
}

struct FloatTile {
  using Element = float;
  static constexpr int kPair = 1;

  template <int kRows, int kVectors>
  static HWY_INLINE void run(const float* HWY_RESTRICT a, int64_t a_row, int64_t a_step, const float* HWY_RESTRICT b, int64_t b_row,
                             float* HWY_RESTRICT c, int64_t c_row, int64_t k, bool accumulate) {
    VF sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[i][j] = accumulate ? hn::LoadU(df, c + i * c_row + j * kLanes) : hn::Zero(df);
    }
    for (int64_t step = 0; step < k; ++step) {
      VF right[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) right[j] = hn::LoadU(df, b + step * b_row + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const VF left = hn::Set(df, a[i * a_row + step * a_step]);
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(left, right[j], sum[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) hn::StoreU(sum[i][j], df, c + i * c_row + j * kLanes);
    }
  }

  static void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t m, int64_t n,
                       int64_t k, bool accumulate) {
    tile_multiply<FloatTile>(a, a_row, a_step, b, b_row, c, c_row, m, n, k, accumulate);
  }
};

#if LLMTRAIN_DOT_TILES
// AVX512-BF16: VDPBF16PS multiplies pairs of bfloat16 and adds both products to a float32 lane. Called only where the processor has it.
struct DotTile {
  using Element = uint32_t;
  static constexpr int kPair = 2;

  template <int kRows, int kVectors>
  __attribute__((target("avx512bf16"))) static void run(const uint32_t* HWY_RESTRICT a, int64_t a_row, int64_t a_step, const uint32_t* HWY_RESTRICT b,
                                                        int64_t b_row, float* HWY_RESTRICT c, int64_t c_row, int64_t k, bool accumulate) {
    __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[i][j] = accumulate ? _mm512_loadu_ps(c + i * c_row + j * 16) : _mm512_setzero_ps();
    }
    for (int64_t step = 0; step < k; ++step) {
      __m512bh right[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) right[j] = (__m512bh)_mm512_loadu_si512(b + step * b_row + j * 16);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * a_row + step * a_step]));
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) _mm512_storeu_ps(c + i * c_row + j * 16, sum[i][j]);
    }
  }

  static void multiply(const uint32_t* a, int64_t a_row, int64_t a_step, const uint32_t* b, int64_t b_row, float* c, int64_t c_row, int64_t m,
                       int64_t n, int64_t k, bool accumulate) {
    tile_multiply<DotTile>(a, a_row, a_step, b, b_row, c, c_row, m, n, k, accumulate);
  }
};
#endif

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
