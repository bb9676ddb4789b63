// The one file that includes cudnn-frontend (attention_cudnn_plan.h). Its headers take half a minute to compile.
#include "kernels/cuda/attention_cudnn_plan.h"

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // cudnn-frontend asks for this variable; open_cudnn() sets it
}

namespace llmtrain::cuda {
namespace {

namespace fe = cudnn_frontend;
namespace graph = cudnn_frontend::graph;
using Tensor = std::shared_ptr<graph::Tensor_attributes>;

void check(fe::error_t status, const char* what) {
  if (status.is_bad()) throw OperationError(std::string("cuDNN, ") + what + ": " + status.get_message());
}
void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) throw OperationError(std::string(what) + ": " + fe::detail::get_error_string(status));
}

// cudnn-frontend throws where a library or a function is missing.
template <class F>
auto translated(const char* what, const F& f) {
  try {
    return f();
  } catch (const OperationError&) {
    throw;
  } catch (const std::exception& e) {
    throw OperationError(std::string("cuDNN, ") + what + ": " + e.what());
  }
}

// The numbers by which run() names the tensors of a graph; part of a serialized plan.
enum Uid : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv, kQkvOffsets, kOutOffsets, kLseOffsets, kDqOffsets, kDkvOffsets, kLengthsQ, kLengthsK };

class Builder {
 public:
  Builder(graph::Graph& graph, const AttentionGraph& g) : graph_(graph), g_(g) {}
  void forward();
  void backward();

 private:
  // [slots, heads, longest, width], token-major: the rows of a batch are `row` elements apart.
  Tensor rows(const char* name, Uid uid, int64_t heads, int64_t width, int64_t row, fe::DataType_t type, const Tensor& offsets) {
    return graph_.tensor(attributes(name, uid, heads, width, row, type).set_ragged_offset(offsets));
  }
  graph::Tensor_attributes attributes(const char* name, Uid uid, int64_t heads, int64_t width, int64_t row, fe::DataType_t type) {
    return graph::Tensor_attributes()
        .set_name(name)
        .set_uid(uid)
        .set_dim({g_.slots, heads, g_.longest, width})
        .set_stride({g_.longest * row, width, row, 1})
        .set_data_type(type);
  }
  Tensor per_slot(const char* name, Uid uid, int64_t entries, fe::DataType_t type) {
    return graph_.tensor(
        graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim({entries, 1, 1, 1}).set_stride({1, 1, 1, 1}).set_data_type(type));
  }
  Tensor offsets(const char* name, Uid uid) { return per_slot(name, uid, g_.slots + 1, fe::DataType_t::INT64); }
  void output(const Tensor& t, const graph::Tensor_attributes& like, const Tensor& offsets) {
    t->set_output(true).set_uid(like.get_uid()).set_dim(like.get_dim()).set_stride(like.get_stride()).set_data_type(like.get_data_type());
    t->set_ragged_offset(offsets);
  }
  // What both directions read.
  void inputs() {
    const int64_t d = g_.layout.head_dim, row = g_.layout.row();
    qkv_offsets_ = offsets("qkv_offsets", kQkvOffsets);
    out_offsets_ = offsets("out_offsets", kOutOffsets);
    q_ = rows("q", kQ, g_.layout.heads, d, row, kHalf, qkv_offsets_);
    k_ = rows("k", kK, g_.layout.kv_heads, d, row, kHalf, qkv_offsets_);
    v_ = rows("v", kV, g_.layout.kv_heads, d, row, kHalf, qkv_offsets_);
    lengths_q_ = per_slot("lengths_q", kLengthsQ, g_.slots, fe::DataType_t::INT32);
    lengths_k_ = per_slot("lengths_k", kLengthsK, g_.slots, fe::DataType_t::INT32);
  }
  template <class Attributes>
  void mask(Attributes& options) {
    options.set_attn_scale(g_.scale)
        .set_padding_mask(true)
        .set_seq_len_q(lengths_q_)
        .set_seq_len_kv(lengths_k_)
        .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
        .set_diagonal_band_right_bound(0);
    if (g_.window > 0) options.set_diagonal_band_left_bound(g_.window);
  }

  static constexpr fe::DataType_t kHalf = fe::DataType_t::BFLOAT16, kFloat = fe::DataType_t::FLOAT;
  graph::Graph& graph_;
  const AttentionGraph& g_;
  Tensor q_, k_, v_, qkv_offsets_, out_offsets_, lengths_q_, lengths_k_;
};

void Builder::forward() {
  inputs();
  const int64_t d = g_.layout.head_dim, heads = g_.layout.heads;
  graph::SDPA_attributes options;
  options.set_name("attention").set_generate_stats(g_.stats);
  mask(options);
  auto [out, lse] = graph_.sdpa(q_, k_, v_, options);
  output(out, attributes("out", kOut, heads, d, heads * d, kHalf), out_offsets_);
  if (g_.stats) output(lse, attributes("lse", kLse, heads, 1, heads, kFloat), offsets("lse_offsets", kLseOffsets));
}

void Builder::backward() {
  inputs();
  const int64_t d = g_.layout.head_dim, heads = g_.layout.heads, kv_heads = g_.layout.kv_heads, row = g_.layout.row();
  const Tensor out = rows("out", kOut, heads, d, heads * d, kHalf, out_offsets_), dout = rows("dout", kDout, heads, d, heads * d, kHalf, out_offsets_),
               lse = rows("lse", kLse, heads, 1, heads, kFloat, offsets("lse_offsets", kLseOffsets));
  graph::SDPA_backward_attributes options;
  options.set_name("attention_backward").set_max_total_seq_len_q(g_.tokens).set_max_total_seq_len_kv(g_.tokens);
  options.set_deterministic_algorithm(g_.deterministic);
  mask(options);
  auto [dq, dk, dv] = graph_.sdpa_backward(q_, k_, v_, out, dout, lse, options);
  const GradientLayout place = gradient_layout(g_.layout, g_.tokens);
  const Tensor dq_offsets = offsets("dq_offsets", kDqOffsets), dkv_offsets = offsets("dkv_offsets", kDkvOffsets);
  output(dq, attributes("dq", kDq, heads, d, place.dq_in_place ? row : heads * d, kHalf), dq_offsets);
  output(dk, attributes("dk", kDk, kv_heads, d, place.dkv_in_place ? row : kv_heads * d, kHalf), dkv_offsets);
  output(dv, attributes("dv", kDv, kv_heads, d, place.dkv_in_place ? row : kv_heads * d, kHalf), dkv_offsets);
}

void open_library(std::string& why) {
  // cudnn-frontend opens libcudart by itself, that of CUDA 12 first; and it takes the backward pass that repeats bit for bit in linear memory (cuDNN 9.25)
  // only where the variable says that the quadratic one may have no memory. Values that the user set stay.
  const std::string runtime = "libcudart.so." + std::to_string(CUDART_VERSION / 1000);
  ::setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", runtime.c_str(), 0);
  ::setenv("CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT", "0", 0);
  void* library = ::dlopen("libcudnn.so.9", RTLD_NOW);
  if (library == nullptr) {
    const char* error = ::dlerror();
    why = std::string("cuDNN could not be opened: ") + (error ? error : "libcudnn.so.9");
    return;
  }
  if (::dlopen(runtime.c_str(), RTLD_NOW) == nullptr) {
    const char* error = ::dlerror();
    why = std::string("cuDNN's front end needs the shared CUDA runtime: ") + (error ? error : runtime);
    return;
  }
  fe::cudnn_dlhandle = library;
  why = refuse_version(fe::detail::get_backend_version());
}

}  // namespace

bool open_cudnn(std::string& why) {
  static std::once_flag once;
  static std::string reason;
  std::call_once(once, [] {
    try {
      open_library(reason);
    } catch (const std::exception& e) {
      reason = e.what();
    }
  });
  why = reason;
  return reason.empty();
}

size_t cudnn_version() { return fe::detail::get_backend_version(); }

struct CudnnTarget::Impl {
  cudnnHandle_t handle = nullptr;
  std::shared_ptr<const fe::DeviceProperties> properties;
  ~Impl() {
    if (handle) fe::detail::destroy_handle(handle);
  }
};

CudnnTarget::CudnnTarget(std::unique_ptr<Impl> impl, int sm) : impl_(std::move(impl)), sm_(sm) {}
CudnnTarget::CudnnTarget(CudnnTarget&&) noexcept = default;
CudnnTarget::~CudnnTarget() = default;

CudnnTarget CudnnTarget::current_device(int sm) {
  return translated("cudnnCreate", [&] {
    auto impl = std::make_unique<Impl>();
    check(fe::detail::create_handle(&impl->handle), "cudnnCreate");
    return CudnnTarget(std::move(impl), sm);
  });
}

CudnnTarget CudnnTarget::described(const std::string& json, int sm) {
  return translated("device description", [&] {
    auto properties = std::make_shared<fe::DeviceProperties>();
    check(properties->deserialize(std::vector<uint8_t>(json.begin(), json.end())), "device description");
    auto impl = std::make_unique<Impl>();
    impl->properties = std::move(properties);
    return CudnnTarget(std::move(impl), sm);
  });
}

void CudnnTarget::set_stream(cudaStream_t stream) {
  translated("cudnnSetStream", [&] { check(fe::detail::set_stream(impl_->handle, stream), "cudnnSetStream"); });
}

struct AttentionPlan::Impl {
  graph::Graph graph;
};

AttentionPlan::AttentionPlan(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  int64_t bytes = 0;
  check(impl_->graph.get_workspace_size(bytes), "workspace size");
  workspace_bytes_ = static_cast<size_t>(bytes);
}
AttentionPlan::~AttentionPlan() = default;

std::unique_ptr<AttentionPlan> AttentionPlan::compile(const CudnnTarget& target, const AttentionGraph& g) {
  const std::string what = "attention plan (" + g.key() + ")";
  return translated(what.c_str(), [&] {
    auto impl = std::make_unique<Impl>();
    graph::Graph& graph = impl->graph;
    graph.set_io_data_type(fe::DataType_t::BFLOAT16).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    graph.set_sm_version(target.sm());
    const cudnnHandle_t handle = target.impl_->handle;
    if (!handle) graph.set_device_properties(target.impl_->properties);
    Builder builder(graph, g);
    g.backward ? builder.backward() : builder.forward();
    check(graph.validate(), what.c_str());
    check(handle ? graph.build_operation_graph(handle) : graph.build_operation_graph(), what.c_str());
    check(graph.create_execution_plans({fe::HeurMode_t::A}), what.c_str());
    check(graph.check_support(), what.c_str());
    check(graph.build_plans(), what.c_str());
    return std::unique_ptr<AttentionPlan>(new AttentionPlan(std::move(impl)));
  });
}

std::unique_ptr<AttentionPlan> AttentionPlan::load(const CudnnTarget& target, const std::string& blob) {
  return translated("kept attention plan", [&] {
    auto impl = std::make_unique<Impl>();
    const std::vector<uint8_t> bytes(blob.begin(), blob.end());
    if (const cudnnHandle_t handle = target.impl_->handle) {
      check(impl->graph.deserialize(handle, bytes, false, false), "kept attention plan");  // no trial run: it allocates
    } else {
      impl->graph.set_device_properties(target.impl_->properties);
      check(impl->graph.deserialize(bytes), "kept attention plan");
    }
    return std::unique_ptr<AttentionPlan>(new AttentionPlan(std::move(impl)));
  });
}

std::string AttentionPlan::serialize() const {
  return translated("serializing a plan", [&] {
    std::vector<uint8_t> bytes;
    check(impl_->graph.serialize(bytes, false), "serializing a plan");
    return std::string(bytes.begin(), bytes.end());
  });
}

void AttentionPlan::run(const CudnnTarget& target, const AttentionPointers& p, void* workspace) const {
  const auto writable = [](const void* pointer) { return const_cast<void*>(pointer); };  // cuDNN's table of pointers knows no const
  const std::pair<int64_t, void*> all[] = {
      {kQ, writable(p.q)}, {kK, writable(p.k)}, {kV, writable(p.v)}, {kOut, p.out}, {kLse, p.lse}, {kDout, writable(p.dout)}, {kDq, p.dq}, {kDk, p.dk},
      {kDv, p.dv}, {kQkvOffsets, writable(p.qkv_offsets)}, {kOutOffsets, writable(p.out_offsets)}, {kLseOffsets, writable(p.lse_offsets)},
      {kDqOffsets, writable(p.dq_offsets)}, {kDkvOffsets, writable(p.dkv_offsets)}, {kLengthsQ, writable(p.lengths)}, {kLengthsK, writable(p.lengths)}};
  std::unordered_map<int64_t, void*> pointers;
  for (const auto& [uid, pointer] : all)
    if (pointer) pointers.emplace(uid, pointer);
  translated("attention", [&] { check(impl_->graph.execute(target.impl_->handle, pointers, workspace), "attention"); });
}

}  // namespace llmtrain::cuda
