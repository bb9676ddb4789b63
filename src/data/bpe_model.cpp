#define XXH_INLINE_ALL
#include "data/bpe_model.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <functional>

namespace llmtrain {

void Vocabulary::reserve(size_t tokens, size_t bytes) {
  text_.reserve(bytes);
  places_.reserve(tokens);
  if (tokens * 2 > slots_.size()) grow(std::bit_ceil(std::max<size_t>(tokens * 2, 64)));
}

void Vocabulary::grow(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (size_t id = 0; id < places_.size(); ++id) {
    if (!places_[id].used) continue;
    const std::string_view token = this->token(static_cast<int32_t>(id));
    const uint64_t hash = XXH3_64bits(token.data(), token.size());
    size_t at = hash & (slots - 1);
    while (slots_[at].id >= 0) at = (at + 1) & (slots - 1);
    slots_[at] = {static_cast<uint32_t>(hash >> 32), static_cast<int32_t>(id)};
  }
}

bool Vocabulary::add(std::string_view token, int32_t id) {
  if ((count_ + 1) * 2 > slots_.size()) grow(std::max<size_t>(64, slots_.size() * 2));
  if (has(id)) return false;
  const uint64_t hash = XXH3_64bits(token.data(), token.size());
  const auto tag = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & (slots_.size() - 1);
  for (; slots_[at].id >= 0; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].tag == tag && this->token(slots_[at].id) == token) return false;
  }
  slots_[at] = {tag, id};
  if (static_cast<size_t>(id) >= places_.size()) places_.resize(static_cast<size_t>(id) + 1);
  Place& place = places_[static_cast<size_t>(id)];
  place.at = static_cast<uint32_t>(text_.size());
  place.length = static_cast<uint32_t>(token.size()) & 0x7FFFFFFFu;
  place.used = 1;
  text_ += token;
  ++count_;
  longest_ = std::max(longest_, token.size());
  return true;
}

int32_t Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return -1;
  const uint64_t hash = XXH3_64bits(token.data(), token.size());
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & (slots_.size() - 1); slots_[at].id >= 0; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].tag == tag && this->token(slots_[at].id) == token) return slots_[at].id;
  }
  return -1;
}

void MergeTable::reserve(size_t merges) {
  const size_t slots = std::bit_ceil(std::max<size_t>(merges + merges / 2, 4));
  merged_.reserve(merges);
  if (slots <= slots_.size()) return;
  std::vector<Slot> old(slots);
  old.swap(slots_);
  mask_ = slots - 1;
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(slots));
  for (const Slot& s : old) {
    if (s.left < 0) continue;
    size_t at = slot_of(s.left, s.right);
    while (slots_[at].left >= 0) at = (at + 1) & mask_;
    slots_[at] = s;
  }
}

void MergeTable::add(int32_t left, int32_t right, int32_t merged, uint32_t rank) {
  if (rank >= merged_.size()) merged_.resize(static_cast<size_t>(rank) + 1, -1);
  merged_[rank] = merged;
  if ((count_ + 1) * 4 > slots_.size() * 3) reserve(slots_.size());
  size_t at = slot_of(left, right);
  for (; slots_[at].left >= 0; at = (at + 1) & mask_) {
    if (slots_[at].left == left && slots_[at].right == right) {
      slots_[at].rank = rank;
      return;
    }
  }
  slots_[at] = {left, right, rank};
  ++count_;
}

size_t Merger::merge(int32_t* symbols, size_t n) {
  if (n < 2) return n;
  if (n <= kScan) return merge_by_scan(symbols, n);
  return n <= kHeap ? merge_by_heap(symbols, n) : merge_by_buckets(symbols, n);
}

size_t Merger::merge_by_scan(int32_t* symbols, size_t n) {
  uint32_t ranks[kScan];
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = table_.rank(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == MergeTable::kNone) break;
    symbols[best] = table_.merged(ranks[best]);
    std::copy(symbols + best + 2, symbols + n, symbols + best + 1);
    std::copy(ranks + best + 1, ranks + n - 1, ranks + best);
    --n;
    if (best > 0) ranks[best - 1] = table_.rank(symbols[best - 1], symbols[best]);
    if (best + 1 < n) ranks[best] = table_.rank(symbols[best], symbols[best + 1]);
  }
  return n;
}

void Merger::link(size_t n) {
  next_.resize(n);
  previous_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    next_[i] = static_cast<uint32_t>(i + 1);
    previous_[i] = static_cast<uint32_t>(i - 1);
  }
}

// Merges the pair at `position` if it still has `rank`. A symbol that was merged into its left neighbour is -1.
bool Merger::merge_at(int32_t* symbols, uint32_t position, uint32_t rank) {
  const size_t n = next_.size();
  const uint32_t right = next_[position];
  if (symbols[position] < 0 || right >= n || table_.rank(symbols[position], symbols[right]) != rank) return false;
  symbols[position] = table_.merged(rank);
  symbols[right] = -1;
  next_[position] = next_[right];
  if (next_[right] < n) previous_[next_[right]] = position;
  return true;
}

size_t Merger::collect(int32_t* symbols, size_t n) {
  size_t put = 0;
  for (size_t i = 0; i < n; i = next_[i]) symbols[put++] = symbols[i];
  return put;
}

size_t Merger::merge_by_heap(int32_t* symbols, size_t n) {
  link(n);
  heap_.clear();
  for (size_t i = 0; i + 1 < n; ++i) {
    const uint32_t rank = table_.rank(symbols[i], symbols[i + 1]);
    if (rank != MergeTable::kNone) heap_.push_back(uint64_t{rank} << 32 | i);
  }
  const auto later = std::greater<uint64_t>();
  std::make_heap(heap_.begin(), heap_.end(), later);
  const auto push = [&](uint32_t left, uint32_t right) {
    const uint32_t rank = table_.rank(symbols[left], symbols[right]);
    if (rank == MergeTable::kNone) return;
    heap_.push_back(uint64_t{rank} << 32 | left);
    std::push_heap(heap_.begin(), heap_.end(), later);
  };
  while (!heap_.empty()) {
    const uint64_t top = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), later);
    heap_.pop_back();
    const auto position = static_cast<uint32_t>(top);
    if (!merge_at(symbols, position, static_cast<uint32_t>(top >> 32))) continue;
    if (previous_[position] < n) push(previous_[position], position);
    if (next_[position] < n) push(position, next_[position]);
  }
  return collect(symbols, n);
}

void Merger::push(uint32_t rank, uint32_t position) {
  if (rank == MergeTable::kNone) return;
  if (bucket_of_.size() < table_.ranks()) bucket_of_.assign(table_.ranks(), -1);
  int32_t& index = bucket_of_[rank];
  if (index < 0) {
    index = static_cast<int32_t>(ranks_in_use_.size());
    ranks_in_use_.push_back(rank);
    if (static_cast<size_t>(index) == buckets_.size()) buckets_.emplace_back();
  }
  Bucket& bucket = buckets_[static_cast<size_t>(index)];
  if (!bucket.queued) {
    bucket.queued = true;
    rank_heap_.push_back(rank);
    std::push_heap(rank_heap_.begin(), rank_heap_.end(), std::greater<uint32_t>());
  }
  auto& positions = bucket.positions;
  if (!bucket.heap && positions.size() > bucket.head && positions.back() > position) {  // out of order: from here on a heap
    positions.erase(positions.begin(), positions.begin() + static_cast<long>(bucket.head));
    bucket.head = 0;
    bucket.heap = true;  // an ascending row is a heap
  }
  positions.push_back(position);
  if (bucket.heap) std::push_heap(positions.begin(), positions.end(), std::greater<uint32_t>());
}

uint32_t Merger::pop(Bucket& bucket) {
  uint32_t position = 0;
  if (bucket.heap) {
    std::pop_heap(bucket.positions.begin(), bucket.positions.end(), std::greater<uint32_t>());
    position = bucket.positions.back();
    bucket.positions.pop_back();
  } else {
    position = bucket.positions[bucket.head++];
  }
  if (bucket.positions.size() == bucket.head) {
    bucket.positions.clear();
    bucket.head = 0;
    bucket.heap = false;
  }
  return position;
}

// One queue per rank. Within a rank positions wait in ascending order, so a run of one character costs a constant per symbol.
size_t Merger::merge_by_buckets(int32_t* symbols, size_t n) {
  link(n);
  for (size_t i = 0; i + 1 < n; ++i) push(table_.rank(symbols[i], symbols[i + 1]), static_cast<uint32_t>(i));
  while (!rank_heap_.empty()) {
    const uint32_t rank = rank_heap_.front();
    const auto index = static_cast<size_t>(bucket_of_[rank]);
    if (buckets_[index].positions.empty()) {
      std::pop_heap(rank_heap_.begin(), rank_heap_.end(), std::greater<uint32_t>());
      rank_heap_.pop_back();
      buckets_[index].queued = false;
      continue;
    }
    const uint32_t position = pop(buckets_[index]);
    if (!merge_at(symbols, position, rank)) continue;
    const uint32_t before = previous_[position], after = next_[position];
    if (before < n) push(table_.rank(symbols[before], symbols[position]), before);
    if (after < n) push(table_.rank(symbols[position], symbols[after]), position);
  }
  for (const uint32_t rank : ranks_in_use_) bucket_of_[rank] = -1;
  ranks_in_use_.clear();
  const size_t left = collect(symbols, n);
  if (n > (size_t{1} << 20)) {  // an exceptional word must not hold its memory for the rest of the run
    std::vector<Bucket>().swap(buckets_);
    std::vector<uint32_t>().swap(next_);
    std::vector<uint32_t>().swap(previous_);
  }
  return left;
}

}  // namespace llmtrain
