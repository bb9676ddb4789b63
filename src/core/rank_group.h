// A group of ranks that agree on host values. The rooms beside the engine (data, hf, checkpoint) see only this; comm implements it over MPI.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

namespace llmtrain {

class RankGroup {
 public:
  virtual ~RankGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void barrier() = 0;
  // all holds size() * bytes_each bytes, rank by rank.
  virtual void all_gather(const void* mine, void* all, size_t bytes_each) = 0;
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
};

// One process by itself.
class SoloGroup : public RankGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void barrier() override {}
  void all_gather(const void* mine, void* all, size_t bytes_each) override { std::memcpy(all, mine, bytes_each); }
  void broadcast(void*, size_t, int) override {}
};

// All ranks agree whether `work` succeeded anywhere: runs it, and when it threw InputError or OperationError on some rank, every rank throws the
// error of the first such rank (same kind, same text), so that nobody is left waiting. Collective.
template <class Work>
void run_on_all_or_fail(RankGroup& group, Work&& work);

// The text of `text` on rank `root`, on every rank. Collective.
inline std::string broadcast_string(RankGroup& group, const std::string& text, int root);

}  // namespace llmtrain

#include "core/rank_group_impl.h"
