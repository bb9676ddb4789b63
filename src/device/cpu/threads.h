// Which cores and how many threads each rank of a node uses: a pure function of affinity masks, and the small functions that read and apply masks.
//
// The rule (docs/architecture.md, "Threads on the CPU backend"): a mask shared by k ranks gives |mask| / k cores, a mask of one's own all of it; the
// control group's quota caps the sum; OMP_NUM_THREADS wins. Where the masks leave allowed cores unused and nobody asked for the binding (Open MPI
// binds to single cores by itself at two ranks), each rank's mask becomes its equal, disjoint share of the allowed cores. Thread rules:
// plan_node_threads() is pure; the others look at or change the calling process.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace llmtrain {

// Logical processors by number, ascending where it is a mask.
using CoreList = std::vector<int>;

struct NodeThreadsInput {
  std::vector<CoreList> masks;     // of every rank of the node, in rank order
  CoreList allowed;                // what the launcher itself may use, in the order in which neighbours share caches; empty: not known
  std::vector<int> physical_core;  // physical core of a logical processor, by its number; shorter or empty: each is a core of its own
  double quota = 0;                // processors that the control group pays for; 0: no quota
  int omp_num_threads = 0;         // 0: not set
  bool binding_asked = false;      // the user or Slurm chose the binding
};

struct RankThreads {
  CoreList mask;         // to be set where `widened`
  int threads = 1;       // >= 1
  bool widened = false;  // the mask differs from what the rank was started with
};

// One entry a rank. Every entry has at least one thread; the sum of threads exceeds the cores only where there are more ranks than cores.
std::vector<RankThreads> plan_node_threads(const NodeThreadsInput& input);

// ---- reading and setting
CoreList affinity_of_this_thread();
void set_affinity_of_this_thread(const CoreList& mask);  // OperationError
// "0-3,8" <-> {0, 1, 2, 3, 8}. parse: nothing for text that is no list.
std::string core_list_text(const CoreList& cores);
CoreList parse_core_list(const std::string& text);

// The launcher's process above this one (mpirun, orted, prted, hydra, slurmstepd …): its mask and its command line.
struct LauncherView {
  bool found = false;
  CoreList allowed;
  std::vector<std::string> arguments;
};
LauncherView look_at_launcher(const std::string& root = "");
// Whether the environment (name=value) or the launcher's arguments choose a binding.
bool binding_was_asked(const std::vector<std::string>& environment, const LauncherView& launcher);
// Physical core of each logical processor (package and core id folded into one number), and all processors ordered by package, then core.
struct CpuTopology {
  std::vector<int> physical_core;
  CoreList order;
};
CpuTopology read_topology(const std::string& root = "");

}  // namespace llmtrain
