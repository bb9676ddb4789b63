// Blocks of emulated memory, live and given back (emulator/memory.h).
#include "emulator/memory.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "emulator/streams.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(pointer, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(pointer, bytes) static_cast<void>(0)
#endif

namespace llmtrain::emulator {
namespace {

constexpr size_t kAlign = 4096;
constexpr size_t kMostKept = size_t{64} << 20;  // bytes of blocks that were given back
constexpr int kPattern = 0xff;

struct TakenBlock {
  Place place;
  int device;
  size_t bytes, reserved;
  int uses = 0;
};
using TakenBlocks = std::map<const char*, TakenBlock>;

// Never destroyed: the streams' threads use it until the process ends.
struct Memory {
  std::mutex mutex;
  TakenBlocks live, past;
  std::deque<const char*> order;  // of past
  size_t kept = 0;
  std::map<int, size_t> used;
  bool watches_end = false;
};
Memory& memory() {
  static Memory& m = *new Memory;
  return m;
}

TakenBlocks::iterator containing(TakenBlocks& blocks, const void* pointer) {
  const char* p = static_cast<const char*>(pointer);
  auto next = blocks.upper_bound(p);
  if (next == blocks.begin()) return blocks.end();
  --next;
  return p < next->first + next->second.reserved ? next : blocks.end();
}

// That bytes [from, reserved) of a block still hold the pattern.
void check_untouched(const char* block_begin, const TakenBlock& block, size_t from, const char* what) {
  ASAN_UNPOISON_MEMORY_REGION(block_begin, block.reserved);
  const char *begin = block_begin + from, *end = block_begin + block.reserved;
  const char* wrong = std::find_if(begin, end, [](char c) { return static_cast<unsigned char>(c) != kPattern; });
  if (wrong == end || broken()) return;
  fault("%s memory was written %s: byte %zu of a block of %zu", block.place == Place::device ? "device" : "pinned", what,
        static_cast<size_t>(wrong - block_begin), block.bytes);
}
constexpr const char* kAfterwards = "after it had been given back";

// With the mutex held.
void let_go_of_oldest(Memory& m) {
  const auto oldest = m.past.find(m.order.front());
  m.order.pop_front();
  check_untouched(oldest->first, oldest->second, 0, kAfterwards);
  m.kept -= oldest->second.reserved;
  std::free(const_cast<char*>(oldest->first));
  m.past.erase(oldest);
}

void check_at_the_end() {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  for (const auto& [begin, block] : m.past) check_untouched(begin, block, 0, kAfterwards);
}

}  // namespace

void fault(const char* format, ...) {
  std::fputs("emulated GPU: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputs("\n", stderr);
  std::abort();
}

size_t total_memory() {
  const char* text = std::getenv("LLMTRAIN_EMULATED_MEMORY");
  return text ? std::strtoull(text, nullptr, 10) : size_t{8} << 30;
}

size_t memory_used(int device) {
  const std::lock_guard lock(memory().mutex);
  return memory().used[device];
}

void* take_memory(Place place, int device, size_t bytes) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (place == Place::device && bytes > total_memory() - std::min(m.used[device], total_memory())) return nullptr;
  const size_t reserved = (std::max<size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
  char* p = static_cast<char*>(std::aligned_alloc(kAlign, reserved));
  if (p == nullptr) return nullptr;
  std::memset(p, kPattern, reserved);
  ASAN_POISON_MEMORY_REGION(p + bytes, reserved - bytes);
  m.live[p] = {place, device, bytes, reserved};
  if (place == Place::device) m.used[device] += bytes;
  return p;
}

bool give_memory_back(Place place, void* pointer) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = m.live.find(static_cast<const char*>(pointer));
  if (found == m.live.end() || found->second.place != place) return false;
  const TakenBlock block = found->second;
  if (block.uses > 0 && !broken()) fault("%zu bytes of pinned memory were given back while %d copies have still to use them", block.bytes, block.uses);
  m.live.erase(found);
  if (place == Place::device) m.used[block.device] -= block.bytes;
  check_untouched(static_cast<char*>(pointer), block, block.bytes, "behind its end");
  std::memset(pointer, kPattern, block.reserved);
  ASAN_POISON_MEMORY_REGION(pointer, block.reserved);
  m.past[static_cast<const char*>(pointer)] = block;
  m.order.push_back(static_cast<const char*>(pointer));
  m.kept += block.reserved;
  if (!m.watches_end) m.watches_end = std::atexit(check_at_the_end) == 0;
  while (m.kept > kMostKept) let_go_of_oldest(m);
  return true;
}

Place place_of(const void* pointer) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (const auto block = containing(m.live, pointer); block != m.live.end()) return block->second.place;
  if (const auto block = containing(m.past, pointer); block != m.past.end()) return block->second.place;
  return Place::pageable;
}

int device_of_memory(const void* pointer) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto block = containing(m.live, pointer);
  return block == m.live.end() || block->second.place != Place::device ? -1 : block->second.device;
}

void check_memory(const char* what, const void* pointer, size_t bytes) {
  if (bytes == 0) return;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (const auto block = containing(m.live, pointer); block != m.live.end()) {
    const size_t offset = static_cast<size_t>(static_cast<const char*>(pointer) - block->first);
    if (offset + bytes > block->second.bytes)
      fault("%s: %zu bytes from byte %zu of a block of %zu", what, bytes, offset, block->second.bytes);
  } else if (const auto past = containing(m.past, pointer); past != m.past.end()) {
    fault("%s: memory that was given back (a block of %zu bytes)", what, past->second.bytes);
  }
}

void expect_use(const void* pointer) {
  const std::lock_guard lock(memory().mutex);
  if (const auto block = containing(memory().live, pointer); block != memory().live.end()) ++block->second.uses;
}

void end_use(const void* pointer) {
  const std::lock_guard lock(memory().mutex);
  if (const auto block = containing(memory().live, pointer); block != memory().live.end()) --block->second.uses;
}

}  // namespace llmtrain::emulator
