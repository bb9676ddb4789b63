// Loops over the threads of a rank (OpenMP). The parts of a loop are chosen so that the result does not depend on how many threads there are.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace llmtrain::cpu {

inline int thread_count() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

// task(i, thread) for i in [0, n), each once, in any order. thread < thread_count().
template <class Task>
void parallel_tasks(int64_t n, const Task& task) {
  const int threads = static_cast<int>(std::min<int64_t>(n, thread_count()));
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) task(i, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < n; ++i) task(i, omp_get_thread_num());
}

// body(begin, end) over disjoint ranges that cover [0, n); every begin is a multiple of `grain`. For bodies that treat each index
// on its own: how the ranges are cut depends on the number of threads.
template <class Body>
void parallel_ranges(int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  const int64_t grains = (n + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(grains, thread_count()));
  if (threads <= 1) {
    body(int64_t{0}, n);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = grains * t / threads * grain, end = std::min(n, grains * (t + 1) / threads * grain);
    if (begin < end) body(begin, end);
  }
}

}  // namespace llmtrain::cpu
