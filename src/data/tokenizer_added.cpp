#include "data/tokenizer_added.h"

#include <algorithm>
#include <cstring>

namespace llmtrain {

void StringMatcher::add(std::string_view content, int32_t value) {
  if (content.empty()) return;
  if (nodes_.empty()) std::fill(std::begin(roots_), std::end(roots_), -1);
  const auto new_node = [&](unsigned char byte, int32_t sibling) {
    nodes_.push_back({byte, -1, sibling, -1});
    return static_cast<int32_t>(nodes_.size() - 1);
  };
  const auto first = static_cast<unsigned char>(content[0]);
  if (roots_[first] < 0) {
    roots_[first] = new_node(first, -1);
    ++distinct_first_;
    only_first_ = first;
  }
  int32_t at = roots_[first];
  for (const char c : content.substr(1)) {
    const auto byte = static_cast<unsigned char>(c);
    int32_t next = step(nodes_[static_cast<size_t>(at)].child, byte);
    if (next < 0) {
      next = new_node(byte, nodes_[static_cast<size_t>(at)].child);
      nodes_[static_cast<size_t>(at)].child = next;
    }
    at = next;
  }
  if (nodes_[static_cast<size_t>(at)].value < 0) nodes_[static_cast<size_t>(at)].value = value;
}

bool StringMatcher::find(std::string_view text, size_t from, size_t& begin, size_t& end, int32_t& value) const {
  if (nodes_.empty()) return false;
  for (size_t i = from; i < text.size(); ++i) {
    if (distinct_first_ == 1) {
      const void* hit = std::memchr(text.data() + i, only_first_, text.size() - i);
      if (!hit) return false;
      i = static_cast<size_t>(static_cast<const char*>(hit) - text.data());
    }
    int32_t at = roots_[static_cast<unsigned char>(text[i])];
    bool found = false;
    for (size_t k = i + 1; at >= 0; ++k) {
      if (nodes_[static_cast<size_t>(at)].value >= 0) {
        found = true;
        begin = i;
        end = k;
        value = nodes_[static_cast<size_t>(at)].value;
      }
      if (k >= text.size()) break;
      at = step(nodes_[static_cast<size_t>(at)].child, static_cast<unsigned char>(text[k]));
    }
    if (found) return true;
  }
  return false;
}

}  // namespace llmtrain
