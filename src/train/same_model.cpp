#include "train/same_model.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <vector>

#include "checkpoint/digest.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

constexpr uint64_t kPieces = 16, kPieceBytes = 4096;

std::string print_of_weights(const SafetensorsFile& weights) {
  Digest digest;
  std::string header;
  for (const SafetensorsEntry& entry : weights.entries())
    header += entry.name + " " + name_of(entry.dtype) + " " + entry.shape.text() + " " + std::to_string(entry.begin) + "\n";
  digest.add(header.data(), header.size());
  const File file = File::open_for_reading(weights.path());
  const uint64_t size = file.size(), begin = weights.entries().empty() ? size : weights.entries().front().begin;
  digest.add(&size, sizeof size);
  std::vector<char> piece(kPieceBytes);
  for (uint64_t i = 0; i < kPieces; ++i) {
    const uint64_t at = begin + (size - begin) / kPieces * i;
    const uint64_t bytes = std::min(kPieceBytes, size - at);
    file.read_at(piece.data(), bytes, at);
    digest.add(piece.data(), bytes);
  }
  return digest.hex();
}

}  // namespace

std::string print_of_model(const std::string& folder, const ModelFolder& weights) {
  std::string lines = "config.json " + digest_of_file(folder + "/config.json") + "\n";
  for (const SafetensorsFile& file : weights.files())
    lines += std::filesystem::path(file.path()).filename().string() + " " + print_of_weights(file) + "\n";
  return lines;
}

void check_same_model(RankGroup& group, const std::string& folder, const ModelFolder& weights) {
  if (group.size() == 1) return;
  std::string mine;
  run_on_all_or_fail(group, [&] { mine = print_of_model(folder, weights); });
  const std::string first = broadcast_string(group, mine, 0);
  run_on_all_or_fail(group, [&] {
    if (mine == first) return;
    std::istringstream ours(mine), theirs(first);
    std::string our_line, their_line;
    while (std::getline(ours, our_line) && std::getline(theirs, their_line) && our_line == their_line) {
    }
    throw InputError(folder, our_line.substr(0, our_line.rfind(' ')) + " is not the one that rank 0 reads",
                     "give every node the same model: on a file system that all see, or the same copy");
  });
}

}  // namespace llmtrain
