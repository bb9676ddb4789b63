// An emulated NCCL communicator: non-blocking, as the program asks for it. Every call is done by a thread of the communicator's own, some time after it
// returned ncclInProgress, as NCCL does it; what a collective does is done by its stream.
#pragma once

#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "emulator/streams.h"
#include "nccl/world.h"

namespace llmtrain::emulator {

// One collective, as all ranks must name it.
struct Collective {
  const char* call;
  size_t count;  // of sendcount (all-gather), recvcount (reduce-scatter), count (all-reduce)
  ncclDataType_t type;
  ncclRedOp_t operation;
  const char* from;
  char* to;
};
size_t size_of(ncclDataType_t type);  // 0: a type that the emulator does not know
std::string text_of(const Collective& c);

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(std::string name, int rank, int ranks, int device) : name_(std::move(name)), rank_(rank), ranks_(ranks), device_(device) {}

  int device() const { return device_; }
  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  const std::string& name() const { return name_; }
  ncclResult_t state() const { return state_; }
  std::string error() const;

  void begin(const ncclUniqueId& id);
  void launch(const Collective& collective, const std::shared_ptr<CUstream_st>& queue);
  void finalize();
  // Nothing more will be asked of it.
  void end();
  // Work under way ends at once, and has ended when this returns; nothing more is done.
  void abort();

  // Entered by one thread at a time.
  std::atomic<int> inside{0};

 private:
  void later(std::function<void()> call);
  void run();
  void carry_out(const Collective& c, uint64_t number);
  bool move(const Collective& c, const Description& mine);
  bool agrees(const Description& mine) const;
  void hang();
  bool stopped() const { return aborted_ || broken(); }
  void end_with(ncclResult_t state, const std::string& error = "");

  const std::string name_;
  const int rank_, ranks_, device_;
  std::unique_ptr<World> world_;
  std::atomic<ncclResult_t> state_{ncclSuccess};
  std::atomic<bool> aborted_{false};
  std::atomic<int> running_{0};  // collectives that the GPU is in
  uint64_t issued_ = 0;
  Position last_;  // behind the last collective

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> calls_;
  std::string error_;
  bool ending_ = false;
};

}  // namespace llmtrain::emulator
