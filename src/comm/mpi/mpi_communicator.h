// The Communicator over MPI and the memory of a node (mpi_communicator.cpp explains how; made by make_mpi_communicator() of comm/context.h).
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/context.h"
#include "comm/flight_recorder.h"
#include "comm/mpi/mpi_calls.h"
#include "comm/mpi/node_board.h"
#include "comm/mpi/node_memory.h"

namespace llmtrain {

// Who shares memory with whom.
struct RankTopology {
  RankTopology(const std::vector<int>& node_of, int rank);
  std::vector<std::vector<int>> nodes;  // world ranks of each node, ascending
  std::vector<int> locals;              // of this rank's node, this rank included
  size_t me = 0;                        // this rank's index in locals
  std::vector<int> others, remotes;     // all ranks but this; all of other nodes
  std::vector<int> partners;            // equal nodes: the rank with this index in each other node
  bool equal_nodes = false, any_shared = false;
};
// The node of each rank as `options` say. Collective.
RankTopology find_topology(MPI_Comm comm, int rank, int size, const NodeOptions& options);

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiRuntime& mpi, const std::string& name, const NodeOptions& options);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override;
  void all_gather(const void* mine, void* all, size_t bytes_each) override;
  void broadcast(void* data, size_t bytes, int root) override;
  void* allocate_registered(size_t bytes, const std::string& what) override;
  size_t bytes_registered() const override { return bytes_; }
  void all_gather_shards(Stream& stream, const void* shard, void* full, size_t bytes_per_rank, const std::string& label) override;
  void reduce_scatter(Stream& stream, const float* full, float* shard, size_t count_per_rank, bool accumulate, const std::string& label) override;
  void fence(Stream& stream) override;
  void all_reduce_sum(double* values, int n) override;
  void all_reduce_max(double* values, int n) override;
  double busy_seconds() const override { return recorder_.busy_seconds(); }
  std::string describe() const override;
  const FlightRecorder* flight_recorder() const override { return &recorder_; }
  void announce_failure(const std::string& message) override { board_->fail(message); }
  std::string heard_failure() const override { return board_->failure_of_others(); }

 private:
  struct Place {
    size_t region = 0, offset = 0;
  };

  void make_memory();
  void reserve_scratch();
  Place place_of(const void* pointer, size_t bytes, const char* what) const;
  template <class Work>
  void submit(Stream& stream, CollectiveOperation operation, size_t bytes, Place place, const std::string& label, Work work);
  template <class Work>
  void on_host(CollectiveOperation operation, size_t bytes, Work work);

  // On the stream's thread:
  void run_all_gather(const CollectiveDescription& description, Place place, char* full, size_t bytes, bool parallel);
  void gather_from_other_nodes(const char* shard, char* full, size_t bytes, bool parallel);
  void run_reduce_scatter(const CollectiveDescription& description, Place place, float* shard, size_t count, bool accumulate, bool parallel);
  void sum_with_far_ranks(const std::vector<int>& far, const float* full, const std::vector<const float*>& sources, size_t count, float* shard,
                          bool accumulate, bool parallel);
  void meet_node(const CollectiveDescription& description);
  void exchange_descriptions(const CollectiveDescription& mine, const std::vector<int>& ranks);
  void tell_failure(const CollectiveDescription& description, const std::string& message);
  void finish_messages(std::vector<MPI_Request>& requests);
  void send(const void* from, size_t bytes, int rank, int tag, std::vector<MPI_Request>& requests);
  void receive(void* to, size_t bytes, int rank, int tag, std::vector<MPI_Request>& requests);

  std::string name_;
  int rank_, size_;
  NodeOptions options_;
  MpiGroup host_comm_, peer_comm_;  // host values (the issuing thread); messages of collectives (the stream's thread)
  RankTopology topology_;
  std::unique_ptr<Device> device_;  // memory that is not shared
  std::unique_ptr<NodeMemory> memory_;
  NodeRegion board_region_, staging_;
  std::unique_ptr<NodeBoard> board_;
  std::deque<NodeRegion> regions_;  // a deque: a stream's thread may read while set-up adds
  std::vector<float> scratch_;      // pieces of other nodes' gradients
  FlightRecorder recorder_;
  std::string why_not_shared_;
  size_t bytes_ = 0;
  uint64_t staging_steps_ = 0;
  uint64_t described_ = 0;  // the last collective whose description went to other nodes
  bool failure_told_ = false;
  std::array<CollectiveDescription, 2> last_words_{};
  bool hierarchical_ = false;
  std::atomic<bool> failed_{false};
};

}  // namespace llmtrain
