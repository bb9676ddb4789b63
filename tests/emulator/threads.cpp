// Fibers, barriers and the scheduler of emulated kernels (emulator/threads.h).
#include "emulator/threads.h"

#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace llmtrain::emulator {
namespace {

namespace ctx = boost::context;

enum class State { runnable, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  ctx::fiber context;
  Thread thread;
  State state = State::runnable;
  unsigned mask = 0;  // of the warp barrier
  bool predicate = false;
};

struct Mailboxes {
  alignas(16) char slots[32][kMailboxBytes];
};

// Stacks are kept from block to block: making them anew costs more than most kernels.
class StackPool {
 public:
  ctx::stack_context allocate() {
    if (free_.empty()) {
      const ctx::stack_context fresh = ctx::fixedsize_stack(kBytes).allocate();
      begins_.push_back(static_cast<char*>(fresh.sp) - fresh.size);
      return fresh;
    }
    const ctx::stack_context stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void deallocate(ctx::stack_context& stack) noexcept { free_.push_back(stack); }

 private:
  static constexpr size_t kBytes = 128 * 1024;
  std::vector<ctx::stack_context> free_;
  std::vector<char*> begins_;  // a stack is known by its end: so that a leak checker finds it
};

struct PooledStack {
  StackPool* pool;
  ctx::stack_context allocate() { return pool->allocate(); }
  void deallocate(ctx::stack_context& stack) noexcept { pool->deallocate(stack); }
};

// What runs now. One kernel at a time runs in a process.
struct Running {
  Block block;
  std::vector<Fiber> fibers;
  std::vector<Mailboxes> mail;  // a warp each
  Fiber* current = nullptr;
  ctx::fiber scheduler;
  bool any = false;  // result of the last block_or()
  unsigned ballots = 0;
};
Running* running = nullptr;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel, block (%u, %u, %u): %s\n", running->block.index.x, running->block.index.y, running->block.index.z, what);
  std::abort();
}

void give_way(State state) {
  Fiber* me = running->current;
  me->state = state;
  running->scheduler = std::move(running->scheduler).resume();
}

// Releases the threads of a warp whose warp barrier is complete; true where it released some.
bool release_warp(Running& r, size_t first, size_t end) {
  bool released = false;
  for (size_t i = first; i < end; ++i) {
    if (r.fibers[i].state != State::at_warp_barrier) continue;
    const unsigned mask = r.fibers[i].mask;
    if (!(mask >> (i - first) & 1)) fail("a thread waits at a warp barrier whose mask does not name it");
    bool complete = true;
    for (size_t j = first; j < end; ++j) {
      if (!(mask >> (j - first) & 1) || r.fibers[j].state == State::done) continue;
      complete = complete && r.fibers[j].state == State::at_warp_barrier && r.fibers[j].mask == mask;
    }
    if (!complete) continue;
    for (size_t j = first; j < end; ++j)
      if (mask >> (j - first) & 1 && r.fibers[j].state == State::at_warp_barrier) r.fibers[j].state = State::runnable;
    released = true;
  }
  return released;
}

void run_block(Running& r, const std::function<void()>& kernel, StackPool& stacks) {
  const unsigned count = r.block.dim.x * r.block.dim.y * r.block.dim.z;
  r.fibers.clear();
  r.fibers.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    Fiber& f = r.fibers[i];
    f.thread = {{i % r.block.dim.x, i / r.block.dim.x % r.block.dim.y, i / (r.block.dim.x * r.block.dim.y)}, static_cast<int>(i)};
    f.context = ctx::fiber(std::allocator_arg, PooledStack{&stacks}, [&r, &f, &kernel](ctx::fiber&& scheduler) {
      r.scheduler = std::move(scheduler);
      kernel();
      f.state = State::done;
      return std::move(r.scheduler);
    });
  }
  while (true) {
    bool progress = false, all_done = true;
    for (size_t first = 0; first < count; first += 32) {
      const size_t end = std::min<size_t>(first + 32, count);
      do {
        for (size_t i = first; i < end; ++i) {
          Fiber& f = r.fibers[i];
          if (f.state != State::runnable) continue;
          r.current = &f;
          f.context = std::move(f.context).resume();
          progress = true;
        }
      } while (release_warp(r, first, end));
    }
    bool at_barrier = true;
    for (const Fiber& f : r.fibers) {
      all_done = all_done && f.state == State::done;
      at_barrier = at_barrier && (f.state == State::at_block_barrier || f.state == State::done);
    }
    if (all_done) return;
    if (at_barrier) {
      r.any = false;
      for (Fiber& f : r.fibers) r.any = r.any || (f.state == State::at_block_barrier && f.predicate);
      for (Fiber& f : r.fibers)
        if (f.state == State::at_block_barrier) f.state = State::runnable;
    } else if (!progress) {
      fail("threads wait for each other at different barriers");
    }
  }
}

}  // namespace

const Thread& current() { return running->current->thread; }
const Block& current_block() { return running->block; }

void trap() { fail("trap: the kernel found its input broken"); }

void block_barrier() {
  running->current->predicate = false;
  give_way(State::at_block_barrier);
}

bool block_or(bool predicate) {
  running->current->predicate = predicate;
  give_way(State::at_block_barrier);
  return running->any;
}

void warp_barrier(unsigned mask) {
  const unsigned threads = running->block.dim.x * running->block.dim.y * running->block.dim.z;
  const unsigned first = static_cast<unsigned>(running->current->thread.number) / 32 * 32, present = std::min(32u, threads - first);
  running->current->mask = present == 32 ? mask : mask & ((1u << present) - 1);
  give_way(State::at_warp_barrier);
}

unsigned ballot(unsigned mask, bool predicate) {
  unsigned result = 0;
  const unsigned mine = predicate ? 1 : 0;
  std::memcpy(mailbox(lane()), &mine, sizeof mine);
  warp_barrier(mask);
  for (int i = 0; i < 32; ++i) {
    unsigned theirs = 0;
    if (mask >> i & 1) std::memcpy(&theirs, mailbox(i), sizeof theirs);
    result |= (theirs & 1) << i;
  }
  warp_barrier(mask);
  return result;
}

char* mailbox(int lane) { return running->mail[static_cast<size_t>(running->current->thread.number / 32)].slots[lane]; }

bool is_shape_of_a_gpu(Index grid, Index block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads > 0 && threads <= 1024 && block.z <= 64 && shared_bytes <= 227 * 1024 && grid.x > 0 && grid.y > 0 && grid.z > 0 &&
         grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
}

void run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex& one_at_a_time = *new std::mutex;  // the streams' threads use them until the process ends
  static StackPool& stacks = *new StackPool;
  const std::lock_guard lock(one_at_a_time);
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  Running r;
  std::unique_ptr<char, decltype(&std::free)> shared(static_cast<char*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128)), &std::free);
  r.mail.resize((threads + 31) / 32);
  running = &r;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        std::memset(shared.get(), 0xff, shared_bytes);  // NaN in every type: shared memory begins undefined
        std::memset(r.mail.data(), 0, r.mail.size() * sizeof(Mailboxes));
        r.block = {{x, y, z}, block, grid, shared.get(), shared_bytes};
        run_block(r, kernel, stacks);
      }
    }
  }
  running = nullptr;
}

}  // namespace llmtrain::emulator
