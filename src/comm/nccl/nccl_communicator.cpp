// The Communicator over NCCL (nccl_communicator.h).
//
// A collective is issued on its stream and nobody waits for the device: the call returns when NCCL has launched it (tens of microseconds; a non-blocking
// communicator launches on a thread of NCCL's, and the events around a collective are only right after that). Buffers of a gather are complete on the ranks'
// own streams, so `fence` is the smallest all-reduce. Reductions are float32 sums in the order that NCCL's algorithm takes, the same in each step on the
// same machines but not that of the CPU backend; the rank's own part of the full gradient is NCCL's place for the sum (in place), from which it is added to
// the accumulator.
//
// A thread of its own watches: it looks up which collectives have begun and ended (events) for the flight recorder, and asks NCCL for errors that come by
// themselves (a dead rank, a broken network). Such an error is thrown by the next call here and told to the watchdog (own_failure). As the issuing thread
// may be waiting for the GPU for ever by then, the watching thread ends the process when nobody has taken notice for a while.
// Thread rules: communicator.h; NCCL itself is entered under a mutex.
#include "comm/nccl/nccl_communicator.h"

#include <cuda_runtime.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "comm/flight_recorder.h"
#include "comm/nccl/nccl_connect.h"
#include "core/error.h"
#include "device/cuda/check.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/cuda_stream.h"
#include "kernels/cuda/ops.h"

namespace llmtrain::cuda {
namespace {

constexpr auto kLook = std::chrono::milliseconds(20);      // while collectives are under way
constexpr auto kLookIdle = std::chrono::milliseconds(500);
constexpr double kNoticeSeconds = 15;   // for an error to be noticed by the issuing thread or the watchdog
constexpr double kEndSeconds = 20;      // for ncclCommFinalize and ncclCommDestroy
constexpr auto kEndOfProcess = std::chrono::seconds(5);  // after abort(): the watchdog takes three
constexpr size_t kAlign = 4096;

// The two events around a collective.
struct Watched {
  uint64_t sequence = 0;
  cudaEvent_t begin = nullptr, end = nullptr;
  bool begun = false;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(RankGroup& group, int device, const std::string& name, const NcclOptions& options)
      : group_(group), device_(device), name_(name), timeout_(options.timeout_seconds), recorder_(name, group.rank()),
        nccl_(connect_nccl(group, device, name_, options)) {  // NCCL may keep the name's address
    try {
      first_use();
    } catch (...) {
      free_all(disconnect_nccl(nccl_, device_, false, 5));
      throw;
    }
    watching_ = std::thread([this] { watch(); });
  }

  ~NcclCommunicator() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    watching_.join();
    const bool healthy = failure().empty() && std::uncaught_exceptions() == 0;
    free_all(aborted_ || disconnect_nccl(nccl_, device_, healthy, kEndSeconds));
  }

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  void barrier() override {
    on_host("barrier", 0, [&] { group_.barrier(); });
  }
  void all_gather(const void* mine, void* all, size_t bytes_each) override {
    on_host("host all_gather", bytes_each, [&] { group_.all_gather(mine, all, bytes_each); });
  }
  void broadcast(void* data, size_t bytes, int root) override {
    on_host("broadcast", bytes, [&] { group_.broadcast(data, bytes, root); });
  }
  void all_reduce_sum(double* values, int n) override {
    reduce_on_host("all_reduce_sum", values, n, [](double a, double b) { return a + b; });
  }
  void all_reduce_max(double* values, int n) override {
    reduce_on_host("all_reduce_max", values, n, [](double a, double b) { return a < b ? b : a; });
  }

  void* allocate_registered(size_t bytes, const std::string& what) override;
  size_t bytes_registered() const override { return bytes_; }

  void all_gather_shards(Stream& stream, const void* shard, void* full, size_t bytes_per_rank, const std::string& label) override {
    issue(stream, "all_gather", bytes_per_rank, label,
          [&](cudaStream_t s) { check_nccl(ncclAllGather(shard, full, bytes_per_rank, ncclUint8, nccl_, s), "ncclAllGather", nccl_); });
  }

  void reduce_scatter(Stream& stream, const float* full, float* shard, size_t count_per_rank, bool accumulate, const std::string& label) override {
    // In place: the sum of this rank's part goes over that part (communicator.h allows it), so no scratch is needed.
    float* mine = const_cast<float*>(full) + static_cast<size_t>(rank()) * count_per_rank;
    float* to = accumulate ? mine : shard;
    issue(stream, "reduce_scatter", count_per_rank * sizeof(float), label, [&](cudaStream_t s) {
      check_nccl(ncclReduceScatter(full, to, count_per_rank, ncclFloat32, ncclSum, nccl_, s), "ncclReduceScatter", nccl_);
    });
    if (!accumulate || count_per_rank == 0) return;
    const int64_t n = static_cast<int64_t>(count_per_rank);
    add(handle_of(stream), TensorView(mine, {n}), TensorView(shard, {n}));
  }

  void fence(Stream& stream) override {
    issue(stream, "fence", 0, "", [&](cudaStream_t s) { check_nccl(ncclAllReduce(word_, word_, 1, ncclInt32, ncclSum, nccl_, s), "ncclAllReduce", nccl_); });
  }

  double busy_seconds() const override { return recorder_.busy_seconds(); }
  std::string describe() const override { return std::to_string(size()) + (size() == 1 ? " rank, " : " ranks, ") + nccl_version(); }
  const FlightRecorder* flight_recorder() const override { return &recorder_; }
  std::string own_failure() const override {
    std::string text = failure();
    if (!text.empty()) noticed_ = true;
    return text;
  }

  void abort() override {
    aborted_ = true;
    noticed_ = true;
    // A call of the issuing thread returns soon (it sees aborted_ while it waits for NCCL); one that does not is what is to be ended.
    std::unique_lock lock(calls_, std::defer_lock);
    static_cast<void>(lock.try_lock_for(std::chrono::seconds(1)));
    cudaSetDevice(device_);
    ncclCommAbort(nccl_);
  }

 private:
  template <class Call>
  void issue(Stream& stream, const char* operation, size_t bytes, const std::string& label, Call call);
  template <class Work>
  void on_host(const char* operation, size_t bytes, Work work);
  template <class Operation>
  void reduce_on_host(const char* what, double* values, int n, Operation operation);
  void first_use();
  void* allocate(size_t bytes, bool by_nccl, std::string& why);
  void free_all(bool memory_too);

  void watch();
  void look_at_collectives();
  void look_for_errors();
  void note_failure(const std::string& message);
  std::string failure() const {
    std::lock_guard lock(mutex_);
    return failure_;
  }
  // After abort() the process is about to end. The thread that issues may come here before that, as what it waited for was taken off the GPU: what it holds is
  // worth nothing, and nobody is to hear of it.
  void throw_if_failed() {
    if (aborted_) {
      std::this_thread::sleep_for(kEndOfProcess);
      throw OperationError("communicator '" + name_ + "' was given up");
    }
    if (const std::string text = own_failure(); !text.empty()) throw OperationError(text);
  }

  struct Memory {
    void* pointer;
    bool by_nccl;
  };

  RankGroup& group_;
  int device_;
  std::string name_;
  double timeout_;
  FlightRecorder recorder_;
  ncclComm_t nccl_;
  void* word_ = nullptr;  // what fences add up
  std::vector<Memory> memory_;
  size_t bytes_ = 0;
  std::timed_mutex calls_;  // of NCCL

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<Watched> under_way_;
  std::vector<Watched> unused_;
  std::string failure_;
  bool stopping_ = false;
  mutable std::atomic<bool> noticed_{false};
  std::atomic<bool> aborted_{false};
  std::thread watching_;
};

// ---- memory

void* NcclCommunicator::allocate(size_t bytes, bool by_nccl, std::string& why) {
  void* pointer = nullptr;
  if (by_nccl) {
    std::lock_guard lock(calls_);
    const ncclResult_t result = ncclMemAlloc(&pointer, bytes);
    if (result == ncclSuccess) return pointer;
    why = ncclGetErrorString(result);
  } else {
    const cudaError_t result = cudaMalloc(&pointer, bytes);
    if (result == cudaSuccess) return pointer;
    why = cudaGetErrorString(result);
  }
  cudaGetLastError();
  return nullptr;
}

// All ranks take the same kind of memory, as NCCL wants: what one rank cannot have by ncclMemAlloc nobody takes so.
void* NcclCommunicator::allocate_registered(size_t bytes, const std::string& what) {
  throw_if_failed();
  CUDA_CHECK(cudaSetDevice(device_));
  const size_t rounded = std::max(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
  std::vector<uint64_t> asked(static_cast<size_t>(size()));
  const uint64_t mine = rounded;
  group_.all_gather(&mine, asked.data(), sizeof mine);
  for (int r = 0; r < size(); ++r) {
    if (asked[static_cast<size_t>(r)] == mine) continue;
    throw OperationError("communicator '" + name_ + "': the ranks ask for different amounts of memory for " + what + ": rank " + std::to_string(r) + " " +
                         std::to_string(asked[static_cast<size_t>(r)]) + " bytes, rank " + std::to_string(rank()) + " " + std::to_string(mine));
  }
  void* pointer = nullptr;
  for (const bool by_nccl : {true, false}) {
    std::string why;
    pointer = allocate(rounded, by_nccl, why);
    const char mine_worked = pointer != nullptr;
    std::vector<char> worked(static_cast<size_t>(size()));
    group_.all_gather(&mine_worked, worked.data(), 1);
    if (std::find(worked.begin(), worked.end(), 0) == worked.end()) {
      memory_.push_back({pointer, by_nccl});
      break;
    }
    if (pointer) static_cast<void>(by_nccl ? static_cast<int>(ncclMemFree(pointer)) : static_cast<int>(cudaFree(pointer)));
    pointer = nullptr;
    if (by_nccl) continue;
    run_on_all_or_fail(group_, [&] {
      if (!mine_worked) throw OperationError("allocating " + std::to_string(rounded >> 20) + " MiB for " + what + " on GPU " + std::to_string(device_) + ": " + why);
    });
  }
  CUDA_CHECK(cudaMemset(pointer, 0, rounded));
  CUDA_CHECK(cudaDeviceSynchronize());
  bytes_ += rounded;
  return pointer;
}

void NcclCommunicator::free_all(bool memory_too) {
  cudaSetDevice(device_);
  for (std::vector<Watched> events : {unused_, std::vector<Watched>(under_way_.begin(), under_way_.end())}) {
    for (const Watched& w : events) {
      cudaEventDestroy(w.begin);
      cudaEventDestroy(w.end);
    }
  }
  if (!memory_too) return;  // kernels that hang may still use it
  for (const Memory& m : memory_) static_cast<void>(m.by_nccl ? static_cast<int>(ncclMemFree(m.pointer)) : static_cast<int>(cudaFree(m.pointer)));
  cudaFree(word_);
}

// ---- collectives

template <class Call>
void NcclCommunicator::issue(Stream& stream, const char* operation, size_t bytes, const std::string& label, Call call) {
  throw_if_failed();
  const cudaStream_t handle = handle_of(stream);
  Watched watched;
  {
    std::lock_guard lock(mutex_);
    if (!unused_.empty()) {
      watched = unused_.back();
      unused_.pop_back();
    }
  }
  if (!watched.begin) {
    CUDA_CHECK(cudaEventCreateWithFlags(&watched.begin, cudaEventDefault));
    CUDA_CHECK(cudaEventCreateWithFlags(&watched.end, cudaEventDefault));
  }
  watched.begun = false;
  watched.sequence = recorder_.issue(operation, bytes, label);
  CUDA_CHECK(cudaEventRecord(watched.begin, handle));
  {
    std::lock_guard lock(calls_);
    if (!aborted_) call(handle);
    wait_until_ready(nccl_, operation, timeout_, aborted_);
  }
  throw_if_failed();
  CUDA_CHECK(cudaEventRecord(watched.end, handle));
  {
    std::lock_guard lock(mutex_);
    under_way_.push_back(watched);
  }
  changed_.notify_all();
}

template <class Work>
void NcclCommunicator::on_host(const char* operation, size_t bytes, Work work) {
  throw_if_failed();
  const uint64_t sequence = recorder_.issue(operation, bytes, "");
  recorder_.start(sequence);
  work();
  recorder_.finish(sequence);
}

// In the order of ranks, so that every rank gets the same bits.
template <class Operation>
void NcclCommunicator::reduce_on_host(const char* what, double* values, int n, Operation operation) {
  const size_t count = static_cast<size_t>(n), ranks = static_cast<size_t>(size());
  on_host(what, count * sizeof(double), [&] {
    std::vector<double> all(count * ranks);
    group_.all_gather(values, all.data(), count * sizeof(double));
    for (size_t i = 0; i < count; ++i) {
      values[i] = all[i];
      for (size_t r = 1; r < ranks; ++r) values[i] = operation(values[i], all[r * count + i]);
    }
  });
}

// NCCL connects ranks at the first collective of a kind. That happens here, with the deadline, so that no later call waits for the network.
// Collective, and the ranks tell each other how far they have come: one that fails here would leave the others to their deadlines.
void NcclCommunicator::first_use() {
  const size_t ranks = static_cast<size_t>(size()), bytes = (ranks + 1) * kAlign, part = kAlign / sizeof(float);
  std::unique_ptr<CudaStream> stream;
  run_on_all_or_fail(group_, [&] {
    CUDA_CHECK(cudaSetDevice(device_));
    CUDA_CHECK(cudaMalloc(&word_, bytes));
    CUDA_CHECK(cudaMemset(word_, 0, bytes));
    CUDA_CHECK(cudaDeviceSynchronize());  // the stream does not wait for the default one
    stream = std::make_unique<CudaStream>("NCCL start", device_, false);
  });
  char* all = static_cast<char*>(word_) + kAlign;
  float* sums = reinterpret_cast<float*>(all);
  const std::string too_late = "the first collectives of NCCL have not ended in " + std::to_string(static_cast<long>(timeout_)) +
                               " s: the network between the GPUs does not work (NCCL_DEBUG=INFO shows what NCCL tries)";
  const auto run = [&](const char* name, const std::function<ncclResult_t()>& call) {
    bool begun = false;
    const auto launched = [&] {
      if (!std::exchange(begun, true)) check_nccl(call(), name, nccl_);
      return is_ready(nccl_, name);
    };
    look_until_on_all(group_, launched, timeout_, too_late);
  };
  run("ncclAllReduce", [&] { return ncclAllReduce(word_, word_, 1, ncclInt32, ncclSum, nccl_, stream->handle()); });
  run("ncclAllGather", [&] { return ncclAllGather(word_, all, kAlign, ncclUint8, nccl_, stream->handle()); });
  run("ncclReduceScatter", [&] {
    return ncclReduceScatter(sums, sums + static_cast<size_t>(rank()) * part, part, ncclFloat32, ncclSum, nccl_, stream->handle());
  });
  const auto ended = [&] {
    const cudaError_t state = cudaStreamQuery(stream->handle());
    if (state == cudaSuccess) return true;
    if (state != cudaErrorNotReady) check(state, "cudaStreamQuery", __FILE__, __LINE__);
    cudaGetLastError();
    is_ready(nccl_, "the first collectives of NCCL");  // throws its errors
    return false;
  };
  look_until_on_all(group_, ended, timeout_, too_late);
  bytes_ += bytes;
}

// ---- the thread that watches

void NcclCommunicator::watch() {
  cudaSetDevice(device_);
  auto looked_for_errors = std::chrono::steady_clock::now(), failed_at = looked_for_errors;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, under_way_.empty() ? std::chrono::milliseconds(kLookIdle) : std::chrono::milliseconds(kLook));
    if (stopping_ || aborted_) return;
    lock.unlock();
    look_at_collectives();
    const auto now = std::chrono::steady_clock::now();
    if (now - looked_for_errors >= kLookIdle) {
      looked_for_errors = now;
      look_for_errors();
    }
    lock.lock();
    if (failure_.empty()) {
      failed_at = now;
    } else if (!noticed_ && std::chrono::duration<double>(now - failed_at).count() > kNoticeSeconds) {
      const std::string text = "llmtrain: rank " + std::to_string(rank()) + ": " + failure_ + "; the GPU does not come back from it, so this process ends\n";
      [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
      ::_exit(1);
    }
  }
}

void NcclCommunicator::look_at_collectives() {
  while (true) {
    Watched first;
    {
      std::lock_guard lock(mutex_);
      if (under_way_.empty()) return;
      first = under_way_.front();
    }
    const auto reached = [&](cudaEvent_t event) {
      const cudaError_t state = cudaEventQuery(event);
      if (state == cudaErrorNotReady) {
        cudaGetLastError();
      } else if (state != cudaSuccess) {
        note_failure(std::string("the GPU reports: ") + cudaGetErrorName(state) + ", " + cudaGetErrorString(state));
      }
      return state == cudaSuccess;
    };
    if (!first.begun && reached(first.begin)) {
      recorder_.start(first.sequence);
      std::lock_guard lock(mutex_);
      under_way_.front().begun = first.begun = true;
    }
    if (!first.begun || !reached(first.end)) return;
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, first.begin, first.end);
    recorder_.finish(first.sequence, static_cast<double>(milliseconds) * 1e-3);
    std::lock_guard lock(mutex_);
    unused_.push_back(first);
    under_way_.pop_front();
  }
}

void NcclCommunicator::look_for_errors() {
  std::unique_lock lock(calls_, std::try_to_lock);
  if (!lock.owns_lock() || aborted_) return;  // whoever is in a call sees the error itself
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(nccl_, &state);
  if (asked != ncclSuccess) state = asked;
  if (state == ncclSuccess || state == ncclInProgress) return;
  const char* detail = ncclGetLastError(nccl_);
  note_failure("NCCL ('" + name_ + "') reports: " + ncclGetErrorString(state) + (detail && *detail ? std::string(": ") + detail : ""));
}

void NcclCommunicator::note_failure(const std::string& message) {
  std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = message;
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(RankGroup& group, Device& device, const std::string& name, const NcclOptions& options) {
  return std::make_unique<NcclCommunicator>(group, device_index(device), name, options);
}

}  // namespace llmtrain::cuda
