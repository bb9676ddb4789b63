// Threads and cores of this rank: the ranks of a node exchange their masks and apply the rule of device/cpu/threads.h (context.h).
#include <mpi.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <cstdlib>
#include <set>
#include <vector>

#include "comm/context.h"
#include "comm/mpi/mpi_calls.h"
#include "device/cpu/cgroup.h"
#include "device/cpu/threads.h"

namespace llmtrain {
namespace {

constexpr size_t kMostProcessors = 8192;

// What one rank tells the others. Sent as bytes.
struct Told {
  int32_t node = 0;  // world rank of the first rank of its node
  int32_t omp_num_threads = 0;
  int32_t binding_asked = 0;
  double quota = 0;
  std::bitset<kMostProcessors> mask, allowed;
};

std::bitset<kMostProcessors> bits(const CoreList& cores) {
  std::bitset<kMostProcessors> b;
  for (int c : cores)
    if (c < static_cast<int>(kMostProcessors)) b.set(static_cast<size_t>(c));
  return b;
}

CoreList list(const std::bitset<kMostProcessors>& b) {
  CoreList cores;
  for (size_t c = 0; c < b.size(); ++c)
    if (b.test(c)) cores.push_back(static_cast<int>(c));
  return cores;
}

int node_of_this_rank(const MpiRuntime& mpi) {
  if (!mpi.active() || mpi.size() == 1) return 0;
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, mpi.rank(), MPI_INFO_NULL, &node), "MPI_Comm_split_type");
  int first = mpi.rank();
  check_mpi(MPI_Bcast(&first, 1, MPI_INT, 0, node), "MPI_Bcast");
  MPI_Comm_free(&node);
  return first;
}

Told what_this_rank_sees(const MpiRuntime& mpi) {
  Told told;
  told.node = node_of_this_rank(mpi);
  told.mask = bits(affinity_of_this_thread());
  told.quota = cpu_quota();
  if (const char* omp = std::getenv("OMP_NUM_THREADS")) told.omp_num_threads = std::max(0, std::atoi(omp));  // of a list "4,2" the first counts
  std::vector<std::string> variables;
  for (char** e = environ; *e != nullptr; ++e) variables.emplace_back(*e);
  const LauncherView launcher = look_at_launcher();
  told.allowed = bits(launcher.allowed);
  told.binding_asked = binding_was_asked(variables, launcher) ? 1 : 0;
  return told;
}

NodeThreadsInput input_of_node(const std::vector<Told>& told, const std::vector<size_t>& ranks) {
  NodeThreadsInput input;
  const Told& first = told[ranks.front()];
  for (size_t r : ranks) {
    input.masks.push_back(list(told[r].mask));
    input.binding_asked = input.binding_asked || told[r].binding_asked != 0;
    if (told[r].quota > 0) input.quota = input.quota > 0 ? std::min(input.quota, told[r].quota) : told[r].quota;
  }
  const CpuTopology topology = read_topology();
  input.physical_core = topology.physical_core;
  for (int c : topology.order)
    if (c < static_cast<int>(kMostProcessors) && first.allowed.test(static_cast<size_t>(c))) input.allowed.push_back(c);
  return input;
}

std::string log_line(const std::vector<RankThreads>& node, const RankThreads& mine) {
  std::set<std::string> masks;
  std::set<int> threads;
  for (const RankThreads& r : node) {
    masks.insert(core_list_text(r.mask));
    threads.insert(r.threads);
  }
  std::string line = std::to_string(node.size()) + (node.size() == 1 ? " rank on this node, " : " ranks on this node, ") +
                     std::to_string(*threads.begin()) + (threads.size() > 1 ? "-" + std::to_string(*threads.rbegin()) : "") +
                     (*threads.rbegin() == 1 ? " thread" : " threads") + " each, ";
  if (masks.size() == 1) return line + (node.size() == 1 ? "on cores " : "all on cores ") + *masks.begin();
  line += "on cores";
  for (size_t r = 0; r < node.size() && r < 8; ++r) line += (r == 0 ? " " : " | ") + core_list_text(node[r].mask);
  if (node.size() > 8) line += " | …";
  if (mine.widened) line += " (the launcher had bound ranks to fewer cores than it may use; --bind-to keeps its binding)";
  return line;
}

}  // namespace

ThreadPlan plan_threads(MpiRuntime& mpi, RankGroup& group) {
  const Told mine = what_this_rank_sees(mpi);
  std::vector<Told> told(static_cast<size_t>(group.size()));
  group.all_gather(&mine, told.data(), sizeof mine);
  std::vector<size_t> ranks;
  for (size_t r = 0; r < told.size(); ++r)
    if (told[r].node == mine.node) ranks.push_back(r);
  const size_t local = static_cast<size_t>(std::find(ranks.begin(), ranks.end(), static_cast<size_t>(group.rank())) - ranks.begin());
  NodeThreadsInput input = input_of_node(told, ranks);
  input.omp_num_threads = mine.omp_num_threads;
  const std::vector<RankThreads> node = plan_node_threads(input);
  const RankThreads& chosen = node[local];
  if (chosen.widened) set_affinity_of_this_thread(chosen.mask);
  omp_set_num_threads(chosen.threads);
  return {chosen.threads, log_line(node, chosen)};
}

}  // namespace llmtrain
