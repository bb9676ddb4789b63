// The threads of emulated kernels: grids, blocks, warps and what threads of a block do together (see cuda_runtime.h beside this folder).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

namespace llmtrain::emulator {

struct Index {
  unsigned x, y, z;
};

struct Block {
  Index index, dim, grid;
  char* shared;        // dynamic shared memory
  size_t shared_bytes;
};

struct Thread {
  Index thread;
  int number;  // x + dim.x * (y + dim.y * z)
};

// Of the thread that runs.
const Thread& current();
const Block& current_block();
inline int lane() { return current().number % 32; }

// Waits until all threads of the block that still run have come here. A thread that has ended counts as having come.
void block_barrier();
// Ends the program, as a kernel's __trap() ends the work on a GPU.
[[noreturn]] void trap();
bool block_or(bool predicate);
// Waits until the threads of `mask` in this warp have come; aborts where a thread outside the mask calls it.
void warp_barrier(unsigned mask);
unsigned ballot(unsigned mask, bool predicate);
// kMailboxBytes that this thread's warp sees of each lane, valid between two warp barriers.
inline constexpr size_t kMailboxBytes = 32;
char* mailbox(int lane);

template <class T>
T exchange(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= kMailboxBytes && std::is_trivially_copyable_v<T>);
  std::memcpy(mailbox(lane()), &value, sizeof value);
  warp_barrier(mask);
  T got;
  std::memcpy(&got, mailbox(from), sizeof got);
  warp_barrier(mask);
  return got;
}

// Whether a GPU takes such a launch: at most 1024 threads, 227 KiB of shared memory, not empty.
bool is_shape_of_a_gpu(Index grid, Index block, size_t shared_bytes);
// Runs `kernel` once for each thread.
void run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& kernel);

}  // namespace llmtrain::emulator
