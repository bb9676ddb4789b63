// The few instructions that CUDA C++ has no words for, each under a name. The only file with inline assembly (PTX ISA,
// https://docs.nvidia.com/cuda/parallel-thread-execution/); the tests' emulator has one of the same name with the same meanings.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace llmtrain::cuda::ptx {

// The block's dynamic shared memory, aligned to 128 bytes.
template <class T = char>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) char llmtrain_dynamic_shared[];
  return reinterpret_cast<T*>(llmtrain_dynamic_shared);
}

// Two float32 rounded to nearest even bfloat16: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x, error 2 ulp; subnormal results become 0.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 16 bytes from global into shared memory without registers; `bytes` (0 or 16) of them are read, the rest is zero. Both 16-byte aligned.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, int bytes = 16) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's groups are still under way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned); r[i] holds
// elements (row lane / 4, columns 2 (lane % 4) and + 1) of matrix i; the transposed form holds those of its transpose.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

// d[16, 8] += a[16, 16] b[16, 8] by one warp; a, b bfloat16, d float32. Fragments of mma.m16n8k16 (g = lane / 4, t = lane % 4, pairs of columns or
// rows in one register, the lower first):
//   a[0]: (g, 2t..), a[1]: (g + 8, 2t..), a[2]: (g, 2t + 8..), a[3]: (g + 8, 2t + 8..)
//   b[0]: (2t.., g), b[1]: (2t + 8.., g);  d[0], d[1]: (g, 2t), (g, 2t + 1);  d[2], d[3]: (g + 8, 2t), (g + 8, 2t + 1)
__device__ __forceinline__ void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace llmtrain::cuda::ptx
