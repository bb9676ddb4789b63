// Which algorithm a matrix product runs: the choices made so far, by shape, and their file. An algorithm is the library's own 64 bytes, good for one
// version of it on one kind of GPU: the file carries a line that says which ("environment"), and whoever takes a choice from it asks the library whether
// it still fits. Nothing here needs CUDA.
//
// The number of tokens of a batch varies (packing), and an algorithm that is good for 4,000 tokens is good for 4,100: choices are kept for the number of
// tokens rounded up to four steps between powers of two, and borrowed from a neighbour within a factor of four where there is none.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "kernels/gemm_shape.h"

namespace llmtrain::cuda {

using GemmAlgorithm = std::array<uint64_t, 8>;

// 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20 …
int64_t token_step(int64_t tokens);

// What a choice depends on: the shape with its tokens rounded (m, or k where a is transposed: gemm_shape.h), whether all matrices and rows are aligned
// to 16 bytes, and TF32.
struct GemmKey {
  std::string kind;    // everything but the number of tokens
  int64_t tokens = 0;  // rounded
  auto operator<=>(const GemmKey&) const = default;
};
GemmKey key_of(const GemmShape& shape, int alignment, bool tf32);

class GemmChoices {
 public:
  std::optional<GemmAlgorithm> find(const GemmKey& key) const;
  // That of the same kind whose number of tokens is nearest, at most four times more or fewer.
  std::optional<GemmAlgorithm> nearest(const GemmKey& key) const;
  void set(const GemmKey& key, const GemmAlgorithm& algorithm) { choices_[key] = algorithm; }
  void forget(const GemmKey& key) { choices_.erase(key); }
  // Takes over what is not known here.
  void merge(const GemmChoices& other) { choices_.insert(other.choices_.begin(), other.choices_.end()); }
  size_t size() const { return choices_.size(); }
  bool operator==(const GemmChoices&) const = default;

  // Text: a line of magic, the environment, a line for each choice, a checksum. Nothing where a line does not fit, with the reason.
  std::string text(const std::string& environment) const;
  static std::optional<GemmChoices> parse(const std::string& text, const std::string& environment, std::string& why);

 private:
  std::map<GemmKey, GemmAlgorithm> choices_;
};

}  // namespace llmtrain::cuda
