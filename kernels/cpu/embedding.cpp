// Embedding: rows of a table, and the gradient added back into it.
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding.cpp"
#include "kernels/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmtrain::cpu {
namespace HWY_NAMESPACE {

template <class X>
void add_rows(const int32_t* ids, int64_t tokens, const X* dout, float* dtable, int64_t hidden, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < tokens; ++t) {
    float* to = dtable + ids[t] * hidden;
    const X* from = dout + t * hidden;
    for_vectors(begin, end, [&](int64_t j, auto lanes) HWY_ATTR { store(hn::Add(load(to + j, lanes), load(from + j, lanes)), to + j, lanes); });
  }
}

// The columns are shared out, so that each element of the table gets its additions in the order of t.
void embedding_backward_kernel(TensorView ids, TensorView dout, TensorView dtable) {
  const int64_t tokens = ids.dim(0), hidden = dtable.dim(1);
  with_compute_type(dout.dtype, [&](auto x) {
    using X = decltype(x);
    parallel_ranges(hidden, 64,
                    [&](int64_t begin, int64_t end) { add_rows(ids.as<int32_t>(), tokens, dout.as<X>(), dtable.as<float>(), hidden, begin, end); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace llmtrain::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmtrain::cpu {

HWY_EXPORT(embedding_backward_kernel);

void embedding_forward(TensorView ids, TensorView table, TensorView out) {
  const size_t row = static_cast<size_t>(table.dim(1)) * size_of(table.dtype);
  const int32_t* id = ids.as<int32_t>();
  parallel_ranges(ids.dim(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      LLMTRAIN_ASSERT(id[t] >= 0 && id[t] < table.dim(0), "token id " + std::to_string(id[t]) + " outside the vocabulary");
      std::memcpy(out.as<char>() + static_cast<size_t>(t) * row, table.as<char>() + static_cast<size_t>(id[t]) * row, row);
    }
  });
}

void embedding_backward(TensorView ids, TensorView dout, TensorView dtable) {
  for (int64_t t = 0; t < ids.dim(0); ++t) {
    const int32_t id = ids.as<int32_t>()[t];
    LLMTRAIN_ASSERT(id >= 0 && id < dtable.dim(0), "token id " + std::to_string(id) + " outside the vocabulary");
  }
  HWY_DYNAMIC_DISPATCH(embedding_backward_kernel)(ids, dout, dtable);
}

}  // namespace llmtrain::cpu
#endif
