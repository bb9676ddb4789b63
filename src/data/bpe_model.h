// The tables of a BPE model: token <-> id, and the merges.
//
// Thread rules: built by one thread, then read by many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace llmtrain {

// Tokens by text and by id. Ids may have holes; memory is that of the texts plus 12 bytes per id.
class Vocabulary {
 public:
  void reserve(size_t tokens, size_t bytes);
  // False when the text or the id is taken already. `id` >= 0.
  bool add(std::string_view token, int32_t id);
  int32_t find(std::string_view token) const;        // -1 where absent
  std::string_view token(int32_t id) const {         // "" for a hole
    if (!has(id)) return {};
    const Place& place = places_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(place.at, place.length);
  }
  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < places_.size() && places_[static_cast<size_t>(id)].used; }
  int32_t end() const { return static_cast<int32_t>(places_.size()); }  // largest id + 1
  size_t count() const { return count_; }
  size_t longest() const { return longest_; }  // bytes

 private:
  struct Place {
    uint32_t at = 0;
    uint32_t length : 31 = 0;
    uint32_t used : 1 = 0;
  };
  struct Slot {
    uint32_t tag = 0;
    int32_t id = -1;
  };
  void grow(size_t slots);
  std::string text_;
  std::vector<Place> places_;
  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  size_t count_ = 0, longest_ = 0;
};

// Pairs of ids that merge, their rank (0 merges first) and what they become. Of two merges of one pair the later one counts.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  void reserve(size_t merges);
  // `rank` may be shared by several pairs (SentencePiece: all splits of one piece); ranks are small: the table has an entry for each.
  void add(int32_t left, int32_t right, int32_t merged, uint32_t rank);
  uint32_t rank(int32_t left, int32_t right) const {
    size_t at = slot_of(left, right);
    for (;;) {
      const Slot& s = slots_[at];
      if (s.left == left && s.right == right) return s.rank;
      if (s.left < 0) return kNone;
      at = (at + 1) & mask_;
    }
  }
  int32_t merged(uint32_t rank) const { return merged_[rank]; }
  uint32_t ranks() const { return static_cast<uint32_t>(merged_.size()); }  // largest rank + 1
  size_t count() const { return count_; }
  template <class F>
  void for_each(F&& f) const {  // f(left, right, merged), in no order
    for (const Slot& s : slots_) {
      if (s.left >= 0) f(s.left, s.right, merged_[s.rank]);
    }
  }

 private:
  struct Slot {
    int32_t left = -1, right = -1;
    uint32_t rank = kNone;
  };
  size_t slot_of(int32_t left, int32_t right) const {
    const uint64_t key = (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right)) * 0x9E3779B97F4A7C15u;
    return static_cast<size_t>(key >> shift_);
  }
  std::vector<Slot> slots_ = std::vector<Slot>(2);
  std::vector<int32_t> merged_;
  size_t mask_ = 1, count_ = 0;
  unsigned shift_ = 63;
};

// Applies merges to a row of symbols: the pair of lowest rank first, of equal ranks the leftmost, until none is left. Keeps scratch memory:
// one Merger per thread. O(n log n) in the worst case and linear where one rank dominates (a long run of one character).
class Merger {
 public:
  explicit Merger(const MergeTable& table) : table_(table) {}
  // Merges symbols[0, n) in place; returns how many are left.
  size_t merge(int32_t* symbols, size_t n);

 private:
  static constexpr size_t kScan = 40;    // up to here: look for the smallest rank by scanning
  static constexpr size_t kHeap = 2048;  // up to here: a binary heap; above: one queue per rank
  struct Bucket {
    std::vector<uint32_t> positions;  // ascending from `head`, or a heap (smallest first) from 0 where `heap`
    size_t head = 0;
    bool heap = false;
    bool queued = false;  // its rank stands in the heap of ranks
  };
  size_t merge_by_scan(int32_t* symbols, size_t n);
  size_t merge_by_heap(int32_t* symbols, size_t n);
  size_t merge_by_buckets(int32_t* symbols, size_t n);
  void push(uint32_t rank, uint32_t position);
  uint32_t pop(Bucket& bucket);
  void link(size_t n);
  bool merge_at(int32_t* symbols, uint32_t position, uint32_t rank);
  size_t collect(int32_t* symbols, size_t n);

  const MergeTable& table_;
  std::vector<uint32_t> next_, previous_;
  std::vector<uint64_t> heap_;          // rank << 32 | position
  std::vector<uint32_t> rank_heap_;     // ranks with waiting positions
  std::vector<Bucket> buckets_;         // made when a rank is first seen in a word
  std::vector<int32_t> bucket_of_;      // by rank, -1 = none
  std::vector<uint32_t> ranks_in_use_;  // to reset bucket_of_
};

}  // namespace llmtrain
