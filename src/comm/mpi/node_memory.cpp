// Allocations shared by the ranks of a node (node_memory.h).
#include "comm/mpi/node_memory.h"

#include <algorithm>
#include <array>

#include "comm/mpi/mpi_calls.h"
#include "core/error.h"

namespace llmtrain {

std::string NodeMemory::first_reason(const std::string& mine) {
  std::array<char, 400> told{};
  std::copy_n(mine.begin(), std::min(mine.size(), told.size() - 1), told.begin());
  std::vector<char> all(told.size() * static_cast<size_t>(size_));
  all_gather_any_size(comm_, size_, told.data(), all.data(), told.size());
  for (int r = 0; r < size_; ++r) {
    const char* reason = all.data() + static_cast<size_t>(r) * told.size();
    if (*reason != '\0') return "rank " + std::to_string(r) + ": " + reason;
  }
  return "";
}

bool NodeMemory::try_shared(bool anonymous, size_t bytes, NodeRegion& region) {
  std::string reason;
  SharedSegment own;
  try {
    own = anonymous ? SharedSegment::make_anonymous(bytes) : SharedSegment::make_in_folder(options_.shared_folder, bytes);
  } catch (const OperationError& e) {
    reason = e.what();
  }
  region.why_not = first_reason(reason);
  if (!region.why_not.empty()) return false;

  std::vector<SegmentAddress> addresses(static_cast<size_t>(size_));
  all_gather_any_size(comm_, size_, &own.address(), addresses.data(), sizeof(SegmentAddress));
  std::vector<SharedSegment> segments(locals_.size());
  try {
    for (size_t i = 0; i < locals_.size(); ++i)
      if (i != me_) segments[i] = SharedSegment::open(addresses[static_cast<size_t>(locals_[i])]);
  } catch (const OperationError& e) {
    reason = e.what();
  }
  region.why_not = first_reason(reason);  // also: everybody has opened what it needs
  own.close_file();
  if (!region.why_not.empty()) return false;

  segments[me_] = std::move(own);
  region.segments = std::move(segments);
  for (const SharedSegment& segment : region.segments) region.base.push_back(segment.data());
  region.mine = region.base[me_];
  region.shared = true;
  return true;
}

NodeRegion NodeMemory::allocate(Device& device, size_t bytes) {
  NodeRegion region;
  region.bytes = bytes;
  if (wanted_) {
    std::string first;
    if (options_.anonymous_memory) {
      if (try_shared(true, bytes, region)) return region;
      first = region.why_not + "; ";
    }
    if (try_shared(false, bytes, region)) return region;
    region.why_not = first + region.why_not;
  }
  std::string reason;
  try {
    region.private_memory = device.allocate(bytes);
  } catch (const OperationError& e) {
    reason = e.what();
  }
  reason = first_reason(reason);
  if (!reason.empty()) throw OperationError(reason);
  region.mine = static_cast<char*>(region.private_memory);
  return region;
}

}  // namespace llmtrain
