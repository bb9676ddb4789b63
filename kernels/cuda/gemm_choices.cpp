#include "kernels/cuda/gemm_choices.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <string_view>

namespace llmtrain::cuda {
namespace {

constexpr std::string_view kMagic = "llmtrain matrix products 1";

std::string hexadecimal(uint64_t x) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(x));
  return text;
}

bool parse_hexadecimal(std::string_view text, uint64_t& x) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x, 16);
  return error == std::errc() && end == text.data() + text.size();
}

// The next line of `text`, without its end, which must be there.
bool take_line(std::string_view& text, std::string_view& line) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return false;
  line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return true;
}

// tokens, a tab, kind, a tab, the algorithm as 128 hexadecimal digits
bool parse_choice(std::string_view line, GemmKey& key, GemmAlgorithm& algorithm) {
  const size_t first = line.find('\t'), second = first == std::string_view::npos ? first : line.find('\t', first + 1);
  if (second == std::string_view::npos || line.size() - second - 1 != 16 * algorithm.size()) return false;
  const auto [end, error] = std::from_chars(line.data(), line.data() + first, key.tokens);
  if (error != std::errc() || end != line.data() + first) return false;
  key.kind = std::string(line.substr(first + 1, second - first - 1));
  for (size_t i = 0; i < algorithm.size(); ++i)
    if (!parse_hexadecimal(line.substr(second + 1 + 16 * i, 16), algorithm[i])) return false;
  return !key.kind.empty();
}

}  // namespace

int64_t token_step(int64_t tokens) {
  if (tokens <= 8) return std::max<int64_t>(tokens, 0);
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens - 1))) / 4;
  return (tokens + step - 1) / step * step;
}

GemmKey key_of(const GemmShape& s, int alignment, bool tf32) {
  char text[160];
  std::snprintf(text, sizeof text, "%s %lld x %lld%s%s %s -> %s%s%s, aligned to %d%s", s.a_transposed ? "m n" : "n k",
                static_cast<long long>(s.a_transposed ? s.m : s.n), static_cast<long long>(s.a_transposed ? s.n : s.k), s.a_transposed ? " a^T" : "",
                s.b_transposed ? " b^T" : "", std::string(name_of(s.inputs)).c_str(), std::string(name_of(s.output)).c_str(), s.accumulate ? " +=" : "",
                s.bias ? " + bias" : "", alignment, tf32 ? ", tf32" : "");
  return {text, token_step(s.a_transposed ? s.k : s.m)};
}

std::optional<GemmAlgorithm> GemmChoices::find(const GemmKey& key) const {
  const auto found = choices_.find(key);
  if (found == choices_.end()) return std::nullopt;
  return found->second;
}

std::optional<GemmAlgorithm> GemmChoices::nearest(const GemmKey& key) const {
  std::optional<GemmAlgorithm> best;
  double best_ratio = 4;
  for (auto it = choices_.lower_bound({key.kind, 0}); it != choices_.end() && it->first.kind == key.kind; ++it) {
    const auto a = static_cast<double>(std::max<int64_t>(it->first.tokens, 1)), b = static_cast<double>(std::max<int64_t>(key.tokens, 1));
    const double ratio = std::max(a, b) / std::min(a, b);
    if (ratio > best_ratio || (best && ratio == best_ratio)) continue;
    best_ratio = ratio;
    best = it->second;
  }
  return best;
}

std::string GemmChoices::text(const std::string& environment) const {
  std::string out = std::string(kMagic) + "\n" + environment + "\n";
  for (const auto& [key, algorithm] : choices_) {
    out += std::to_string(key.tokens) + "\t" + key.kind + "\t";
    for (const uint64_t word : algorithm) out += hexadecimal(word);
    out += "\n";
  }
  return out + "checksum " + hexadecimal(XXH3_64bits(out.data(), out.size())) + "\n";
}

std::optional<GemmChoices> GemmChoices::parse(const std::string& text, const std::string& environment, std::string& why) {
  const std::string mark = "checksum ";
  const size_t at = text.rfind(mark);
  uint64_t sum = 0;
  why = "it is damaged";
  if (at == std::string::npos || text.size() - at != mark.size() + 17 || text.back() != '\n') return std::nullopt;
  if (!parse_hexadecimal(std::string_view(text).substr(at + mark.size(), 16), sum) || sum != XXH3_64bits(text.data(), at)) return std::nullopt;
  std::string_view rest(text.data(), at), line;
  if (!take_line(rest, line) || line != kMagic) return std::nullopt;
  if (!take_line(rest, line)) return std::nullopt;
  if (line != environment) {
    why = "it is of another GPU, driver or library";
    return std::nullopt;
  }
  GemmChoices choices;
  while (!rest.empty()) {
    GemmKey key;
    GemmAlgorithm algorithm;
    if (!take_line(rest, line) || !parse_choice(line, key, algorithm)) return std::nullopt;
    choices.set(key, algorithm);
  }
  why.clear();
  return choices;
}

}  // namespace llmtrain::cuda
