#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace llmtrain {
namespace {

// base ** (arange(0, dim, 2) / dim) as torch evaluates it in float32.
std::vector<float> position_frequencies(float base, int64_t dim) {
  std::vector<float> f(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < f.size(); ++i) f[i] = std::pow(base, static_cast<float>(2 * i) / static_cast<float>(dim));
  return f;
}

std::vector<float> plain(float base, int64_t dim) {
  std::vector<float> f = position_frequencies(base, dim);
  for (float& v : f) v = 1.0f / v;
  return f;
}

// NTK-aware: theta * (factor * length / max - (factor - 1)) ^ (dim / (dim - 2)), in float32 because transformers holds the length in a tensor;
// torch raises a float32 scalar to a Python number in double.
float dynamic_base(const RopeParameters& p, int64_t dim, int64_t length, int64_t max_length) {
  const float ratio = static_cast<float>(p.factor) * static_cast<float>(length) / static_cast<float>(max_length) - static_cast<float>(p.factor - 1);
  const double exponent = static_cast<double>(dim) / static_cast<double>(dim - 2);
  return static_cast<float>(p.theta) * static_cast<float>(std::pow(static_cast<double>(ratio), exponent));
}

std::vector<float> llama3(const RopeParameters& p, int64_t dim) {
  const double context = static_cast<double>(p.original_max_position_embeddings);
  const float low_wavelength = static_cast<float>(context / p.low_freq_factor), high_wavelength = static_cast<float>(context / p.high_freq_factor);
  const float factor = static_cast<float>(p.factor);
  std::vector<float> f = plain(static_cast<float>(p.theta), dim);
  for (float& v : f) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / v;
    if (wavelength > low_wavelength) {
      v = v / factor;
    } else if (!(wavelength < high_wavelength)) {
      const float smooth = (static_cast<float>(context) / wavelength - static_cast<float>(p.low_freq_factor)) /
                           static_cast<float>(p.high_freq_factor - p.low_freq_factor);
      v = (1.0f - smooth) * v / factor + smooth * v;
    }
  }
  return f;
}

// The dimension that turns `rotations` times within the trained context (YaRN, section 3.2), in double as Python's math.
double correction_dim(double rotations, const RopeParameters& p, int64_t dim) {
  const double context = static_cast<double>(p.original_max_position_embeddings);
  return static_cast<double>(dim) * std::log(context / (rotations * 2 * std::numbers::pi)) / (2 * std::log(p.theta));
}

std::vector<float> yarn(const RopeParameters& p, int64_t dim) {
  double low = correction_dim(p.beta_fast, p, dim), high = correction_dim(p.beta_slow, p, dim);
  if (p.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;  // as the reference: no division by zero
  std::vector<float> f = position_frequencies(static_cast<float>(p.theta), dim);
  for (size_t i = 0; i < f.size(); ++i) {
    const float ramp = std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float keep = 1.0f - ramp;  // the share of extrapolation: high frequencies stay as they are
    const float extrapolated = 1.0f / f[i], interpolated = 1.0f / (static_cast<float>(p.factor) * f[i]);
    f[i] = interpolated * (1.0f - keep) + extrapolated * keep;
  }
  return f;
}

float yarn_attention_scaling(const RopeParameters& p) {
  if (p.attention_factor) return static_cast<float>(*p.attention_factor);
  const auto scale = [&](double mscale) { return p.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(p.factor) + 1.0; };
  if (p.mscale.value_or(0) != 0 && p.mscale_all_dim.value_or(0) != 0) return static_cast<float>(scale(*p.mscale) / scale(*p.mscale_all_dim));
  return static_cast<float>(scale(1));
}

float longrope_attention_scaling(const RopeParameters& p, int64_t max_length) {
  if (p.attention_factor) return static_cast<float>(*p.attention_factor);
  const double original = static_cast<double>(p.original_max_position_embeddings);
  const double factor = p.factor > 0 ? p.factor : static_cast<double>(max_length) / original;
  return factor <= 1 ? 1.0f : static_cast<float>(std::sqrt(1 + std::log(factor) / std::log(original)));
}

std::vector<float> longrope(const RopeParameters& p, int64_t dim, int64_t length) {
  const std::vector<double>& factors = length > p.original_max_position_embeddings ? p.long_factor : p.short_factor;
  LLMTRAIN_ASSERT(static_cast<int64_t>(factors.size()) == dim / 2, "longrope factors");
  std::vector<float> f = position_frequencies(static_cast<float>(p.theta), dim);
  for (size_t i = 0; i < f.size(); ++i) f[i] = 1.0f / (static_cast<float>(factors[i]) * f[i]);
  return f;
}

}  // namespace

RopeFrequencies compute_inv_freq(const ModelConfig& config, int64_t sequence_length) {
  const RopeParameters& p = config.rope;
  const int64_t dim = config.rotary_dim;
  const float theta = static_cast<float>(p.theta);
  switch (p.kind) {
    case RopeKind::none: return {plain(theta, dim), 1.0f};
    case RopeKind::linear: {
      std::vector<float> f = plain(theta, dim);
      for (float& v : f) v /= static_cast<float>(p.factor);
      return {f, 1.0f};
    }
    case RopeKind::dynamic: {
      const int64_t max = config.max_position_embeddings;
      return {plain(sequence_length > max ? dynamic_base(p, dim, sequence_length, max) : theta, dim), 1.0f};
    }
    case RopeKind::yarn: return {yarn(p, dim), yarn_attention_scaling(p)};
    case RopeKind::llama3: return {llama3(p, dim), 1.0f};
    case RopeKind::longrope: return {longrope(p, dim, sequence_length), longrope_attention_scaling(p, config.max_position_embeddings)};
  }
  LLMTRAIN_ASSERT(false, "rope kind");
}

bool rope_depends_on_length(const ModelConfig& config) { return config.rope.kind == RopeKind::dynamic || config.rope.kind == RopeKind::longrope; }

}  // namespace llmtrain
