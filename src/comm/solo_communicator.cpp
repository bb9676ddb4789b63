// A process by itself (solo_communicator.h).
#include "comm/solo_communicator.h"

#include <cstring>
#include <vector>

#include "comm/flight_recorder.h"
#include "comm/rank_sum.h"
#include "core/error.h"

namespace llmtrain {
namespace {

class SoloCommunicator final : public Communicator {
 public:
  explicit SoloCommunicator(const std::string& name) : memory_(make_cpu_device(1)), recorder_(name, 0) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  void barrier() override {}
  void all_gather(const void* mine, void* all, size_t bytes_each) override { std::memcpy(all, mine, bytes_each); }
  void broadcast(void*, size_t, int) override {}

  void* allocate_registered(size_t bytes, const std::string& what) override {
    void* p = memory_->allocate(bytes);  // fresh pages: zero
    bytes_ += bytes;
    return p;
  }
  size_t bytes_registered() const override { return bytes_; }

  void all_gather_shards(Stream& stream, const void* shard, void* full, size_t bytes_per_rank, const std::string& label) override {
    submit(stream, "all_gather", bytes_per_rank, label, [shard, full, bytes_per_rank](bool parallel) {
      if (full != shard) copy_bytes(full, shard, bytes_per_rank, parallel);
    });
  }
  void reduce_scatter(Stream& stream, const float* full, float* shard, size_t count_per_rank, bool accumulate, const std::string& label) override {
    submit(stream, "reduce_scatter", count_per_rank * sizeof(float), label,
           [full, shard, count_per_rank, accumulate](bool parallel) { sum_in_rank_order(&full, 1, count_per_rank, shard, accumulate, parallel); });
  }
  void fence(Stream& stream) override {
    submit(stream, "fence", 0, "", [](bool) {});
  }
  void all_reduce_sum(double*, int) override {}
  void all_reduce_max(double*, int) override {}
  double busy_seconds() const override { return recorder_.busy_seconds(); }
  std::string describe() const override { return "one process"; }
  const FlightRecorder* flight_recorder() const override { return &recorder_; }

 private:
  template <class Work>
  void submit(Stream& stream, const char* operation, size_t bytes, const std::string& label, Work work) {
    auto* host = dynamic_cast<HostStream*>(&stream);
    LLMTRAIN_ASSERT(host != nullptr, "this communicator needs a stream of the CPU: " + stream.name());
    const uint64_t sequence = recorder_.issue(operation, bytes, label);
    host->run([this, sequence, work, parallel = host->is_inline()] {
      recorder_.start(sequence);
      work(parallel);
      recorder_.finish(sequence);
    });
  }

  std::unique_ptr<Device> memory_;
  FlightRecorder recorder_;
  size_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_solo_communicator(const std::string& name) { return std::make_unique<SoloCommunicator>(name); }

}  // namespace llmtrain
