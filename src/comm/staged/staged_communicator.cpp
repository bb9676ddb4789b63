// Collectives staged through host memory, piece by piece (staged_communicator.h):
//
//   gather          device -> pinned -> window of the MPI communicator | gathered into pinned memory -> device
//   reduce-scatter  device -> pinned -> window                         | added in the order of ranks into pinned memory -> device
//
// The sums are those of the MPI communicator on the same floats, so its bits are too. Who waits for whom, what happens when ranks disagree and what the
// flight recorder shows are the MPI communicator's as well: a large collective appears there as several of the same label.
#include "comm/staged/staged_communicator.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr size_t kWindowBytes = size_t{4} << 20;
constexpr size_t kAlign = 256;

size_t aligned(size_t bytes) { return std::max<size_t>(kAlign, (bytes + kAlign - 1) / kAlign * kAlign); }

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(MpiRuntime& mpi, Device& device, const std::string& name, const NodeOptions& options)
      : device_(device), inner_(make_mpi_communicator(mpi, name, options)), host_device_(make_cpu_device(1)),
        host_(host_device_->make_stream(name + " (host)", false)), stream_(device.make_stream(name + " (memory)", false)),
        ranks_(static_cast<size_t>(inner_->size())), piece_(std::max(kAlign, kWindowBytes / ranks_ / kAlign * kAlign)) {
    window_ = static_cast<char*>(inner_->allocate_registered(piece_ * ranks_, "staging of '" + name + "'"));
    run_on_all_or_fail(*inner_, [&] {
      all_ = static_cast<char*>(device_.allocate_host(piece_ * ranks_));
      one_ = static_cast<char*>(device_.allocate_host(piece_));
    });
    bytes_ = piece_ * (ranks_ + 1);
  }

  ~StagedCommunicator() override {
    try {
      for (void* memory : memory_) device_.free(memory);
      if (all_) device_.free_host(all_);
      if (one_) device_.free_host(one_);
    } catch (const std::exception&) {  // a device that has failed gives nothing back
    }
  }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void barrier() override { inner_->barrier(); }
  void all_gather(const void* mine, void* all, size_t bytes_each) override { inner_->all_gather(mine, all, bytes_each); }
  void broadcast(void* data, size_t bytes, int root) override { inner_->broadcast(data, bytes, root); }
  void all_reduce_sum(double* values, int n) override { inner_->all_reduce_sum(values, n); }
  void all_reduce_max(double* values, int n) override { inner_->all_reduce_max(values, n); }

  void* allocate_registered(size_t bytes, const std::string& what) override {
    const size_t rounded = aligned(bytes);
    std::vector<uint64_t> asked(ranks_);
    const uint64_t mine = rounded;
    inner_->all_gather(&mine, asked.data(), sizeof mine);
    for (size_t r = 0; r < ranks_; ++r) {
      if (asked[r] == mine) continue;
      throw OperationError("the ranks ask for different amounts of memory for " + what + ": rank " + std::to_string(r) + " " + std::to_string(asked[r]) +
                           " bytes, rank " + std::to_string(rank()) + " " + std::to_string(mine));
    }
    run_on_all_or_fail(*inner_, [&] {
      memory_.push_back(device_.allocate(rounded));
      device_.zero(*stream_, memory_.back(), rounded);
      stream_->synchronize();
    });
    bytes_ += rounded;
    return memory_.back();
  }
  size_t bytes_registered() const override { return bytes_ + inner_->bytes_registered(); }

  void all_gather_shards(Stream& stream, const void* shard, void* full, size_t bytes_per_rank, const std::string& label) override {
    const Busy busy(busy_seconds_);
    const char* from = static_cast<const char*>(shard);
    char* to = static_cast<char*>(full);
    // Even an empty collective is one: ranks that disagree find out.
    for (size_t at = 0; at == 0 || at < bytes_per_rank; at += piece_) {
      const size_t n = std::min(piece_, bytes_per_rank - at);
      device_.copy_to_host(stream, one_, from + at, n);
      stream.synchronize();  // also: the copies out of all_ of the piece before are done
      std::memcpy(window_, one_, n);
      inner_->fence(*host_);
      inner_->all_gather_shards(*host_, window_, all_, n, label);
      inner_->fence(*host_);  // everybody has read the window
      for (size_t r = 0; r < ranks_; ++r) device_.copy_to_device(stream, to + r * bytes_per_rank + at, all_ + r * n, n);
    }
    stream.synchronize();
  }

  void reduce_scatter(Stream& stream, const float* full, float* shard, size_t count_per_rank, bool accumulate, const std::string& label) override {
    const Busy busy(busy_seconds_);
    const size_t piece = piece_ / sizeof(float);
    for (size_t at = 0; at == 0 || at < count_per_rank; at += piece) {
      const size_t n = std::min(piece, count_per_rank - at), bytes = n * sizeof(float);
      for (size_t r = 0; r < ranks_; ++r) device_.copy_to_host(stream, all_ + r * bytes, full + r * count_per_rank + at, bytes);
      if (accumulate) device_.copy_to_host(stream, one_, shard + at, bytes);
      stream.synchronize();
      std::memcpy(window_, all_, bytes * ranks_);
      inner_->reduce_scatter(*host_, reinterpret_cast<const float*>(window_), reinterpret_cast<float*>(one_), n, accumulate, label);
      device_.copy_to_device(stream, shard + at, one_, bytes);
      stream.synchronize();  // one_ is used again
    }
  }

  void fence(Stream& stream) override {
    stream.synchronize();
    inner_->fence(*host_);
  }

  double busy_seconds() const override { return busy_seconds_; }
  std::string describe() const override { return "staged through pinned host memory; " + inner_->describe(); }
  const FlightRecorder* flight_recorder() const override { return inner_->flight_recorder(); }
  void announce_failure(const std::string& message) override { inner_->announce_failure(message); }
  std::string heard_failure() const override { return inner_->heard_failure(); }

 private:
  class Busy {
   public:
    explicit Busy(double& total) : total_(total), begin_(std::chrono::steady_clock::now()) {}
    ~Busy() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

   private:
    double& total_;
    std::chrono::steady_clock::time_point begin_;
  };

  Device& device_;
  std::unique_ptr<Communicator> inner_;
  std::unique_ptr<Device> host_device_;
  std::unique_ptr<Stream> host_, stream_;
  size_t ranks_, piece_;                // piece: bytes of one rank that are under way at a time
  char* window_ = nullptr;              // registered with inner_: [ranks_][piece_]
  char *all_ = nullptr, *one_ = nullptr;  // pinned: [ranks_][piece_], [piece_]
  std::vector<void*> memory_;
  size_t bytes_ = 0;
  double busy_seconds_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(MpiRuntime& mpi, Device& device, const std::string& name, const NodeOptions& options) {
  return std::make_unique<StagedCommunicator>(mpi, device, name, options);
}

}  // namespace llmtrain
