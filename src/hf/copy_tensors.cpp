#include "hf/copy_tensors.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr float kFloat16Overflow = 65520.0f;  // from here on float16 rounds to infinity

void refuse_overflow(const std::vector<char>& buffer, size_t n, const std::string& name) {
  const auto* values = reinterpret_cast<const float*>(buffer.data());
  for (size_t i = 0; i < n; ++i) {
    if (std::isfinite(values[i]) && std::fabs(values[i]) >= kFloat16Overflow) {
      throw InputError(name, "holds " + std::to_string(values[i]) + ", which float16 cannot hold", "use --dtype bfloat16");
    }
  }
}

struct Piece {
  size_t tensor;
  int64_t begin, count;
};

std::vector<Piece> pieces_of_rank(const std::vector<NamedShape>& tensors, int rank, int ranks) {
  std::vector<Piece> mine;
  int64_t number = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const int64_t elements = tensors[t].shape.elements();
    for (int64_t begin = 0; begin < elements; begin += kCopyPieceElements, ++number) {
      if (number % ranks == rank) mine.push_back({t, begin, std::min(kCopyPieceElements, elements - begin)});
    }
  }
  return mine;
}

}  // namespace

void copy_tensors(RankGroup& group, const TensorSource& source, FolderExport& out, const std::function<void(uint64_t, uint64_t)>& progress) {
  run_on_all_or_fail(group, [&] {
    const std::vector<NamedShape>& tensors = source.tensors();
    const std::vector<Piece> mine = pieces_of_rank(tensors, group.rank(), group.size());
    const DType target = out.plan().dtype();
    const bool watch = target == DType::float16 && source.dtype() != DType::float16;
    const DType through = watch ? DType::float32 : target;
    uint64_t total = 0, done = 0;
    int64_t largest = 0;
    for (const Piece& p : mine) {
      total += static_cast<uint64_t>(p.count) * size_of(target);
      largest = std::max(largest, p.count);
    }
    std::vector<char> buffer(static_cast<size_t>(largest) * size_of(through));
    for (const Piece& p : mine) {
      if (out.failed()) break;  // finish() says why
      const std::string& name = tensors[p.tensor].name;
      source.read_range(name, p.begin, p.count, buffer.data(), through);
      if (watch) refuse_overflow(buffer, static_cast<size_t>(p.count), name);
      out.write_range(name, p.begin, p.count, buffer.data(), through);
      done += static_cast<uint64_t>(p.count) * size_of(target);
      if (progress) progress(done, total);
    }
  });
}

}  // namespace llmtrain
