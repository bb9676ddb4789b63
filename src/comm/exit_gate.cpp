#include "comm/exit_gate.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "comm/mpi/shared_segment.h"
#include "comm/process.h"
#include "core/error.h"

namespace llmtrain {
namespace {

enum Stage : uint32_t { kAbsent, kWorks, kLeaves };

struct Member {
  ProcessName process;
  SegmentAddress segment;
  char host[64];
};

}  // namespace

struct ExitGate::State {
  SharedSegment segment;
  std::vector<Member> members;  // of all ranks
  std::vector<int> locals;      // the ranks of this node
  int rank = 0;
  std::atomic<uint32_t>* stages = nullptr;  // [ranks of the node]; null: nobody is waited for
};

ExitGate::ExitGate(RankGroup& group, const std::string& host) : state_(std::make_unique<State>()) {
  if (group.size() == 1) return;
  static_assert(std::atomic<uint32_t>::is_always_lock_free, "these words are shared between processes");
  State& s = *state_;
  s.rank = group.rank();
  Member me{};
  me.process = this_process();
  host.copy(me.host, sizeof me.host - 1);
  const auto bytes = static_cast<size_t>(group.size()) * sizeof(std::atomic<uint32_t>);
  try {  // every rank makes a page, as nobody knows yet who is the first of the node
    s.segment = SharedSegment::make_anonymous(bytes);
    me.segment = s.segment.address();
  } catch (const OperationError&) {
    me.process.pid = 0;
  }
  s.members.resize(static_cast<size_t>(group.size()));
  group.all_gather(&me, s.members.data(), sizeof me);
  for (int r = 0; r < group.size(); ++r) {
    const Member& other = s.members[static_cast<size_t>(r)];
    if (other.process.pid != 0 && other.process.pid_namespace == me.process.pid_namespace && std::strcmp(other.host, me.host) == 0) s.locals.push_back(r);
  }
  if (s.locals.size() > 1 && me.process.pid != 0) {
    try {
      if (s.locals.front() != s.rank) s.segment = SharedSegment::open(s.members[static_cast<size_t>(s.locals.front())].segment);
      s.stages = reinterpret_cast<std::atomic<uint32_t>*>(s.segment.data());
      s.stages[s.rank] = kWorks;
    } catch (const OperationError&) {  // this rank stays absent
    }
  }
  group.barrier();  // everybody has opened it
  s.segment.close_file();
}

ExitGate::~ExitGate() = default;

void ExitGate::leave(double seconds) {
  State& s = *state_;
  if (s.stages == nullptr) return;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  const uint64_t own_namespace = s.members[static_cast<size_t>(s.rank)].process.pid_namespace;
  s.stages[s.rank] = kLeaves;
  for (int r : s.locals) {
    const Member& other = s.members[static_cast<size_t>(r)];
    for (int looked = 0; s.stages[r] == kWorks; ++looked) {
      if (looked % 64 == 63) {  // looking into /proc costs more than the word
        const ProcessState state = state_of(other.process, own_namespace);
        if (state == ProcessState::gone || state == ProcessState::unknown) break;
        if (Clock::now() > end) {
          const std::string text = "llmtrain: rank " + std::to_string(r) + " on " + other.host + " (process " + std::to_string(other.process.pid) + ") " +
                                   (state == ProcessState::stopped ? "is stopped" : "has not ended") + " " + std::to_string(static_cast<long long>(seconds)) +
                                   " s after the others have: the job is ended (the results are complete)\n";
          [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
          ::_exit(1);
        }
      }
      ::usleep(1000);
    }
  }
}

}  // namespace llmtrain
