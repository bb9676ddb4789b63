// Forward and backward of the decoder. The header describes the mathematics; each function below is one line of it after another.
#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "model/rope.h"

namespace llmtrain {
namespace {

// Which parameter of a block's unit is what; -1 where the family has none.
struct BlockIndex {
  int input_norm = -1, qkv = -1, qkv_count = 0, qkv_bias = -1, q_norm = -1, k_norm = -1, o = -1, o_bias = -1;
  int post_norm = -1, gate_up = -1, gate_up_count = 0, gate_up_bias = -1, down = -1, down_bias = -1;

  explicit BlockIndex(const std::vector<TensorSpec>& tensors) {
    for (int i = 0; i < static_cast<int>(tensors.size()); ++i) {
      switch (tensors[static_cast<size_t>(i)].role) {
        case TensorRole::input_norm: input_norm = i; break;
        case TensorRole::q:
        case TensorRole::qkv: qkv = i; [[fallthrough]];
        case TensorRole::k:
        case TensorRole::v: ++qkv_count; break;
        case TensorRole::q_bias: qkv_bias = i; break;
        case TensorRole::q_norm: q_norm = i; break;
        case TensorRole::k_norm: k_norm = i; break;
        case TensorRole::o: o = i; break;
        case TensorRole::o_bias: o_bias = i; break;
        case TensorRole::post_norm: post_norm = i; break;
        case TensorRole::gate:
        case TensorRole::gate_up: gate_up = i; [[fallthrough]];
        case TensorRole::up: ++gate_up_count; break;
        case TensorRole::gate_bias: gate_up_bias = i; break;
        case TensorRole::down: down = i; break;
        case TensorRole::down_bias: down_bias = i; break;
        default: break;
      }
    }
    LLMTRAIN_ASSERT(input_norm >= 0 && qkv >= 0 && o >= 0 && post_norm >= 0 && gate_up >= 0 && down >= 0, "a block lacks a tensor");
  }
};

// What a layer keeps from its forward pass. All [T, …].
struct Saved {
  TensorView x1, rstd1;            // input of the block, X [T, h]; float32 [T]
  TensorView qkv, qkv_raw;         // after (and, with qk norm, before) norm and rotation, X [T, row]
  TensorView qk_rstd;              // float32 [T, Hq + Hk]
  TensorView attention, lse;       // X [T, Hq D], float32 [T, Hq]
  TensorView x2, rstd2;            // after attention, X [T, h]; float32 [T]
  TensorView gate_up;              // X [T, 2F]
  TensorView n1, n2, m;            // outputs of the norms and of SwiGLU; kept per layer only under Recompute::none

  Saved first(int64_t t) const {
    const auto cut = [t](const TensorView& v) { return v ? v.first(t) : v; };
    Saved s;
    s.x1 = cut(x1), s.rstd1 = cut(rstd1), s.qkv = cut(qkv), s.qkv_raw = cut(qkv_raw), s.qk_rstd = cut(qk_rstd), s.attention = cut(attention);
    s.lse = cut(lse), s.x2 = cut(x2), s.rstd2 = cut(rstd2), s.gate_up = cut(gate_up), s.n1 = cut(n1), s.n2 = cut(n2), s.m = cut(m);
    return s;
  }
};

// Memory that is used in turns: the logits of the head, and what the backward pass of a block needs.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  TensorView take(DType dtype, Shape shape) {
    const TensorView v(base_ ? base_ + used_ : nullptr, dtype, shape);
    used_ += (v.bytes() + 255) / 256 * 256;
    return v;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

std::vector<ParameterSpec> parameter_specs(const std::vector<TensorSpec>& tensors, const std::function<bool(const std::string&)>& trained) {
  std::vector<ParameterSpec> specs;
  for (const TensorSpec& t : tensors) specs.push_back({t.name, t.shape, !trained || trained(t.name), !is_norm_or_bias(t.role)});
  return specs;
}

int64_t chosen_loss_chunk(const TransformerOptions& options, const ModelConfig& config) {
  if (options.loss_chunk_tokens > 0) return std::min(options.loss_chunk_tokens, std::max<int64_t>(options.max_tokens, 1));
  constexpr int64_t kLogitBytes = int64_t{64} << 20;
  const int64_t fits = kLogitBytes / (config.vocab_size * static_cast<int64_t>(size_of(options.compute)));
  return std::clamp<int64_t>(std::max<int64_t>(fits, 128), 1, std::max<int64_t>(options.max_tokens, 1));
}

}  // namespace

std::vector<UnitSpec> transformer_units(const ModelConfig& config, const std::function<bool(const std::string&)>& trained) {
  std::vector<UnitSpec> units;
  units.push_back({"embedding", parameter_specs(embedding_tensors(config), trained)});
  for (int l = 0; l < config.num_layers; ++l) units.push_back({"layer " + std::to_string(l), parameter_specs(block_tensors(config, l), trained)});
  units.push_back({"head", parameter_specs(head_tensors(config), trained)});
  return units;
}

struct Transformer::State {
  ModelConfig config;
  TransformerOptions options;
  Device& device;
  Kernels& k;
  Stream& stream;
  ParameterManager& manager;
  BlockIndex index;
  HeadLayout layout;
  int layers, head_unit;
  int first_trained;       // lowest unit with something to train; layers + 2 when there is none
  bool trains_embedding;
  float scale;             // of attention scores
  int64_t chunk;           // tokens whose logits exist at once

  TensorView tokens, targets, positions;  // int32 [T]
  TensorView cos, sin;                    // float32 [P, R/2]
  std::vector<float> host_cos, host_sin;
  int64_t rope_length = -1, rope_longest = 0;
  std::vector<float> inv_freq;
  float rope_scaling = 0;

  std::vector<Saved> saved;
  TensorView n, m, delta, final_x, final_rstd, losses, dx, dn;
  TensorView logits;                    // in the shared scratch
  TensorView dm, dattention, dqkv;      // in the shared scratch

  std::vector<TensorView> k_cache, v_cache;
  std::vector<int32_t> cached_tokens;
  int64_t capacity = 0;
  int64_t past = -1;  // during extend(): tokens in the cache before this batch

  State(const ModelConfig& c, const TransformerOptions& o, Device& d, Kernels& kernels, Stream& s, ParameterManager& mgr)
      : config(c), options(o), device(d), k(kernels), stream(s), manager(mgr), index(block_tensors(c, 0)) {
    layout = {config.num_heads, config.num_kv_heads, static_cast<int>(config.head_dim)};
    layers = config.num_layers;
    head_unit = layers + 1;
    scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
    first_trained = layers + 2;
    for (int u = layers + 1; u >= 0; --u) {
      if (trains(u)) first_trained = u;
    }
    trains_embedding = trains(0);
    chunk = chosen_loss_chunk(options, config);
  }

  bool trains(int unit) const { return manager.layout().elements(unit, true) > 0; }
  int64_t query_width() const { return static_cast<int64_t>(layout.heads) * layout.head_dim; }
  bool full_recompute() const { return options.recompute == Recompute::full; }

  // ---- memory

  Saved take_layer(Arena& arena, bool input_only, bool rest_only) {
    const DType x = options.compute;
    const int64_t t = options.max_tokens, h = config.hidden_size, f = config.intermediate_size;
    const std::string group = "activations";
    Saved s;
    if (!rest_only) s.x1 = arena.take(group, x, {t, h});
    if (input_only) return s;
    s.rstd1 = arena.take(group, DType::float32, {t});
    s.qkv = arena.take(group, x, {t, layout.row()});
    if (config.qk_norm) {
      s.qkv_raw = arena.take(group, x, {t, layout.row()});
      s.qk_rstd = arena.take(group, DType::float32, {t, layout.heads + layout.kv_heads});
    }
    s.attention = arena.take(group, x, {t, query_width()});
    s.lse = arena.take(group, DType::float32, {t, layout.heads});
    s.x2 = arena.take(group, x, {t, h});
    s.rstd2 = arena.take(group, DType::float32, {t});
    s.gate_up = arena.take(group, x, {t, 2 * f});
    if (options.training && options.recompute == Recompute::none) {
      s.n1 = arena.take(group, x, {t, h});
      s.n2 = arena.take(group, x, {t, h});
      s.m = arena.take(group, x, {t, f});
    }
    return s;
  }

  void take_activations(Arena& arena) {
    saved.resize(static_cast<size_t>(layers));
    if (options.training && !full_recompute()) {
      for (Saved& s : saved) s = take_layer(arena, false, false);
      return;
    }
    // One set for all layers; training under full recompute keeps each layer's input.
    Saved shared = take_layer(arena, false, options.training);
    for (Saved& s : saved) {
      const TensorView x1 = options.training ? take_layer(arena, true, false).x1 : shared.x1;
      s = shared;
      s.x1 = x1;
    }
  }

  void carve_scratch(void* base, size_t* bytes) {
    const DType x = options.compute;
    const int64_t t = options.max_tokens;
    Carver head(base), block(base);
    logits = head.take(x, {chunk, config.vocab_size});
    m = block.take(x, {t, config.intermediate_size});
    if (options.training) {
      dm = block.take(x, {t, config.intermediate_size});
      dattention = block.take(x, {t, query_width()});
      dqkv = block.take(x, {t, layout.row()});
    }
    *bytes = std::max(head.used(), block.used());
  }

  void take_memory(Arena& arena) {
    const DType x = options.compute;
    const int64_t t = options.max_tokens, h = config.hidden_size;
    tokens = arena.take("batch", DType::int32, {t});
    targets = arena.take("batch", DType::int32, {t});
    positions = arena.take("batch", DType::int32, {t});
    const Shape table{options.max_positions, config.rotary_dim / 2};
    cos = arena.take("rope tables", DType::float32, table);
    sin = arena.take("rope tables", DType::float32, table);
    take_activations(arena);
    n = arena.take("buffers", x, {t, h});
    delta = arena.take("buffers", x, {t, h});
    final_x = arena.take("buffers", x, {t, h});
    final_rstd = arena.take("buffers", DType::float32, {t});
    losses = arena.take("buffers", DType::float32, {t});
    if (options.training) {
      dx = arena.take("buffers", x, {t, h});
      dn = arena.take("buffers", x, {t, h});
    }
    size_t bytes = 0;
    carve_scratch(nullptr, &bytes);
    carve_scratch(arena.take_bytes("logits and backward scratch", bytes), &bytes);
    Kernels::Limits limits;
    limits.tokens = t;
    limits.hidden = h;
    limits.intermediate = config.intermediate_size;
    limits.vocabulary = config.vocab_size;
    limits.longest_sequence = options.longest_sequence;
    limits.layout = layout;
    limits.compute = x;
    limits.training = options.training;
    limits.loss_chunk = chunk;
    k.reserve(arena, limits);
  }

  // ---- the batch

  // Angles for positions below max_positions. transformers chooses length-dependent frequencies (dynamic, longrope) once per batch.
  void prepare_rope(int64_t length) {
    if (config.rope.kind == RopeKind::dynamic) {  // remembers the longest batch until one is shorter than the trained context
      if (length < config.max_position_embeddings) rope_longest = 0;
      rope_longest = std::max(rope_longest, length);
      length = rope_longest;
    }
    if (rope_length >= 0 && (length == rope_length || !rope_depends_on_length(config))) return;
    rope_length = length;
    const RopeFrequencies f = compute_inv_freq(config, length);
    if (f.inv_freq == inv_freq && f.attention_scaling == rope_scaling) return;
    inv_freq = f.inv_freq;
    rope_scaling = f.attention_scaling;
    const size_t half = inv_freq.size();
    host_cos.resize(static_cast<size_t>(options.max_positions) * half);
    host_sin.resize(host_cos.size());
    for (size_t p = 0; p < static_cast<size_t>(options.max_positions); ++p) {
      for (size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(p) * inv_freq[i];  // float32, as transformers
        host_cos[p * half + i] = std::cos(angle) * rope_scaling;
        host_sin[p * half + i] = std::sin(angle) * rope_scaling;
      }
    }
    device.copy_to_device(stream, cos.data, host_cos.data(), cos.bytes());
    device.copy_to_device(stream, sin.data, host_sin.data(), sin.bytes());
  }

  void check_batch(const Batch& b) const {
    LLMTRAIN_ASSERT(b.size() <= options.max_tokens,
                    "batch of " + std::to_string(b.size()) + " tokens, planned " + std::to_string(options.max_tokens));
    LLMTRAIN_ASSERT(b.longest <= options.longest_sequence,
                    "sequence of " + std::to_string(b.longest) + " tokens, planned " + std::to_string(options.longest_sequence));
  }

  void upload(const Batch& b) {
    check_batch(b);
    const size_t bytes = b.tokens.size() * sizeof(int32_t);
    if (bytes == 0) return;
    int64_t length = b.rope_length;
    if (length == 0) length = 1 + *std::max_element(b.positions.begin(), b.positions.end());
    prepare_rope(length);
    device.copy_to_device(stream, tokens.data, b.tokens.data(), bytes);
    device.copy_to_device(stream, targets.data, b.targets.data(), bytes);
    device.copy_to_device(stream, positions.data, b.positions.data(), bytes);
  }

  // ---- one block.  x: residual stream so far [T, h]; delta (optional): what the block before adds to it.

  // s.attention from n1: over the batch itself, or (generation) over the cache and the new tokens.
  void attention_forward(const UnitWeights& w, const Saved& s, TensorView n1, const Batch& b, int layer) {
    const int64_t t = n1.dim(0);
    const TensorView raw = config.qk_norm ? s.qkv_raw : s.qkv;
    const TensorView bias = index.qkv_bias >= 0 ? w.fused(index.qkv_bias, 3) : TensorView();
    k.linear_forward(stream, n1, w.fused(index.qkv, index.qkv_count), bias, raw, false);
    if (config.qk_norm) {
      k.qk_norm_forward(stream, raw, parameter(w, index.q_norm), parameter(w, index.k_norm), config.rms_norm_eps, layout, s.qkv, s.qk_rstd);
    }
    k.rope(stream, s.qkv, positions.first(t), cos, sin, layout, static_cast<int>(config.rotary_dim), false);
    const auto l = static_cast<size_t>(layer);
    if (past >= 0) {
      k.attention_cached(stream, s.qkv, k_cache[l], v_cache[l], past, layout, scale, window_of(layer), s.attention);
    } else {
      k.attention_forward(stream, s.qkv, sequences_of(b), layout, scale, window_of(layer), s.attention, s.lse);
    }
  }

  void mlp_forward(const UnitWeights& w, const Saved& s, TensorView n2, TensorView product) {
    const TensorView bias = index.gate_up_bias >= 0 ? w.fused(index.gate_up_bias, 2) : TensorView();
    k.linear_forward(stream, n2, w.fused(index.gate_up, index.gate_up_count), bias, s.gate_up, false);
    k.swiglu_forward(stream, s.gate_up, product);
  }

  static TensorView parameter(const UnitWeights& w, int i) { return i >= 0 ? w.parameters[static_cast<size_t>(i)] : TensorView(); }
  static TensorView parameter(const UnitGradients& g, int i) { return i >= 0 ? g.parameters[static_cast<size_t>(i)] : TensorView(); }

  Sequences sequences_of(const Batch& b) const { return {std::span<const int32_t>(b.cu_seqlens), b.longest}; }
  int window_of(int layer) const {
    return static_cast<int>(std::min<int64_t>(config.sliding_window[static_cast<size_t>(layer)], int64_t{1} << 30));
  }

  // `recomputing`: s.x1 holds the input already and only what the backward pass needs is made.
  void block_forward(int layer, const Batch& b, TensorView x, TensorView add, bool recomputing) {
    const int64_t t = b.size();
    const int unit = layer + 1;
    const UnitWeights w = manager.acquire(unit);
    if (t > 0) {
      const Saved s = saved[static_cast<size_t>(layer)].first(t);
      const TensorView n1 = s.n1 ? s.n1 : n.first(t), n2 = s.n2 ? s.n2 : n.first(t), product = s.m ? s.m : m.first(t);
      if (recomputing) {
        k.rms_norm_forward(stream, s.x1, TensorView(), parameter(w, index.input_norm), config.rms_norm_eps, TensorView(), n1, s.rstd1);
      } else {
        k.rms_norm_forward(stream, x, add, parameter(w, index.input_norm), config.rms_norm_eps, s.x1, n1, s.rstd1);
      }
      attention_forward(w, s, n1, b, layer);
      k.linear_forward(stream, s.attention, parameter(w, index.o), parameter(w, index.o_bias), delta.first(t), false);
      k.rms_norm_forward(stream, s.x1, delta.first(t), parameter(w, index.post_norm), config.rms_norm_eps, s.x2, n2, s.rstd2);
      mlp_forward(w, s, n2, product);
      if (!recomputing) k.linear_forward(stream, product, parameter(w, index.down), parameter(w, index.down_bias), delta.first(t), false);
    }
    if (!recomputing) manager.release(unit);  // a recomputing caller goes on with the backward pass of the same unit
  }

  void linear_weight_gradient(TensorView dy, TensorView x, TensorView dw) {
    if (dw) k.linear_backward_weight(stream, dy, x, dw);
  }
  void bias_gradient(TensorView dy, TensorView db) {
    if (db) k.bias_backward(stream, dy, db);
  }

  // dx: on entry the gradient of the block's output, on return that of its input.
  void mlp_backward(const UnitWeights& w, const UnitGradients& g, const Saved& s, TensorView d) {
    const int64_t t = d.dim(0);
    const TensorView product = s.m ? s.m : m.first(t), n2 = s.n2 ? s.n2 : n.first(t);
    k.linear_backward_input(stream, d, parameter(w, index.down), dm.first(t), false);
    k.swiglu_backward(stream, dm.first(t), s.gate_up, s.gate_up, s.m ? TensorView() : product);  // in place: gate_up is not needed again
    linear_weight_gradient(d, product, parameter(g, index.down));
    bias_gradient(d, parameter(g, index.down_bias));
    if (!s.n2) k.rms_norm_forward(stream, s.x2, TensorView(), parameter(w, index.post_norm), config.rms_norm_eps, TensorView(), n2, TensorView());
    linear_weight_gradient(s.gate_up, n2, g.fused(index.gate_up, index.gate_up_count));
    if (index.gate_up_bias >= 0) bias_gradient(s.gate_up, g.fused(index.gate_up_bias, 2));
    k.linear_backward_input(stream, s.gate_up, w.fused(index.gate_up, index.gate_up_count), dn.first(t), false);
    k.rms_norm_backward(stream, dn.first(t), s.x2, parameter(w, index.post_norm), s.rstd2, d, d, parameter(g, index.post_norm));
  }

  void attention_backward(const UnitWeights& w, const UnitGradients& g, const Saved& s, const Batch& b, int layer, TensorView d) {
    const int64_t t = d.dim(0);
    const TensorView n1 = s.n1 ? s.n1 : n.first(t), dq = dqkv.first(t);
    linear_weight_gradient(d, s.attention, parameter(g, index.o));
    bias_gradient(d, parameter(g, index.o_bias));
    k.linear_backward_input(stream, d, parameter(w, index.o), dattention.first(t), false);
    k.attention_backward(stream, dattention.first(t), s.qkv, s.attention, s.lse, sequences_of(b), layout, scale, window_of(layer), dq);
    k.rope(stream, dq, positions.first(t), cos, sin, layout, static_cast<int>(config.rotary_dim), true);
    if (config.qk_norm) {
      k.qk_norm_backward(stream, dq, s.qkv_raw, parameter(w, index.q_norm), parameter(w, index.k_norm), s.qk_rstd, layout, parameter(g, index.q_norm),
                         parameter(g, index.k_norm));
    }
    if (!s.n1) k.rms_norm_forward(stream, s.x1, TensorView(), parameter(w, index.input_norm), config.rms_norm_eps, TensorView(), n1, TensorView());
    linear_weight_gradient(dq, n1, g.fused(index.qkv, index.qkv_count));
    if (index.qkv_bias >= 0) bias_gradient(dq, g.fused(index.qkv_bias, 3));
    k.linear_backward_input(stream, dq, w.fused(index.qkv, index.qkv_count), dn.first(t), false);
    k.rms_norm_backward(stream, dn.first(t), s.x1, parameter(w, index.input_norm), s.rstd1, d, d, parameter(g, index.input_norm));
  }

  void block_backward(int layer, const Batch& b) {
    const int64_t t = b.size();
    const int unit = layer + 1;
    // Under full recompute the shared buffers still hold the last layer when the backward pass begins.
    const bool recompute = full_recompute() && layer + 1 < layers;
    if (recompute) block_forward(layer, b, TensorView(), TensorView(), true);
    const UnitWeights w = manager.acquire(unit);
    UnitGradients g;
    if (trains(unit)) {
      g = manager.gradients(unit);
    } else {
      g.parameters.resize(w.parameters.size());
    }
    if (t > 0) {
      const Saved s = saved[static_cast<size_t>(layer)].first(t);
      const TensorView d = dx.first(t);
      mlp_backward(w, g, s, d);
      attention_backward(w, g, s, b, layer, d);
    }
    if (trains(unit)) manager.reduce(unit);
    manager.release(unit);
    if (recompute) manager.release(unit);
  }

  // ---- embedding and head

  void embedding_forward(const Batch& b) {
    const UnitWeights w = manager.acquire(0);
    const int64_t t = b.size();
    if (t > 0) k.embedding_forward(stream, tokens.first(t), w.parameters[0], residual().first(t));
    manager.release(0);
  }

  // The embedding's output: the first block's norm reads it and keeps its own copy as x1, so it may lie where a gradient will be later.
  TensorView residual() const { return final_x; }

  void blocks_forward(const Batch& b) {
    const int64_t t = b.size();
    for (int l = 0; l < layers; ++l) {
      const bool first = l == 0;
      const TensorView x = first ? residual() : saved[static_cast<size_t>(l - 1)].x2;
      block_forward(l, b, t > 0 ? x.first(t) : x, first || t == 0 ? TensorView() : delta.first(t), false);
    }
  }

  // Weights of the head, acquired; with tied weights the embedding's.
  struct Head {
    UnitWeights own, tied;
    TensorView norm, weight;
  };
  Head acquire_head() {
    Head h;
    h.own = manager.acquire(head_unit);
    if (config.tie_word_embeddings) h.tied = manager.acquire(0);
    h.norm = h.own.parameters[0];
    h.weight = config.tie_word_embeddings ? h.tied.parameters[0] : h.own.parameters[1];
    return h;
  }
  void release_head() {
    if (config.tie_word_embeddings) manager.release(0);
    manager.release(head_unit);
  }

  // final_x = x2 + delta; n = norm(final_x)
  void final_norm(const Batch& b, const TensorView& weight) {
    const int64_t t = b.size();
    const Saved& last = saved[static_cast<size_t>(layers - 1)];
    k.rms_norm_forward(stream, last.x2.first(t), delta.first(t), weight, config.rms_norm_eps, final_x.first(t), n.first(t), final_rstd.first(t));
  }

  // Loss of all chunks; with `gradient` also dn (gradient of the normed output) and the head's weight gradient.
  void chunked_loss(const Batch& b, const TensorView& weight, float loss_scale, bool gradient, TensorView dweight) {
    for (int64_t begin = 0; begin < b.size(); begin += chunk) {
      const int64_t count = std::min(chunk, b.size() - begin);
      const TensorView x = n.rows(begin, count), y = logits.first(count);
      k.linear_forward(stream, x, weight, TensorView(), y, false);
      k.cross_entropy(stream, y, targets.rows(begin, count), loss_scale, gradient, losses.rows(begin, count));
      if (!gradient) continue;
      linear_weight_gradient(y, x, dweight);
      if (needs_dx()) k.linear_backward_input(stream, y, weight, dn.rows(begin, count), false);
    }
  }
  // Whether anything below the head's matrix is trained.
  bool needs_dx() const { return first_trained <= head_unit; }

  double head_forward_backward(const Batch& b, float loss_scale) {
    const int64_t t = b.size();
    const Head head = acquire_head();
    const bool own = trains(head_unit), tied = config.tie_word_embeddings && trains_embedding;
    UnitGradients g, tied_g;
    if (own) g = manager.gradients(head_unit);
    if (tied) tied_g = manager.gradients(0);
    double loss = 0;
    if (t > 0) {
      final_norm(b, head.norm);
      const TensorView dweight = config.tie_word_embeddings ? (tied ? tied_g.parameters[0] : TensorView()) : (own ? g.parameters[1] : TensorView());
      chunked_loss(b, head.weight, loss_scale, true, dweight);
      if (needs_dx()) {
        k.rms_norm_backward(stream, dn.first(t), final_x.first(t), head.norm, final_rstd.first(t), TensorView(), dx.first(t),
                            own ? g.parameters[0] : TensorView());
      }
      loss = k.sum(stream, losses.first(t));
    }
    if (tied) manager.reduce(0);
    if (own) manager.reduce(head_unit);
    release_head();
    return loss;
  }

  // ---- schedules

  std::vector<int> forward_uses() const {
    std::vector<int> uses;
    for (int u = 0; u <= head_unit; ++u) uses.push_back(u);
    if (config.tie_word_embeddings) uses.push_back(0);
    return uses;
  }
  int lowest_block() const { return std::max(first_trained, 1); }  // unit of the last block of the backward pass
  std::vector<int> training_uses() const {
    std::vector<int> uses = forward_uses();
    for (int u = layers; u >= lowest_block(); --u) {
      uses.push_back(u);
      if (full_recompute() && u < layers) uses.push_back(u);
    }
    return uses;
  }
};

Transformer::Transformer(const ModelConfig& config, const TransformerOptions& options, Device& device, Kernels& kernels, Stream& compute,
                         ParameterManager& manager, Arena& arena)
    : state_(std::make_unique<State>(config, options, device, kernels, compute, manager)) {
  LLMTRAIN_ASSERT(options.max_tokens > 0 && options.max_positions > 0, "an empty plan");
  state_->take_memory(arena);
}

Transformer::~Transformer() = default;

double Transformer::forward_backward(const Batch& batch, float scale) {
  State& s = *state_;
  LLMTRAIN_ASSERT(s.options.training, "forward_backward of a model that was planned for inference");
  s.manager.begin(s.training_uses());
  s.upload(batch);
  s.embedding_forward(batch);
  s.blocks_forward(batch);
  const double loss = s.head_forward_backward(batch, scale);
  for (int unit = s.layers; unit >= s.lowest_block(); --unit) s.block_backward(unit - 1, batch);
  if (s.trains_embedding) {
    const UnitGradients g = s.manager.gradients(0);
    if (batch.size() > 0) s.k.embedding_backward(s.stream, s.tokens.first(batch.size()), s.dx.first(batch.size()), g.parameters[0]);
    s.manager.reduce(0);
  }
  s.manager.finish();
  return loss;
}

double Transformer::forward_loss(const Batch& batch, std::span<float> losses) {
  State& s = *state_;
  s.manager.begin(s.forward_uses());
  s.upload(batch);
  s.embedding_forward(batch);
  s.blocks_forward(batch);
  const State::Head head = s.acquire_head();
  double loss = 0;
  if (batch.size() > 0) {
    s.final_norm(batch, head.norm);
    s.chunked_loss(batch, head.weight, 1.0f, false, TensorView());
    const TensorView all = s.losses.first(batch.size());
    loss = s.k.sum(s.stream, all);
    if (!losses.empty()) s.device.copy_to_host(s.stream, losses.data(), all.data, all.bytes());
    s.stream.synchronize();
  }
  s.release_head();
  s.manager.finish();
  return loss;
}

void Transformer::forward_logits(const Batch& batch, std::span<float> logits) {
  State& s = *state_;
  LLMTRAIN_ASSERT(static_cast<int64_t>(logits.size()) == batch.size() * s.config.vocab_size, "size of the logits");
  s.manager.begin(s.forward_uses());
  s.upload(batch);
  s.embedding_forward(batch);
  s.blocks_forward(batch);
  const State::Head head = s.acquire_head();
  if (batch.size() > 0) s.final_norm(batch, head.norm);
  std::vector<char> raw;
  for (int64_t begin = 0; begin < batch.size(); begin += s.chunk) {
    const int64_t count = std::min(s.chunk, batch.size() - begin);
    const TensorView y = s.logits.first(count);
    s.k.linear_forward(s.stream, s.n.rows(begin, count), head.weight, TensorView(), y, false);
    raw.resize(y.bytes());
    s.device.copy_to_host(s.stream, raw.data(), y.data, y.bytes());
    s.stream.synchronize();
    convert_elements(raw.data(), s.options.compute, logits.data() + begin * s.config.vocab_size, DType::float32, static_cast<size_t>(y.elements()));
  }
  s.release_head();
  s.manager.finish();
}

// ---- generation

void Transformer::reserve_cache(int64_t capacity, Arena& arena) {
  State& s = *state_;
  s.capacity = capacity;
  s.k_cache.clear();
  s.v_cache.clear();
  const Shape shape{capacity, static_cast<int64_t>(s.layout.kv_heads) * s.layout.head_dim};
  for (int l = 0; l < s.layers; ++l) {
    s.k_cache.push_back(arena.take("key-value cache", s.options.compute, shape));
    s.v_cache.push_back(arena.take("key-value cache", s.options.compute, shape));
  }
}

int64_t Transformer::cache_length() const { return static_cast<int64_t>(state_->cached_tokens.size()); }
void Transformer::clear_cache() {
  state_->cached_tokens.clear();
  state_->rope_longest = 0;
}

namespace {
// A batch of the tokens [past, past + n) of one sequence.
Batch continuation(std::span<const int32_t> tokens, int64_t past, int64_t total) {
  Batch b;
  b.tokens.assign(tokens.begin(), tokens.end());
  b.targets.assign(tokens.size(), kIgnore);
  for (size_t i = 0; i < tokens.size(); ++i) b.positions.push_back(static_cast<int32_t>(past + static_cast<int64_t>(i)));
  b.cu_seqlens = {0, static_cast<int32_t>(tokens.size())};
  b.longest = static_cast<int32_t>(tokens.size());
  b.rope_length = total;
  return b;
}
}  // namespace

void Transformer::extend(std::span<const int32_t> tokens, std::span<float> logits) {
  State& s = *state_;
  LLMTRAIN_ASSERT(!tokens.empty() && !s.k_cache.empty(), "extend() without tokens or cache");
  const int64_t total = cache_length() + static_cast<int64_t>(tokens.size());
  LLMTRAIN_ASSERT(total <= s.capacity && total <= s.options.max_positions, "the key-value cache is full");
  std::vector<int32_t> pending(tokens.begin(), tokens.end());
  // Where the rotation's frequencies change with the length (dynamic, longrope), keys of the old frequencies are of no use: start over.
  if (cache_length() > 0 && rope_depends_on_length(s.config)) {
    const RopeFrequencies now = compute_inv_freq(s.config, total);
    if (now.inv_freq != s.inv_freq || now.attention_scaling != s.rope_scaling) {
      pending.insert(pending.begin(), s.cached_tokens.begin(), s.cached_tokens.end());
      s.cached_tokens.clear();
    }
  }
  const int64_t limit = std::min(s.options.max_tokens, s.options.longest_sequence);
  for (size_t begin = 0; begin < pending.size();) {
    const size_t count = std::min<size_t>(pending.size() - begin, static_cast<size_t>(limit));
    const bool last = begin + count == pending.size();
    const int64_t past = cache_length();
    const std::span<const int32_t> part(pending.data() + begin, count);
    const Batch b = continuation(part, past, total);
    s.manager.begin(s.forward_uses());
    s.upload(b);
    s.embedding_forward(b);
    s.past = past;
    s.blocks_forward(b);
    s.past = -1;
    const State::Head head = s.acquire_head();
    s.final_norm(b, head.norm);
    if (last && !logits.empty()) {
      const TensorView y = s.logits.first(1);
      s.k.linear_forward(s.stream, s.n.rows(b.size() - 1, 1), head.weight, TensorView(), y, false);
      std::vector<char> raw(y.bytes());
      s.device.copy_to_host(s.stream, raw.data(), y.data, y.bytes());
      s.stream.synchronize();
      convert_elements(raw.data(), s.options.compute, logits.data(), DType::float32, static_cast<size_t>(s.config.vocab_size));
    }
    s.release_head();
    s.manager.finish();
    s.cached_tokens.insert(s.cached_tokens.end(), part.begin(), part.end());
    begin += count;
  }
}

const ModelConfig& Transformer::config() const { return state_->config; }
int64_t Transformer::loss_chunk_tokens() const { return state_->chunk; }

}  // namespace llmtrain
