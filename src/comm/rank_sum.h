// Sums over ranks and large copies, at the speed of memory. The order of the sum is the order of the ranks, whatever the number of threads.
// Thread rules: free functions; `parallel` uses the calling thread's OpenMP team (only on the compute stream: another thread would start a second
// team).
#pragma once

#include <cstddef>

namespace llmtrain {

// out[i] = (accumulate ? out[i] : 0) + (sources[0][i] + sources[1][i] + … + sources[n-1][i]), the sum in brackets first, from left to right, float32.
void sum_in_rank_order(const float* const* sources, int n, size_t count, float* out, bool accumulate, bool parallel);

void copy_bytes(void* to, const void* from, size_t bytes, bool parallel);

}  // namespace llmtrain
