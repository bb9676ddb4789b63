// The Communicator over MPI: ranks of a node read each other's memory, ranks of other nodes talk by MPI (communicator.h).
//
// all_gather_shards   A rank copies the shards of its node straight out of their owners' memory; nobody waits. Between equal nodes, local rank i
// fetches the shards of
//                     the local ranks i of the other nodes, piece by piece into a small shared staging area, from which its whole node copies: every
//                     shard crosses the network once a node. Between unequal nodes every rank fetches for itself.
// reduce_scatter      A rank adds its part of everybody's gradients in the order of ranks: those of its node read in place, those of other nodes
// received piece by
//                     piece. The result does not depend on how ranks are spread over nodes: bitwise.
// Messages between nodes are sent and received by the thread of the stream that runs the collective, which makes the progress and sleeps in between.
// Thread rules: communicator.h.
#include "comm/mpi/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <bitset>
#include <cstring>
#include <map>

#include "comm/rank_sum.h"
#include "comm/solo_communicator.h"
#include "core/error.h"
#include "device/cpu/threads.h"

namespace llmtrain {
namespace {

enum Tag { kTagDescription = 1, kTagShard, kTagGradient };
constexpr size_t kStagingBytes = size_t{8} << 20;  // two halves
constexpr size_t kScratchBytes = size_t{8} << 20;

// Whether the node has a core for each of its ranks: only then may anybody spin.
bool core_for_every_rank(const RankGroup& group, MPI_Comm comm, const std::vector<int>& locals) {
  using Mask = std::bitset<8192>;
  Mask mine, together;
  for (int c : affinity_of_this_thread())
    if (c < static_cast<int>(mine.size())) mine.set(static_cast<size_t>(c));
  std::vector<Mask> all(static_cast<size_t>(group.size()));
  all_gather_any_size(comm, group.size(), &mine, all.data(), sizeof mine);
  for (int r : locals) together |= all[static_cast<size_t>(r)];
  return together.count() >= locals.size();
}

}  // namespace

// ---- set-up

RankTopology find_topology(MPI_Comm comm, int rank, int size, const NodeOptions& options) {
  int node = rank;
  if (options.shared_memory && options.ranks_per_node > 0) {
    node = rank / options.ranks_per_node;
  } else if (options.shared_memory) {
    MPI_Comm shared = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &shared), "MPI_Comm_split_type");
    check_mpi(MPI_Bcast(&node, 1, MPI_INT, 0, shared), "MPI_Bcast");
    MPI_Comm_free(&shared);
  }
  std::vector<int> node_of(static_cast<size_t>(size));
  check_mpi(MPI_Allgather(&node, 1, MPI_INT, node_of.data(), 1, MPI_INT, comm), "MPI_Allgather");
  return RankTopology(node_of, rank);
}

RankTopology::RankTopology(const std::vector<int>& node_of, int rank) {
  std::map<int, std::vector<int>> by_node;
  for (size_t r = 0; r < node_of.size(); ++r) by_node[node_of[r]].push_back(static_cast<int>(r));
  locals = by_node[node_of[static_cast<size_t>(rank)]];
  me = static_cast<size_t>(std::find(locals.begin(), locals.end(), rank) - locals.begin());
  equal_nodes = true;
  for (const auto& [node, ranks] : by_node) {
    equal_nodes = equal_nodes && ranks.size() == locals.size();
    any_shared = any_shared || ranks.size() > 1;
    nodes.push_back(ranks);
  }
  for (int r = 0; r < static_cast<int>(node_of.size()); ++r) {
    if (r != rank) others.push_back(r);
    if (node_of[static_cast<size_t>(r)] != node_of[static_cast<size_t>(rank)]) remotes.push_back(r);
  }
  if (!equal_nodes) return;
  for (const auto& ranks : nodes)
    if (ranks != locals) partners.push_back(ranks[me]);
}

MpiCommunicator::MpiCommunicator(MpiRuntime& mpi, const std::string& name, const NodeOptions& options)
    : name_(name),
      rank_(mpi.rank()),
      size_(mpi.size()),
      options_(options),
      host_comm_(MpiGroup::duplicate(MPI_COMM_WORLD)),
      peer_comm_(MpiGroup::duplicate(MPI_COMM_WORLD)),
      topology_(find_topology(host_comm_.get(), rank_, size_, options)),
      device_(make_cpu_device(1)),
      recorder_(name, rank_) {
  LLMTRAIN_ASSERT(options.message_bytes > 0 && options.message_bytes <= size_t{1} << 30, "MPI messages are of 1 byte to 1 GiB");
  make_memory();
  NodeRegion slots = memory_->allocate(*device_, sizeof(BoardSlot));
  if (topology_.any_shared && !slots.shared) {  // no flags, no shared memory: every rank is a node of its own
    why_not_shared_ = slots.why_not;
    std::vector<int> alone(static_cast<size_t>(size_));
    for (int r = 0; r < size_; ++r) alone[static_cast<size_t>(r)] = r;
    topology_ = RankTopology(alone, rank_);
    make_memory();
  }
  std::vector<BoardSlot*> board;
  for (size_t i = 0; i < topology_.locals.size(); ++i) board.push_back(reinterpret_cast<BoardSlot*>(slots.shared ? slots.base[i] : slots.mine));
  board_ = std::make_unique<NodeBoard>(name_, board, topology_.locals, static_cast<int>(topology_.me),
                                       core_for_every_rank(*this, host_comm_.get(), topology_.locals));
  board_->introduce();
  board_region_ = std::move(slots);
  bytes_ += sizeof(BoardSlot);
  if (!topology_.remotes.empty() && topology_.equal_nodes && topology_.locals.size() > 1) {
    staging_ = memory_->allocate(*device_, kStagingBytes);
    bytes_ += kStagingBytes;
    hierarchical_ = staging_.shared;
  }
  if (!topology_.remotes.empty()) reserve_scratch();
  check_mpi(MPI_Barrier(host_comm_.get()), "MPI_Barrier");
}

MpiCommunicator::~MpiCommunicator() {
  if (!failed_) return;
  host_comm_.abandon();
  peer_comm_.abandon();
}

void MpiCommunicator::make_memory() {
  memory_ = std::make_unique<NodeMemory>(host_comm_.get(), rank_, size_, topology_.locals, topology_.me, topology_.any_shared, options_);
}

void* MpiCommunicator::allocate_registered(size_t bytes, const std::string& what) {
  const size_t rounded = std::max<size_t>(4096, (bytes + 4095) / 4096 * 4096);
  std::vector<uint64_t> asked(static_cast<size_t>(size_));
  const uint64_t mine = rounded;
  all_gather_any_size(host_comm_.get(), size_, &mine, asked.data(), sizeof mine);
  for (int r = 0; r < size_; ++r) {
    if (asked[static_cast<size_t>(r)] == mine) continue;
    throw OperationError("communicator '" + name_ + "': the ranks ask for different amounts of memory for " + what + ": rank " + std::to_string(r) +
                         " " + std::to_string(asked[static_cast<size_t>(r)]) + " bytes, rank " + std::to_string(rank_) + " " + std::to_string(mine));
  }
  regions_.push_back(memory_->allocate(*device_, rounded));
  if (topology_.any_shared && !regions_.back().shared) {
    why_not_shared_ = regions_.back().why_not;
    reserve_scratch();
  }
  bytes_ += rounded;
  return regions_.back().mine;
}

std::string MpiCommunicator::describe() const {
  std::string text =
      std::to_string(size_) + " ranks on " + std::to_string(topology_.nodes.size()) + (topology_.nodes.size() == 1 ? " node" : " nodes");
  if (topology_.any_shared) text += ", shared memory within a node";
  if (topology_.nodes.size() > 1) text += topology_.any_shared ? ", MPI between nodes" : ", MPI";
  if (!why_not_shared_.empty()) text += "; MPI instead of shared memory within a node, because of " + why_not_shared_;
  return text;
}

MpiCommunicator::Place MpiCommunicator::place_of(const void* pointer, size_t bytes, const char* what) const {
  const char* p = static_cast<const char*>(pointer);
  for (size_t i = 0; i < regions_.size(); ++i) {
    const NodeRegion& region = regions_[i];
    if (p >= region.mine && p + bytes <= region.mine + region.bytes) return {i, static_cast<size_t>(p - region.mine)};
  }
  assertion_failed("registered memory", __FILE__, __LINE__,
                   std::string(what) + " of " + std::to_string(bytes) + " bytes does not lie in registered memory of '" + name_ + "'");
}

// ---- collectives on streams

template <class Work>
void MpiCommunicator::submit(Stream& stream, CollectiveOperation operation, size_t bytes, Place place, const std::string& label, Work work) {
  auto* host = dynamic_cast<HostStream*>(&stream);
  LLMTRAIN_ASSERT(host != nullptr, "this communicator needs a stream of the CPU: " + stream.name());
  const uint64_t sequence = recorder_.issue(operation_name(operation), bytes, label);
  const CollectiveDescription description = describe_collective(sequence, operation, bytes, static_cast<uint32_t>(place.region), place.offset, label);
  host->run([this, description, work, parallel = host->is_inline()] {
    try {
      board_->post(description);
      recorder_.start(description.sequence);  // it has joined
      work(description, parallel);
    } catch (const std::exception& e) {
      tell_failure(description, e.what());
      throw;
    }
    recorder_.finish(description.sequence);
  });
}

void MpiCommunicator::all_gather_shards(Stream& stream, const void* shard, void* full, size_t bytes_per_rank, const std::string& label) {
  const Place place = place_of(shard, bytes_per_rank, "a shard");
  submit(stream, kAllGather, bytes_per_rank, place, label,
         [this, place, full, bytes_per_rank](const CollectiveDescription& description, bool parallel) {
           run_all_gather(description, place, static_cast<char*>(full), bytes_per_rank, parallel);
         });
}

void MpiCommunicator::reduce_scatter(Stream& stream, const float* full, float* shard, size_t count_per_rank, bool accumulate,
                                     const std::string& label) {
  const Place place = place_of(full, count_per_rank * sizeof(float) * static_cast<size_t>(size_), "a full gradient");
  submit(stream, kReduceScatter, count_per_rank * sizeof(float), place, label,
         [this, place, shard, count_per_rank, accumulate](const CollectiveDescription& description, bool parallel) {
           run_reduce_scatter(description, place, shard, count_per_rank, accumulate, parallel);
         });
}

void MpiCommunicator::fence(Stream& stream) {
  submit(stream, kFence, 0, {}, "", [this](const CollectiveDescription& description, bool) {
    meet_node(description);
    // Who hears from a partner knows that the partner's whole node has arrived.
    exchange_descriptions(description, topology_.equal_nodes ? topology_.partners : topology_.remotes);
  });
}

void MpiCommunicator::meet_node(const CollectiveDescription& description) {
  board_->publish(BoardSlot::arrived, description.sequence);
  board_->wait_all(BoardSlot::arrived, description.sequence);
  board_->compare(description);
}

void MpiCommunicator::exchange_descriptions(const CollectiveDescription& mine, const std::vector<int>& ranks) {
  if (ranks.empty()) return;
  std::vector<CollectiveDescription> theirs(ranks.size());
  std::vector<MPI_Request> requests;
  constexpr int kBytes = sizeof(CollectiveDescription);
  described_ = mine.sequence;
  for (size_t i = 0; i < ranks.size(); ++i)
    check_mpi(MPI_Irecv(&theirs[i], kBytes, MPI_BYTE, ranks[i], kTagDescription, peer_comm_.get(), &requests.emplace_back()), "MPI_Irecv");
  for (int r : ranks) check_mpi(MPI_Isend(&mine, kBytes, MPI_BYTE, r, kTagDescription, peer_comm_.get(), &requests.emplace_back()), "MPI_Isend");
  const auto compare = [&](size_t i) {
    if (i >= ranks.size() || theirs[i].same_as(mine)) return;
    const std::string text = disagreement(name_, rank_, mine, ranks[i], theirs[i]);
    if (theirs[i].sequence == CollectiveDescription::kFailed) throw PeerFailure(text);
    throw OperationError(text);
  };
  wait_for_each(requests, compare, [this] { board_->throw_if_failed(); });
}

// An error of this rank (or one that it heard of) goes to its node by the board, and to the ranks of other nodes in place of the next description:
// first what this rank was about to do, if they have not been told, then that it has failed. Nobody waits for these messages to arrive; the program
// is about to end.
void MpiCommunicator::tell_failure(const CollectiveDescription& description, const std::string& message) {
  failed_ = true;
  board_->fail(message);
  if (failure_told_) return;
  failure_told_ = true;
  last_words_[0] = description;
  last_words_[1] = describe_collective(CollectiveDescription::kFailed, kFence, 0, 0, 0, message);
  for (int r : topology_.remotes) {
    for (const CollectiveDescription& words : last_words_) {
      if (&words == &last_words_[0] && described_ == description.sequence) continue;
      MPI_Request request = MPI_REQUEST_NULL;
      if (MPI_Isend(&words, sizeof words, MPI_BYTE, r, kTagDescription, peer_comm_.get(), &request) == MPI_SUCCESS) MPI_Request_free(&request);
    }
  }
}

void MpiCommunicator::finish_messages(std::vector<MPI_Request>& requests) {
  wait_for(requests, [this] { board_->throw_if_failed(); });
}

void MpiCommunicator::send(const void* from, size_t bytes, int rank, int tag, std::vector<MPI_Request>& requests) {
  for (size_t at = 0; at < bytes; at += options_.message_bytes) {
    const int n = static_cast<int>(std::min(options_.message_bytes, bytes - at));
    check_mpi(MPI_Isend(static_cast<const char*>(from) + at, n, MPI_BYTE, rank, tag, peer_comm_.get(), &requests.emplace_back()), "MPI_Isend");
  }
}

void MpiCommunicator::receive(void* to, size_t bytes, int rank, int tag, std::vector<MPI_Request>& requests) {
  for (size_t at = 0; at < bytes; at += options_.message_bytes) {
    const int n = static_cast<int>(std::min(options_.message_bytes, bytes - at));
    check_mpi(MPI_Irecv(static_cast<char*>(to) + at, n, MPI_BYTE, rank, tag, peer_comm_.get(), &requests.emplace_back()), "MPI_Irecv");
  }
}

void MpiCommunicator::run_all_gather(const CollectiveDescription& description, Place place, char* full, size_t bytes, bool parallel) {
  const NodeRegion& region = regions_[place.region];
  const bool staged = region.shared && hierarchical_;
  const std::vector<int>& far = region.shared ? topology_.remotes : topology_.others;
  const char* shard = region.mine + place.offset;
  exchange_descriptions(description, staged ? topology_.partners : far);
  std::vector<MPI_Request> requests;
  if (!staged) {
    for (int r : far) receive(full + static_cast<size_t>(r) * bytes, bytes, r, kTagShard, requests);
    for (int r : far) send(shard, bytes, r, kTagShard, requests);
  }
  for (size_t i = 0; i < topology_.locals.size(); ++i) {
    if (i != topology_.me && !region.shared) continue;
    const char* from = i == topology_.me ? shard : region.base[i] + place.offset;
    copy_bytes(full + static_cast<size_t>(topology_.locals[i]) * bytes, from, bytes, parallel);
  }
  if (staged) {
    gather_from_other_nodes(shard, full, bytes, parallel);
  } else if (!requests.empty()) {
    finish_messages(requests);
  }
}

void MpiCommunicator::gather_from_other_nodes(const char* shard, char* full, size_t bytes, bool parallel) {
  const size_t others = topology_.partners.size(), half = kStagingBytes / 2;
  const size_t piece = std::max<size_t>(64, half / others / 64 * 64);
  LLMTRAIN_ASSERT(piece * others <= half, "more nodes than the staging area can serve");
  const size_t my_node = static_cast<size_t>(std::find(topology_.nodes.begin(), topology_.nodes.end(), topology_.locals) - topology_.nodes.begin());
  std::vector<MPI_Request> requests;
  for (size_t at = 0; at < bytes; at += piece) {
    const size_t n = std::min(piece, bytes - at);
    const uint64_t step = ++staging_steps_;
    const size_t offset = step % 2 * half;
    if (step > 2) board_->wait_all(BoardSlot::consumed, step - 2);  // this half has been read by all
    for (size_t m = 0; m < others; ++m) receive(staging_.mine + offset + m * piece, n, topology_.partners[m], kTagShard, requests);
    for (int partner : topology_.partners) send(shard + at, n, partner, kTagShard, requests);
    finish_messages(requests);
    board_->publish(BoardSlot::staged, step);
    for (size_t i = 0; i < topology_.locals.size(); ++i) {
      board_->wait(i, BoardSlot::staged, step);
      for (size_t m = 0; m < others; ++m) {  // partners are in the order of nodes, without this one
        const int owner = topology_.nodes[m < my_node ? m : m + 1][i];
        copy_bytes(full + static_cast<size_t>(owner) * bytes + at, staging_.base[i] + offset + m * piece, n, parallel);
      }
    }
    board_->publish(BoardSlot::consumed, step);
  }
}

void MpiCommunicator::reserve_scratch() {
  if (!scratch_.empty()) return;
  scratch_.resize(kScratchBytes / sizeof(float));
  bytes_ += kScratchBytes;
}

void MpiCommunicator::run_reduce_scatter(const CollectiveDescription& description, Place place, float* shard, size_t count, bool accumulate,
                                         bool parallel) {
  const NodeRegion& region = regions_[place.region];
  const std::vector<int>& far = region.shared ? topology_.remotes : topology_.others;
  exchange_descriptions(description, far);
  if (region.shared) meet_node(description);  // everybody's gradients are complete
  std::vector<const float*> sources(static_cast<size_t>(size_));
  for (size_t i = 0; i < topology_.locals.size(); ++i) {
    if (i != topology_.me && !region.shared) continue;
    const char* base = i == topology_.me ? region.mine : region.base[i];
    sources[static_cast<size_t>(topology_.locals[i])] = reinterpret_cast<const float*>(base + place.offset) + static_cast<size_t>(rank_) * count;
  }
  if (far.empty()) {
    sum_in_rank_order(sources.data(), size_, count, shard, accumulate, parallel);
  } else {
    sum_with_far_ranks(far, reinterpret_cast<const float*>(region.mine + place.offset), sources, count, shard, accumulate, parallel);
  }
  if (region.shared) {  // nobody reads the gradients any more
    board_->publish(BoardSlot::done, description.sequence);
    board_->wait_all(BoardSlot::done, description.sequence);
  }
}

void MpiCommunicator::sum_with_far_ranks(const std::vector<int>& far, const float* full, const std::vector<const float*>& sources, size_t count,
                                         float* shard, bool accumulate, bool parallel) {
  // Two halves: while one piece is added, the next is on its way. Pieces are of the same size on every rank, whatever the size of its node.
  const size_t half = scratch_.size() / 2, piece = half / static_cast<size_t>(size_ - 1) / 16 * 16;
  LLMTRAIN_ASSERT(piece > 0, "more ranks than the scratch area can serve");
  std::vector<MPI_Request> requests[2];
  const auto begin_piece = [&](size_t at, size_t side) {
    const size_t n = std::min(piece, count - at);
    for (size_t i = 0; i < far.size(); ++i)
      receive(scratch_.data() + side * half + i * piece, n * sizeof(float), far[i], kTagGradient, requests[side]);
    for (int r : far) send(full + static_cast<size_t>(r) * count + at, n * sizeof(float), r, kTagGradient, requests[side]);
  };
  if (count > 0) begin_piece(0, 0);
  size_t side = 0;
  for (size_t at = 0; at < count; at += piece, side = 1 - side) {
    if (at + piece < count) begin_piece(at + piece, 1 - side);
    finish_messages(requests[side]);
    std::vector<const float*> pieces = sources;
    for (const float*& source : pieces)
      if (source != nullptr) source += at;
    for (size_t i = 0; i < far.size(); ++i) pieces[static_cast<size_t>(far[i])] = scratch_.data() + side * half + i * piece;
    sum_in_rank_order(pieces.data(), size_, std::min(piece, count - at), shard + at, accumulate, parallel);
  }
}

// ---- small host values

template <class Work>
void MpiCommunicator::on_host(CollectiveOperation operation, size_t bytes, Work work) {
  const uint64_t sequence = recorder_.issue(operation_name(operation), bytes, "");
  const CollectiveDescription mine = describe_collective(sequence, operation, bytes, 0, 0, "");
  recorder_.start(sequence);
  try {
    std::vector<CollectiveDescription> all(static_cast<size_t>(size_));
    all_gather_any_size(host_comm_.get(), size_, &mine, all.data(), sizeof mine);
    for (int r = 0; r < size_; ++r)
      if (!all[static_cast<size_t>(r)].same_as(mine)) throw OperationError(disagreement(name_, rank_, mine, r, all[static_cast<size_t>(r)]));
    work();
  } catch (...) {
    failed_ = true;
    throw;
  }
  recorder_.finish(sequence);
}

void MpiCommunicator::barrier() {
  on_host(kBarrier, 0, [] {});  // comparing is meeting
}

void MpiCommunicator::all_gather(const void* mine, void* all, size_t bytes_each) {
  on_host(kHostAllGather, bytes_each, [&] { all_gather_any_size(host_comm_.get(), size_, mine, all, bytes_each); });
}

void MpiCommunicator::broadcast(void* data, size_t bytes, int root) {
  on_host(kBroadcast, bytes, [&] { broadcast_any_size(host_comm_.get(), data, bytes, root); });
}

void MpiCommunicator::all_reduce_sum(double* values, int n) {
  const size_t count = static_cast<size_t>(n);
  on_host(kAllReduceSum, count * sizeof(double), [&] {
    std::vector<double> all(count * static_cast<size_t>(size_));
    all_gather_any_size(host_comm_.get(), size_, values, all.data(), count * sizeof(double));
    for (size_t i = 0; i < count; ++i) {
      values[i] = all[i];
      for (size_t r = 1; r < static_cast<size_t>(size_); ++r) values[i] += all[r * count + i];
    }
  });
}

void MpiCommunicator::all_reduce_max(double* values, int n) {
  on_host(kAllReduceMax, static_cast<size_t>(n) * sizeof(double),
          [&] { check_mpi(MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_DOUBLE, MPI_MAX, host_comm_.get()), "MPI_Allreduce"); });
}

std::unique_ptr<Communicator> make_mpi_communicator(MpiRuntime& mpi, const std::string& name, const NodeOptions& options) {
  if (!mpi.active() || mpi.size() == 1) return make_solo_communicator(name);
  return std::make_unique<MpiCommunicator>(mpi, name, options);
}

}  // namespace llmtrain
