#include "kernels/cpu/matmul_plan.h"

#include <algorithm>

#include "core/error.h"

namespace llmtrain::cpu {

namespace {

using dnnl::memory;

// Packing b costs about as much as 20-40 rows of the product on AVX512-BF16.
constexpr int64_t kRowsThatPayPacking = 512;

memory::data_type dnnl_type(DType dtype) { return dtype == DType::bfloat16 ? memory::data_type::bf16 : memory::data_type::f32; }

}  // namespace

void MatmulPlan::Step::add(int name, const memory::desc& description, const dnnl::engine& engine) {
  names.push_back(name);
  arguments.push_back(memory(description, engine, DNNL_MEMORY_NONE));
}

void MatmulPlan::Step::add_scratchpad(const memory::desc& description, const dnnl::engine& engine) {
  scratchpad_bytes = description.get_size();
  if (scratchpad_bytes > 0) add(DNNL_ARG_SCRATCHPAD, description, engine);
}

void MatmulPlan::Step::run(dnnl::stream& stream, std::initializer_list<const void*> pointers, void* scratchpad) {
  dnnl_exec_arg_t bound[5];  // the C interface: its arguments need no allocation
  const auto* pointer = pointers.begin();
  for (size_t i = 0; i < names.size(); ++i) {
    arguments[i].set_data_handle(names[i] == DNNL_ARG_SCRATCHPAD ? scratchpad : const_cast<void*>(*pointer++));
    bound[i] = {names[i], arguments[i].get()};
  }
  const dnnl_status_t status = dnnl_primitive_execute(primitive.get(), stream.get(), static_cast<int>(names.size()), bound);
  if (status != dnnl_success) throw OperationError("dnnl_primitive_execute: oneDNN status " + std::to_string(static_cast<int>(status)));
}

// Arguments a, b, c, bias. chosen_b: the layout of b, oneDNN's choice where it is packed.
MatmulPlan::Step MatmulPlan::make_product(const GemmShape& s, bool packed, const dnnl::engine& engine, memory::desc& chosen_b) {
  using tag = memory::format_tag;
  const memory::data_type input = dnnl_type(s.inputs);
  const memory::desc a({s.m, s.k}, input, s.a_transposed ? tag::ba : tag::ab), b({s.k, s.n}, input,
                                                                                 packed           ? tag::any
                                                                                 : s.b_transposed ? tag::ba
                                                                                                  : tag::ab);
  const memory::desc c({s.m, s.n}, dnnl_type(s.output), tag::ab), bias({1, s.n}, input, tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::desc description = s.bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
  const dnnl::matmul::primitive_desc chosen(description, attributes, engine);
  chosen_b = chosen.weights_desc();
  Step step;
  step.primitive = dnnl::matmul(chosen);
  step.add(DNNL_ARG_SRC, a, engine);
  step.add(DNNL_ARG_WEIGHTS, chosen_b, engine);
  step.add(DNNL_ARG_DST, c, engine);
  if (s.bias) step.add(DNNL_ARG_BIAS, bias, engine);
  step.add_scratchpad(chosen.scratchpad_desc(), engine);
  return step;
}

MatmulPlan::Step MatmulPlan::make_packing(const memory::desc& from, const memory::desc& to, const dnnl::engine& engine) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::reorder::primitive_desc chosen(engine, from, engine, to, attributes);
  Step step;
  step.primitive = dnnl::reorder(chosen);
  step.add(DNNL_ARG_FROM, from, engine);
  step.add(DNNL_ARG_TO, to, engine);
  step.add_scratchpad(chosen.scratchpad_desc(), engine);
  return step;
}

MatmulPlan::MatmulPlan(const GemmShape& s, const dnnl::engine& engine) : shape_(s), packed_(s.m >= kRowsThatPayPacking) {
  memory::desc b;
  multiply_ = make_product(s, packed_, engine, b);
  const memory::desc plain({s.k, s.n}, dnnl_type(s.inputs), s.b_transposed ? memory::format_tag::ba : memory::format_tag::ab);
  if (b == plain) packed_ = false;  // the primitive is content with b as it lies
  if (packed_) {
    pack_ = make_packing(plain, b, engine);
    packed_bytes_ = padded(b.get_size());
  }
  scratchpad_bytes_ = std::max(pack_.scratchpad_bytes, multiply_.scratchpad_bytes);
}

size_t MatmulPlan::scratch_bytes() const { return packed_bytes_ + padded(scratchpad_bytes_); }

void MatmulPlan::execute(dnnl::stream& stream, const void* a, const void* b, const void* bias, void* c, char* scratch) {
  char* scratchpad = scratch + packed_bytes_;
  if (packed_) {
    pack_.run(stream, {b, scratch}, scratchpad);
    b = scratch;
  }
  multiply_.run(stream, {a, b, c, bias}, scratchpad);
}

size_t MatmulPlans::Hash::operator()(const GemmShape& s) const {
  size_t h = static_cast<size_t>(s.inputs) | static_cast<size_t>(s.output) << 8 | static_cast<size_t>(s.a_transposed) << 16 |
             static_cast<size_t>(s.b_transposed) << 17 | static_cast<size_t>(s.accumulate) << 18 | static_cast<size_t>(s.bias) << 19;
  for (int64_t d : {s.m, s.n, s.k}) h = (h ^ static_cast<size_t>(d)) * 0x9E3779B97F4A7C15u;
  return h;
}

MatmulPlan& MatmulPlans::find(const GemmShape& shape) {
  const auto at = index_.find(shape);
  if (at != index_.end()) {
    plans_.splice(plans_.begin(), plans_, at->second);
    return plans_.front();
  }
  if (plans_.size() >= kCapacity) {
    index_.erase(plans_.back().shape());
    plans_.pop_back();
  }
  plans_.emplace_front(shape, engine_);
  index_[shape] = plans_.begin();
  return plans_.front();
}

}  // namespace llmtrain::cpu
