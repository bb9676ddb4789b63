#include "app/ranks.h"

#include <chrono>
#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "comm/deadline.h"
#include "comm/exit_gate.h"
#include "core/error.h"
#include "core/printable.h"

namespace llmtrain {
namespace {

constexpr int kAgreementSeconds = 3;
// Rank 0 speaks first where all ranks fail alike; one that fails alone waits no longer than this before it speaks itself.
constexpr int kSpeakFirstMilliseconds = 3000;

enum class Says { for_all, own };

// What a rank has of its own names it, unless the text does so already.
void say(const MpiRuntime& mpi, const std::string& message, Says says) {
  const std::string me = "rank " + std::to_string(mpi.rank()) + " on " + mpi.host();
  const bool named = says == Says::own && mpi.active() && message.find(me) == std::string::npos;
  std::cerr << "llmtrain: " + (named ? me + ": " : "") + printable(message, true) + "\n" << std::flush;
}

// All ranks have the same error: rank 0 says it, and nobody leaves before that (a launcher kills the others when the first one leaves).
int leave_together(MpiRuntime& mpi, ExitGate* gate, double patience_seconds, const std::string& message, int exit_code) {
  if (mpi.rank() == 0) say(mpi, message, Says::for_all);
  if (mpi.active() && mpi.size() > 1) {
    std::thread([&mpi, message, exit_code] {
      std::this_thread::sleep_for(std::chrono::seconds(kAgreementSeconds));
      if (mpi.rank() != 0) say(mpi, message, Says::own);
      mpi.abort(exit_code);
    }).detach();
  }
  mpi.finalise();
  if (gate != nullptr) gate->leave(patience_seconds);
  return exit_code;
}

[[noreturn]] void fail(MpiRuntime& mpi, const std::string& message, Says says) {
  if (mpi.rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(kSpeakFirstMilliseconds));
  say(mpi, message, says);
  mpi.abort(kExitFailed);
}

// Nobody but rank 0 speaks; the others leave by its abort, or by their own should it never come.
[[noreturn]] void fail_alike(MpiRuntime& mpi, const std::string& message) {
  if (mpi.rank() == 0) say(mpi, message, Says::for_all);
  if (mpi.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(kAgreementSeconds));
  mpi.abort(kExitFailed);
}

}  // namespace

int run_on_ranks(App& app, const std::function<int(MpiRuntime& mpi, RankGroup& group)>& work, const RanksOptions& options) {
  std::optional<Deadline> deadline(std::in_place, options.patience_seconds, "the start of the ranks (MPI_Init)");
  MpiRuntime mpi(nullptr, nullptr);
  app.launcher_rank = mpi.active() ? mpi.rank() : app.launcher_rank;
  app.log.set_rank(mpi.rank(), mpi.rank() == 0);
  std::unique_ptr<RankGroup> group;  // on a failure it stays: freeing it might wait for ranks that have gone
  std::optional<ExitGate> gate;
  try {
    group = make_rank_group(mpi);
    gate.emplace(*group, mpi.host());
    if (options.prepare) options.prepare(mpi, *group);
    deadline.reset();
    const int exit_code = work(mpi, *group);
    deadline.emplace(options.patience_seconds, "MPI_Finalize (the results are complete)");
    group.reset();
    mpi.finalise();
    deadline.reset();
    gate->leave(options.patience_seconds);
    return exit_code;
  } catch (const InputError& e) {
    return leave_together(mpi, gate ? &*gate : nullptr, options.patience_seconds, e.what(), kExitInput);
  } catch (const NotHere& e) {
    return leave_together(mpi, gate ? &*gate : nullptr, options.patience_seconds, e.what(), kExitNotHere);
  } catch (const FailureOfAll& e) {
    fail_alike(mpi, e.what());
  } catch (const PeerFailure& e) {  // the text is that of the rank that failed
    fail(mpi, e.what(), Says::for_all);
  } catch (const std::bad_alloc&) {
    fail(mpi, "out of host memory", Says::own);
  } catch (const std::exception& e) {
    fail(mpi, e.what(), Says::own);
  }
}

}  // namespace llmtrain
