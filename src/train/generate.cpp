// Sampling, streaming text and the generation loop of generate.h.
#include "train/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/philox.h"

namespace llmtrain {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
// A character has at most four bytes, so that many ids may end in an unfinished one; more are broken text.
constexpr size_t kMostUnfinished = 4;

bool ends_with(std::string_view text, std::string_view end) { return text.size() >= end.size() && text.substr(text.size() - end.size()) == end; }

double uniform_at(uint64_t seed, int64_t position) {
  const auto p = static_cast<uint64_t>(position);
  const PhiloxCounter bits = philox({static_cast<uint32_t>(p), static_cast<uint32_t>(p >> 32), 0x67656e65u, 0}, {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (static_cast<double>((uint64_t{bits[0]} << 21) ^ (bits[1] >> 11)) + 0.5) / 9007199254740992.0;  // 53 bits, below 1
}

}  // namespace

void check_sampling(const SamplingOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) throw InputError("--temperature", "must be 0 (greedy) or more", "");
  if (!(o.top_p > 0 && o.top_p <= 1)) throw InputError("--top-p", "must be above 0 and at most 1", "");
  if (o.top_k < 0) throw InputError("--top-k", "must be 0 (all) or more", "");
}

int32_t choose_token(std::span<const float> logits, const SamplingOptions& o, int64_t position) {
  LLMTRAIN_ASSERT(!logits.empty(), "no logits");
  if (o.temperature == 0) return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
    return la > lb || (la == lb && a < b);
  };
  size_t kept = order.size();
  if (o.top_k > 0) kept = std::min(kept, static_cast<size_t>(o.top_k));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), before);
  const double top = logits[static_cast<size_t>(order[0])];
  std::vector<double> weights(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += weights[i] = std::exp((logits[static_cast<size_t>(order[i])] - top) / o.temperature);
  if (o.top_p < 1) {
    double sum = 0;
    size_t n = 0;
    while (n < kept && sum < o.top_p * total) sum += weights[n++];
    kept = n;
    total = sum;
  }
  double rest = uniform_at(o.seed, position) * total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    rest -= weights[i];
    if (rest < 0) return order[i];
  }
  return order[kept - 1];
}

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const int32_t> context) : tokenizer_(tokenizer) {
  const size_t n = std::min(context.size(), kMostUnfinished);
  ids_.assign(context.end() - static_cast<std::ptrdiff_t>(n), context.end());
  read_ = ids_.size();
}

std::string TextStream::decode(size_t begin, size_t end) const {
  return tokenizer_.decode(std::span<const int32_t>(ids_).subspan(begin, end - begin), true);
}

std::string TextStream::add(int32_t id) {
  ids_.push_back(id);
  const std::string printed = decode(begin_, read_), now = decode(begin_, ids_.size());
  if (now.size() <= printed.size() || (ends_with(now, kReplacement) && ids_.size() - read_ < kMostUnfinished)) return "";
  begin_ = read_;
  read_ = ids_.size();
  return now.substr(printed.size());
}

std::string TextStream::finish() {
  const std::string printed = decode(begin_, read_), now = decode(begin_, ids_.size());
  begin_ = read_ = ids_.size();
  return now.size() > printed.size() ? now.substr(printed.size()) : "";
}

Generated generate(Engine& engine, std::span<const int32_t> prompt, int64_t max_new_tokens, std::span<const int32_t> stop_ids, const SamplingOptions& sampling,
                   const std::function<void(int32_t)>& emit) {
  LLMTRAIN_ASSERT(!prompt.empty(), "an empty prompt");
  Generated result;
  std::vector<float> logits(static_cast<size_t>(engine.model().vocab_size));
  Transformer& model = engine.transformer();
  model.clear_cache();
  if (max_new_tokens > 0) model.extend(prompt, logits);
  for (int64_t n = 0; n < max_new_tokens; ++n) {
    int32_t id = choose_token(logits, sampling, static_cast<int64_t>(prompt.size()) + n);
    // Ranks on different processors may round differently: one decides.
    engine.communicator().broadcast(&id, sizeof id, 0);
    result.ids.push_back(id);
    if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
      result.stopped = true;
      break;
    }
    if (emit) emit(id);
    if (n + 1 < max_new_tokens) model.extend(std::span<const int32_t>(&id, 1), logits);
  }
  return result;
}

}  // namespace llmtrain
