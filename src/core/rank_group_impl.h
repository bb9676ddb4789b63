// Templates of rank_group.h.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <exception>
#include <new>

#include "core/error.h"

namespace llmtrain {

inline std::string broadcast_string(RankGroup& group, const std::string& text, int root) {
  uint64_t length = text.size();
  group.broadcast(&length, sizeof length, root);
  std::string result = group.rank() == root ? text : std::string(length, '\0');
  group.broadcast(result.data(), length, root);
  return result;
}

inline std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "an unknown host";
}

template <class Work>
void run_on_all_or_fail(RankGroup& group, Work&& work) {
  enum : int32_t { fine = 0, input = 1, operation = 2 };
  int32_t mine = fine;
  std::string message;
  try {
    work();
  } catch (const InputError& e) {
    mine = input;
    message = e.what();
  } catch (const std::bad_alloc&) {
    mine = operation;
    message = "out of host memory";
  } catch (const std::exception& e) {
    mine = operation;
    message = e.what();
  }
  std::vector<int32_t> all(static_cast<size_t>(group.size()));
  group.all_gather(&mine, all.data(), sizeof mine);
  for (int r = 0; r < group.size(); ++r) {
    if (all[static_cast<size_t>(r)] == fine) continue;
    const std::string text = broadcast_string(group, message, r);
    const std::string on = group.size() > 1 ? " (rank " + std::to_string(r) + " on " + broadcast_string(group, host_name(), r) + ")" : "";
    if (all[static_cast<size_t>(r)] == input) throw InputError(text + on);
    if (r != group.rank()) throw PeerFailure(text + on);
    throw OperationError(text + on);
  }
}

}  // namespace llmtrain
