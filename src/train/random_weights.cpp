// Normal numbers by Philox and Box & Muller (1958); four a counter.
#include "train/random_weights.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/philox.h"

namespace llmtrain {
namespace {

constexpr int64_t kParallelElements = 1 << 14;  // below, a team costs more than it gains

bool is_bias(TensorRole role) {
  switch (role) {
    case TensorRole::q_bias:
    case TensorRole::k_bias:
    case TensorRole::v_bias:
    case TensorRole::o_bias:
    case TensorRole::gate_bias:
    case TensorRole::up_bias:
    case TensorRole::down_bias: return true;
    default: return false;
  }
}

std::array<float, 4> four_normals(PhiloxCounter counter, PhiloxKey key) {
  const PhiloxCounter bits = philox(counter, key);
  std::array<float, 4> normal;
  for (size_t pair = 0; pair < 4; pair += 2) {
    const float radius = std::sqrt(-2.0f * std::log(philox_uniform(bits[pair])));
    const float angle = 6.2831853f * philox_uniform(bits[pair + 1]);
    normal[pair] = radius * std::cos(angle);
    normal[pair + 1] = radius * std::sin(angle);
  }
  return normal;
}

}  // namespace

void random_normal(uint64_t seed, const std::string& tensor, float deviation, int64_t begin, int64_t count, float* out) {
  const uint64_t name = name_hash(tensor);
  const PhiloxKey key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const int64_t end = begin + count, blocks = (end + 3) / 4;
  // By all of the rank's threads: eight billion elements are minutes of one processor. Elements depend on their place only, so the bits do not change.
#pragma omp parallel for schedule(static) if (count >= kParallelElements)
  for (int64_t block = begin / 4; block < blocks; ++block) {
    const auto b = static_cast<uint64_t>(block);
    const auto normal = four_normals({static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32), static_cast<uint32_t>(name), static_cast<uint32_t>(name >> 32)}, key);
    for (int64_t e = std::max(begin, block * 4); e < std::min(end, block * 4 + 4); ++e) out[e - begin] = deviation * normal[static_cast<size_t>(e - block * 4)];
  }
}

RandomWeights::RandomWeights(const ModelConfig& config, uint64_t seed) : seed_(seed), deviation_(config.initializer_range) {
  for (const TensorSpec& tensor : all_tensors(config)) roles_.emplace(tensor.name, tensor.role);
}

void RandomWeights::fill(const std::string& tensor, int64_t begin, int64_t count, float* out) const {
  const auto found = roles_.find(tensor);
  LLMTRAIN_ASSERT(found != roles_.end(), "no tensor " + tensor);
  if (is_bias(found->second)) {
    std::fill_n(out, count, 0.0f);
  } else if (is_norm_or_bias(found->second)) {
    std::fill_n(out, count, 1.0f);
  } else {
    random_normal(seed_, tensor, deviation_, begin, count, out);
  }
}

}  // namespace llmtrain
