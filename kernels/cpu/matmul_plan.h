// A bfloat16 product as a plan of oneDNN primitives, and a cache of plans by shape.
//
// Where there are enough rows to pay for it, b is first packed into the layout that oneDNN's kernel prefers: worth 2-9 % with 2048 tokens and a
// hidden size of 512 on AVX512-BF16.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <list>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/gemm.h"

namespace llmtrain::cpu {

class MatmulPlan {
 public:
  MatmulPlan(const GemmShape& shape, const dnnl::engine& engine);
  const GemmShape& shape() const { return shape_; }
  size_t scratch_bytes() const;
  void execute(dnnl::stream& stream, const void* a, const void* b, const void* bias, void* c, char* scratch);

 private:
  // A primitive with the memory objects of its arguments, whose pointers are set for each execution.
  struct Step {
    dnnl::primitive primitive;
    std::vector<int> names;               // DNNL_ARG_…, the scratchpad (if any) last
    std::vector<dnnl::memory> arguments;  // in the order of names
    size_t scratchpad_bytes = 0;
    void add(int name, const dnnl::memory::desc& description, const dnnl::engine& engine);
    void add_scratchpad(const dnnl::memory::desc& description, const dnnl::engine& engine);
    void run(dnnl::stream& stream, std::initializer_list<const void*> pointers, void* scratchpad);
  };
  static Step make_product(const GemmShape& shape, bool packed, const dnnl::engine& engine, dnnl::memory::desc& chosen_b);
  static Step make_packing(const dnnl::memory::desc& from, const dnnl::memory::desc& to, const dnnl::engine& engine);

  GemmShape shape_;
  bool packed_;
  size_t packed_bytes_ = 0, scratchpad_bytes_ = 0;
  Step pack_, multiply_;
};

// The least recently used plan is given up first. Rows vary from batch to batch, so that shapes keep coming: a primitive takes about
// 0.3 ms to make and 100 KB to keep (measured with oneDNN 2.6).
class MatmulPlans {
 public:
  MatmulPlan& find(const GemmShape& shape);
  void execute(MatmulPlan& plan, const void* a, const void* b, const void* bias, void* c, char* scratch) {
    plan.execute(stream_, a, b, bias, c, scratch);
  }

 private:
  static constexpr size_t kCapacity = 160;
  struct Hash {
    size_t operator()(const GemmShape& s) const;
  };
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::list<MatmulPlan> plans_;  // the last used first
  std::unordered_map<GemmShape, std::list<MatmulPlan>::iterator, Hash> index_;
};

}  // namespace llmtrain::cpu
