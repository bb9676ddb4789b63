#include "model/model_weights.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace llmtrain {
namespace {
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
}  // namespace

ModelWeights::ModelWeights(const ModelConfig& config, const std::string& folder) : config_(config), folder_(ModelFolder::open(folder)) {
  for (const TensorSpec& t : all_tensors(config)) tensors_.push_back({t.name, t.shape});
  embedding_is_head_ = config.tie_word_embeddings && !folder_.has(kEmbedding) && folder_.has(kHead);
  std::vector<NamedShape> expected = tensors_;
  if (embedding_is_head_) {
    for (NamedShape& t : expected) {
      if (t.name == kEmbedding) t.name = kHead;
    }
  }
  ignored_ = folder_.check(expected);
}

DType ModelWeights::dtype() const { return folder_.entry(embedding_is_head_ ? kHead : kEmbedding).dtype; }

void ModelWeights::read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const {
  folder_.read_range(embedding_is_head_ && name == kEmbedding ? kHead : name, element_begin, count, out, out_type);
}

void ModelWeights::verify(RankGroup& group) const {
  if (!config_.tie_word_embeddings || !folder_.has(kEmbedding) || !folder_.has(kHead)) return;
  run_on_all_or_fail(group, [&] {
    const SafetensorsEntry &embedding = folder_.entry(kEmbedding), &head = folder_.entry(kHead);
    bool equal = embedding.shape == head.shape && is_floating(head.dtype);
    const int64_t elements = embedding.shape.elements();
    const int64_t begin = elements / group.size() * group.rank();
    const int64_t end = group.rank() + 1 == group.size() ? elements : elements / group.size() * (group.rank() + 1);
    constexpr int64_t kPiece = 1 << 20;
    std::vector<float> a(static_cast<size_t>(kPiece)), b(static_cast<size_t>(kPiece));
    for (int64_t at = begin; equal && at < end; at += kPiece) {
      const int64_t n = std::min(kPiece, end - at);
      folder_.read_range(kEmbedding, at, n, a.data(), DType::float32);
      folder_.read_range(kHead, at, n, b.data(), DType::float32);
      equal = std::memcmp(a.data(), b.data(), static_cast<size_t>(n) * sizeof(float)) == 0;
    }
    if (!equal) {
      throw InputError(config_.path, "tie_word_embeddings is true, but the folder holds a lm_head.weight that differs from model.embed_tokens.weight",
                       "set tie_word_embeddings to false to use both, or remove lm_head.weight");
    }
  });
}

}  // namespace llmtrain
