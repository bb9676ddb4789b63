// Writing a token store by all ranks together, with or without a shared file system.
//
// Every rank writes its part into a temporary folder beside the final one. Each then looks which parts of the others it can see: ranks that see each
// other's share a file system, and the lowest of them is its leader. Parts that a leader does not see are sent to it over the RankGroup. Leaders
// write the manifest and rename the folder, so that a store is complete or absent. All functions are collective unless said otherwise.
#pragma once

#include <string>
#include <vector>

#include "core/rank_group.h"
#include "data/store.h"

namespace llmtrain {

class StoreBuilder {
 public:
  // `folder`: where the store shall lie. `replace`: an older store there gives way; else a valid one with the same key that appeared in the
  // meantime is kept.
  StoreBuilder(RankGroup& group, std::string folder, bool replace);
  ~StoreBuilder();  // not collective: removes this rank's temporary files
  StoreBuilder(const StoreBuilder&) = delete;
  StoreBuilder& operator=(const StoreBuilder&) = delete;

  std::string part_path() const;  // of this rank; write it with PartWriter
  // When every rank has finished its part (all of them have to get here: agree on errors first). `bytes`: of this rank's part.
  void commit(const StoreInfo& info, uint64_t bytes);

 private:
  std::string part_name(int rank) const;
  std::vector<char> visible_parts() const;
  void deliver(const std::vector<char>& all_visible, const std::vector<uint64_t>& bytes);
  void publish(const StoreInfo& info, const std::vector<uint64_t>& bytes);
  RankGroup& group_;
  std::string folder_, temporary_;
  bool replace_, done_ = false, leader_ = true;
};

// Opens a store that all ranks have just agreed on; waits a little for file systems that show new names late. Not collective.
TokenStore open_committed(const std::string& folder, int world);

// The store in `folder` if every rank sees it whole and with this key ("" = any key); else nothing. `reason`: why not, where a folder is there.
// Collective.
std::optional<TokenStore> open_if_everywhere(RankGroup& group, const std::string& folder, const std::string& key, std::string& reason);

// The strings of all ranks, on every rank. Collective.
std::vector<std::string> gather_strings(RankGroup& group, const std::string& mine);

}  // namespace llmtrain
