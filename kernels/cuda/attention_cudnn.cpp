// cuDNN's attention behind the operations of kernels.h (attention_cudnn.h).
#include "kernels/cuda/attention_cudnn.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "device/cuda/check.h"
#include "device/cuda/cuda_device.h"
#include "kernels/cuda/attention_cudnn_layout.h"
#include "kernels/cuda/attention_cudnn_plan.h"
#include "kernels/cuda/attention_cudnn_shapes.h"

namespace llmtrain::cuda {
namespace {

// cuDNN's need beyond gradient_layout()'s formulas: tables of a few bytes for each slot and tile.
constexpr size_t kWorkspaceMargin = size_t{1} << 20;

class CudnnPackedAttention final : public CudnnAttention {
 public:
  CudnnPackedAttention(Device& device, const CudaKernelsOptions& options, int sm)
      : target_(CudnnTarget::current_device(sm)), options_(options), kept_(device) {
    if (!options.cache_folder.empty())
      folder_ = options.cache_folder + "/cudnn-" + version_text(cudnn_version()) + "-sm" + std::to_string(sm);
  }

  size_t workspace_bytes(const Kernels::Limits& limits) override {
    limits_ = limits;
    if (!refusal(limits.compute, limits.layout, false).empty()) return 0;
    if (!limits.training || !refusal(limits.compute, limits.layout, true).empty()) return kWorkspaceMargin;
    return gradient_layout(limits.layout, limits.tokens).estimated_total + kWorkspaceMargin;
  }
  size_t kept_bytes(const Kernels::Limits& limits) const override { return AttentionOffsets::planned_bytes(limits.tokens); }
  void adopt(void* block, size_t bytes) override {
    kept_.adopt(block, bytes);
    known_.clear();
  }
  std::optional<size_t> prepare(const AttentionCall& call, std::string& why) override;
  void run(cudaStream_t stream, void* workspace, const AttentionCall& call) override;
  std::string describe() const override { return "cuDNN " + version_text(cudnn_version()) + " where it can"; }

 private:
  struct Entry {
    std::unique_ptr<AttentionPlan> plan;
    std::string why;  // there is none
  };
  std::string refusal(DType type, HeadLayout layout, bool backward) const {
    return refuse_attention(type, layout, backward, options_.deterministic, target_.sm(), cudnn_version());
  }
  AttentionGraph graph_of(const AttentionCall& call, int64_t first_slot) const;
  const Entry& entry_for(const AttentionGraph& graph);
  std::string file_key(const AttentionGraph& graph) const;
  std::unique_ptr<AttentionPlan> load(const std::string& key);
  void keep(const std::string& key, const AttentionPlan& plan);
  void update_offsets(cudaStream_t stream, const AttentionCall& call);
  void log(const std::string& line) const {
    if (options_.log) options_.log(line);
  }

  CudnnTarget target_;
  CudaKernelsOptions options_;
  Kernels::Limits limits_;
  std::string folder_;  // empty: plans are not kept in files
  bool cannot_write_ = false;
  std::map<std::string, Entry> entries_;
  // The offsets of the sequences that were asked for last: all layers of a micro-batch ask for the same.
  Workspace kept_;
  std::vector<int32_t> known_;
  HeadLayout known_layout_;
  OffsetArrays offsets_;
};

AttentionGraph CudnnPackedAttention::graph_of(const AttentionCall& call, int64_t first_slot) const {
  AttentionGraph g;
  g.layout = call.layout;
  g.slots = slots_for(call.sequences.count - first_slot);
  g.longest = length_bucket(call.sequences.longest, limits_.longest_sequence);
  g.scale = call.scale;
  g.window = call.window;
  g.backward = call.backward();
  g.stats = !g.backward && call.lse;
  g.deterministic = g.backward && options_.deterministic;
  if (g.backward) g.tokens = token_bucket(call.qkv.dim(0), limits_.tokens);
  return g;
}

std::optional<size_t> CudnnPackedAttention::prepare(const AttentionCall& call, std::string& why) {
  why = refusal(call.qkv.dtype, call.layout, call.backward());
  size_t bytes = 0;
  for (int64_t first = 0; why.empty() && first < call.sequences.count; first += kSlots) {
    const Entry& entry = entry_for(graph_of(call, first));
    why = entry.why;
    if (entry.plan) bytes = std::max(bytes, entry.plan->workspace_bytes());
  }
  if (!why.empty()) return std::nullopt;
  if (call.backward()) bytes = padded(bytes) + gradient_layout(call.layout, token_bucket(call.qkv.dim(0), limits_.tokens)).bytes;
  return bytes;
}

const CudnnPackedAttention::Entry& CudnnPackedAttention::entry_for(const AttentionGraph& graph) {
  const auto [place, missing] = entries_.try_emplace(graph.key());
  Entry& entry = place->second;
  if (!missing) return entry;
  const std::string key = file_key(graph);
  entry.plan = load(key);
  if (entry.plan) return entry;
  const auto begin = std::chrono::steady_clock::now();
  try {
    entry.plan = AttentionPlan::compile(target_, graph);
  } catch (const OperationError& e) {
    entry.why = e.what();
    return entry;
  }
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.1f s", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  log("compiled an attention plan of cuDNN in " + std::string(seconds) + ": " + graph.key());
  keep(key, *entry.plan);
  return entry;
}

std::string CudnnPackedAttention::file_key(const AttentionGraph& graph) const {
  const GradientLayout place = gradient_layout(graph.layout, std::max<int64_t>(graph.tokens, 1));
  std::string key = "cuDNN " + version_text(cudnn_version()) + ", sm_" + std::to_string(target_.sm()) + ", " + graph.key();
  if (graph.backward) key += std::string(place.dq_in_place ? ", dq in place" : "") + (place.dkv_in_place ? ", dk and dv in place" : "");
  return key;
}

std::unique_ptr<AttentionPlan> CudnnPackedAttention::load(const std::string& key) {
  const std::string path = folder_ + "/" + plan_file_name(key);
  if (folder_.empty() || !is_regular_file(path)) return nullptr;
  try {
    std::string blob;
    if (unpack_plan(read_file(path, size_t{64} << 20), key, blob)) return AttentionPlan::load(target_, blob);
    log("an attention plan kept in " + path + " is damaged or of another shape: compiled anew");
  } catch (const std::exception& e) {
    log("an attention plan kept in " + path + " cannot be used: compiled anew (" + e.what() + ")");
  }
  return nullptr;
}

void CudnnPackedAttention::keep(const std::string& key, const AttentionPlan& plan) {
  if (folder_.empty() || cannot_write_) return;
  try {
    make_directories(folder_);
    write_file_atomically(folder_ + "/" + plan_file_name(key), pack_plan(key, plan.serialize()));
  } catch (const std::exception& e) {
    cannot_write_ = true;
    log(std::string("attention plans are not kept: ") + e.what());
  }
}

void CudnnPackedAttention::update_offsets(cudaStream_t stream, const AttentionCall& call) {
  const auto& ends = call.sequences.host.cu_seqlens;
  const HeadLayout l = call.layout;
  const bool same_layout = known_layout_.heads == l.heads && known_layout_.kv_heads == l.kv_heads && known_layout_.head_dim == l.head_dim;
  if (same_layout && known_.size() == ends.size() && std::equal(ends.begin(), ends.end(), known_.begin())) return;
  const int64_t count = call.sequences.count, n = AttentionOffsets::entries(count);
  Carver carver(kept_.get(AttentionOffsets::planned_bytes(count)));
  offsets_.qkv = carver.take<int64_t>(n);
  offsets_.q = carver.take<int64_t>(n);
  offsets_.kv = carver.take<int64_t>(n);
  offsets_.heads = carver.take<int64_t>(n);
  offsets_.length = carver.take<int32_t>(n);
  attention_offsets(stream, call.sequences.cu_seqlens, count, n, l, offsets_);
  known_.assign(ends.begin(), ends.end());
  known_layout_ = l;
}

void CudnnPackedAttention::run(cudaStream_t stream, void* workspace, const AttentionCall& call) {
  update_offsets(stream, call);
  target_.set_stream(stream);
  const HeadLayout l = call.layout;
  const int64_t q_bytes = int64_t{l.heads} * l.head_dim * 2, kv_bytes = int64_t{l.kv_heads} * l.head_dim * 2;
  const auto columns = [](TensorView rows, int64_t bytes) { return rows.data ? static_cast<char*>(rows.data) + bytes : nullptr; };
  AttentionPointers p;
  p.q = call.qkv.data;
  p.k = columns(call.qkv, q_bytes);
  p.v = columns(call.qkv, q_bytes + kv_bytes);
  p.out = call.out.data;
  p.lse = static_cast<float*>(call.lse.data);
  const int64_t tokens = token_bucket(call.qkv.dim(0), limits_.tokens);
  const GradientLayout place = gradient_layout(l, tokens);
  Carver carver(static_cast<char*>(workspace));
  if (call.backward()) {
    p.dout = call.dout.data;
    p.dq = place.dq_in_place ? call.dqkv.data : carver.take<char>(tokens * q_bytes);
    p.dk = place.dkv_in_place ? columns(call.dqkv, q_bytes) : carver.take<char>(tokens * kv_bytes);
    p.dv = place.dkv_in_place ? columns(call.dqkv, q_bytes + kv_bytes) : carver.take<char>(tokens * kv_bytes);
  }
  char* scratch = carver.take<char>(0);
  for (int64_t first = 0; first < call.sequences.count; first += kSlots) {
    p.qkv_offsets = offsets_.qkv + first;
    p.out_offsets = offsets_.q + first;
    p.lse_offsets = p.lse ? offsets_.heads + first : nullptr;
    p.lengths = offsets_.length + first;
    if (call.backward()) {
      p.dq_offsets = (place.dq_in_place ? offsets_.qkv : offsets_.q) + first;
      p.dkv_offsets = (place.dkv_in_place ? offsets_.qkv : offsets_.kv) + first;
    }
    const Entry& entry = entry_for(graph_of(call, first));
    LLMTRAIN_ASSERT(entry.plan, "attention without a plan: " + entry.why);
    entry.plan->run(target_, p, scratch);
  }
  if (call.backward() && !(place.dq_in_place && place.dkv_in_place))
    place_gradients(stream, place.dq_in_place ? nullptr : p.dq, place.dkv_in_place ? nullptr : p.dk, place.dkv_in_place ? nullptr : p.dv, l, call.dqkv);
}

}  // namespace

std::unique_ptr<CudnnAttention> make_cudnn_attention(Device& device, const CudaKernelsOptions& options, std::string& why) {
  if (!open_cudnn(why)) return nullptr;
  const int index = device_index(device);
  int major = 0, minor = 0;
  CUDA_CHECK(cudaSetDevice(index));
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  try {
    return std::make_unique<CudnnPackedAttention>(device, options, 10 * major + minor);
  } catch (const OperationError& e) {
    why = e.what();
    return nullptr;
  }
}

}  // namespace llmtrain::cuda
