// A CUDA runtime that runs on the processor: what the sources of the CUDA backend use of the language and of cudart, so that the same kernels
// can be compiled by the host compiler and tested where there is no GPU. Found before the toolkit's header of the same name by the emulated plugin.
//
// A kernel's blocks run one after the other; the threads of a block are fibers (Boost.Context) that give way at __syncthreads, __syncwarp and the
// warp's exchanges. Each stream is a queue with a thread of its own, which can be made late on purpose (emulator/streams.h). Device memory is host memory
// that only lies elsewhere, filled with a pattern that is a NaN in every type, as is memory that was given back (emulator/memory.h), and dynamic shared memory
// at the start of a block.
// What this does not show: races between threads of a block that do not synchronise (each fiber runs until it gives way), races between kernels of two
// streams within their run (one kernel at a time runs in a process), speed, and what vendor libraries do.
//
// Source of names and meanings: CUDA Runtime API and C++ Programming Guide, https://docs.nvidia.com/cuda/.
// Thread rules: as the real runtime; kernels run one at a time (a mutex sees to it).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#include "emulator/threads.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __constant__ static
#define __align__(n) alignas(n)
#define __CUDA_EMULATED__ 1

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- the language: built-in variables, barriers, exchanges within a warp

namespace llmtrain::emulator {

// One of x, y, z of a built-in variable: read anew each time.
template <const Index& (*from)(), unsigned Index::*axis>
struct Axis {
  operator unsigned() const { return from().*axis; }
};
template <const Index& (*from)()>
struct Builtin {
  Axis<from, &Index::x> x;
  Axis<from, &Index::y> y;
  Axis<from, &Index::z> z;
};
inline const Index& thread_index() { return current().thread; }
inline const Index& block_index() { return current_block().index; }
inline const Index& block_dim() { return current_block().dim; }
inline const Index& grid_dim() { return current_block().grid; }

}  // namespace llmtrain::emulator

inline constexpr llmtrain::emulator::Builtin<llmtrain::emulator::thread_index> threadIdx{};
inline constexpr llmtrain::emulator::Builtin<llmtrain::emulator::block_index> blockIdx{};
inline constexpr llmtrain::emulator::Builtin<llmtrain::emulator::block_dim> blockDim{};
inline constexpr llmtrain::emulator::Builtin<llmtrain::emulator::grid_dim> gridDim{};
inline constexpr int warpSize = 32;

inline void __syncthreads() { llmtrain::emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { llmtrain::emulator::warp_barrier(mask); }
[[noreturn]] inline void __trap() { llmtrain::emulator::trap(); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  const int me = llmtrain::emulator::lane(), base = me / width * width;
  return llmtrain::emulator::exchange(mask, value, base + (lane % width + width) % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int me = llmtrain::emulator::lane(), to = me ^ bits;
  return llmtrain::emulator::exchange(mask, value, to / width == me / width ? to : me);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int me = llmtrain::emulator::lane(), to = me + static_cast<int>(by);
  return llmtrain::emulator::exchange(mask, value, to / width == me / width ? to : me);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int me = llmtrain::emulator::lane(), to = me - static_cast<int>(by);
  return llmtrain::emulator::exchange(mask, value, to >= me / width * width ? to : me);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return llmtrain::emulator::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return llmtrain::emulator::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return llmtrain::emulator::ballot(mask, predicate != 0) == mask; }
inline int __syncthreads_or(int predicate) { return llmtrain::emulator::block_or(predicate != 0); }

// Blocks run one after the other and fibers do not interrupt each other: plain operations are atomic.
template <class T, class U>
T atomicAdd(T* to, U value) { const T old = *to; *to = static_cast<T>(old + static_cast<T>(value)); return old; }
template <class T, class U>
T atomicMax(T* to, U value) { const T old = *to; if (static_cast<T>(value) > old) *to = static_cast<T>(value); return old; }
template <class T, class U>
T atomicMin(T* to, U value) { const T old = *to; if (static_cast<T>(value) < old) *to = static_cast<T>(value); return old; }
template <class T, class U>
T atomicOr(T* to, U value) { const T old = *to; *to = static_cast<T>(old | static_cast<T>(value)); return old; }
template <class T>
T atomicExch(T* to, T value) { const T old = *to; *to = value; return old; }
template <class T>
T atomicCAS(T* to, T compare, T value) { const T old = *to; if (old == compare) *to = value; return old; }

template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
T __ldcs(const T* p) { return *p; }
template <class T>
void __stcs(T* p, T value) { *p = value; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline int __float_as_int(float f) { int u; std::memcpy(&u, &f, 4); return u; }
inline float __int_as_float(int u) { float f; std::memcpy(&f, &u, 4); return f; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T>
constexpr T max(T a, T b) { return a < b ? b : a; }

// ---- cudart

enum cudaError_t {
  cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101, cudaErrorInvalidResourceHandle = 400, cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700, cudaErrorLaunchFailure = 719, cudaErrorUnknown = 999
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;
struct CUevent_st;
using cudaEvent_t = CUevent_st*;
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1, cudaDevAttrMultiProcessorCount = 16, cudaDevAttrClockRate = 13, cudaDevAttrMemoryClockRate = 36,
  cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
inline constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0,
                          cudaHostAllocPortable = 1;
struct cudaUUID_t { char bytes[16]; };
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount, pciBusID, pciDeviceID, pciDomainID;
};

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDeviceReset();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemset(void* to, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) { return cudaSuccess; }
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) { *blocks = 2; return cudaSuccess; }

struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
namespace llmtrain::emulator {
// Gives the kernel to the stream (runtime.cpp).
cudaError_t launch(Index grid, Index block, size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel);
}  // namespace llmtrain::emulator
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* c, void (*kernel)(P...), A&&... arguments) {
  return llmtrain::emulator::launch({c->gridDim.x, c->gridDim.y, c->gridDim.z}, {c->blockDim.x, c->blockDim.y, c->blockDim.z}, c->dynamicSmemBytes, c->stream,
                                    [kernel, copies = std::tuple<P...>(static_cast<P>(std::forward<A>(arguments))...)] { std::apply(kernel, copies); });
}
