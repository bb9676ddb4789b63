// The memory of the emulated GPUs and pinned host memory: host memory that only lies elsewhere.
//
// Fresh memory and memory that was given back hold a pattern that is a NaN in every type. What was given back is kept for a while: a copy from or to it ends
// the program with a message, and so does a write that destroyed the pattern, as soon as it is noticed (at the latest when the program ends).
// Thread rules: any thread.
#pragma once

#include <cstddef>

namespace llmtrain::emulator {

enum class Place { pageable, pinned, device };

size_t total_memory();            // of a device, LLMTRAIN_EMULATED_MEMORY bytes
size_t memory_used(int device);
void* take_memory(Place place, int device, size_t bytes);  // null: there is none
bool give_memory_back(Place place, void* pointer);         // false: it was never taken
Place place_of(const void* pointer);
int device_of_memory(const void* pointer);  // -1: of none
// Ends the program where [pointer, pointer + bytes) is not all of one live block. Pageable memory is not looked at.
void check_memory(const char* what, const void* pointer, size_t bytes);

// Pinned memory that copies have still to use, which may not be given back.
void expect_use(const void* pointer);
void end_use(const void* pointer);

[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace llmtrain::emulator
