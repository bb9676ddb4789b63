// Cores and threads of the ranks of a node (threads.h).
#include "device/cpu/threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

int physical(const NodeThreadsInput& input, int cpu) {
  return cpu < static_cast<int>(input.physical_core.size()) ? input.physical_core[static_cast<size_t>(cpu)] : -1 - cpu;
}

// Allowed cores grouped by physical core, in the order given: shares are made of whole physical cores where there are enough of them.
std::vector<CoreList> whole_cores(const NodeThreadsInput& input) {
  std::vector<CoreList> cores;
  std::map<int, size_t> index;
  for (int cpu : input.allowed) {
    const auto [at, is_new] = index.try_emplace(physical(input, cpu), cores.size());
    if (is_new) cores.emplace_back();
    cores[at->second].push_back(cpu);
  }
  return cores;
}

bool leaves_cores_unused(const NodeThreadsInput& input) {
  std::set<int> used;
  for (const CoreList& mask : input.masks) used.insert(mask.begin(), mask.end());
  const std::set<int> allowed(input.allowed.begin(), input.allowed.end());
  // Masks that reach outside what the launcher may use were set by somebody who knew: they stay.
  return used.size() < allowed.size() && std::includes(allowed.begin(), allowed.end(), used.begin(), used.end());
}

// The rank whose first core comes first takes the first share, so that a rank stays near where its memory may already lie.
std::vector<size_t> order_of_ranks(const NodeThreadsInput& input) {
  std::vector<size_t> order(input.masks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto place = [&](size_t rank) {
    if (input.masks[rank].empty()) return input.allowed.size();
    return static_cast<size_t>(std::find(input.allowed.begin(), input.allowed.end(), input.masks[rank].front()) - input.allowed.begin());
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return place(a) < place(b); });
  return order;
}

void widen(const NodeThreadsInput& input, std::vector<RankThreads>& ranks) {
  const std::vector<CoreList> cores = whole_cores(input);
  const size_t n = ranks.size(), each = cores.size() / n;
  const std::vector<size_t> order = order_of_ranks(input);
  for (size_t i = 0; i < n; ++i) {
    RankThreads& rank = ranks[order[i]];
    rank.mask.clear();
    // Fewer cores than ranks: neighbours share one.
    const size_t begin = each > 0 ? i * each : i * cores.size() / n, count = std::max<size_t>(each, 1);
    for (size_t c = begin; c < begin + count; ++c) rank.mask.insert(rank.mask.end(), cores[c].begin(), cores[c].end());
    std::sort(rank.mask.begin(), rank.mask.end());
    rank.widened = rank.mask != input.masks[order[i]];
  }
}

std::set<int> physical_cores(const NodeThreadsInput& input, const CoreList& mask) {
  std::set<int> cores;
  for (int cpu : mask) cores.insert(physical(input, cpu));
  return cores;
}

// Cores that each rank may count as its own. A core that c masks hold counts 1/c for each: a mask shared by k ranks gives |mask| / k, and overlapping
// masks what is fair.
std::vector<double> shares(const NodeThreadsInput& input, const std::vector<RankThreads>& ranks) {
  std::map<CoreList, int> masks;  // ranks by mask: there are few different ones
  for (const RankThreads& r : ranks) ++masks[r.mask];
  std::map<int, int> holders;
  for (const auto& [mask, count] : masks)
    for (int core : physical_cores(input, mask)) holders[core] += count;
  std::map<CoreList, double> share_of;
  for (const auto& [mask, count] : masks)
    for (int core : physical_cores(input, mask)) share_of[mask] += 1.0 / holders[core];
  std::vector<double> out;
  for (const RankThreads& r : ranks) out.push_back(share_of[r.mask]);
  return out;
}

}  // namespace

std::vector<RankThreads> plan_node_threads(const NodeThreadsInput& input) {
  std::vector<RankThreads> ranks(input.masks.size());
  for (size_t r = 0; r < ranks.size(); ++r) ranks[r].mask = input.masks[r];
  if (!input.binding_asked && !input.allowed.empty() && !ranks.empty() && leaves_cores_unused(input)) widen(input, ranks);
  const std::vector<double> cores = shares(input, ranks);
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (input.omp_num_threads > 0) {
      ranks[r].threads = input.omp_num_threads;
      continue;
    }
    double share = cores[r];
    if (input.quota > 0) share = std::min(share, input.quota / static_cast<double>(ranks.size()));
    ranks[r].threads = std::max(1, static_cast<int>(std::floor(share + 1e-6)));  // 3 x 1/3 is one core
  }
  return ranks;
}

CoreList affinity_of_this_thread() {
  // The kernel's mask may be larger than cpu_set_t: the size grows until it fits.
  for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(cpus));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cpus));
    CoreList cores;
    const int result = sched_getaffinity(0, bytes, set), error = errno;
    for (int c = 0; result == 0 && c < cpus; ++c)
      if (CPU_ISSET_S(static_cast<size_t>(c), bytes, set)) cores.push_back(c);
    CPU_FREE(set);
    if (result == 0) return cores;
    if (error != EINVAL) throw_errno("sched_getaffinity", "this process", error);
  }
  throw OperationError("sched_getaffinity: the machine's processor mask is larger than a million");
}

void set_affinity_of_this_thread(const CoreList& mask) {
  LLMTRAIN_ASSERT(!mask.empty(), "an empty affinity mask");
  const size_t cpus = static_cast<size_t>(*std::max_element(mask.begin(), mask.end())) + 1;
  cpu_set_t* set = CPU_ALLOC(cpus);
  const size_t bytes = CPU_ALLOC_SIZE(cpus);
  CPU_ZERO_S(bytes, set);
  for (int c : mask) CPU_SET_S(static_cast<size_t>(c), bytes, set);
  const int result = sched_setaffinity(0, bytes, set), error = errno;
  CPU_FREE(set);
  if (result != 0) throw_errno("sched_setaffinity", core_list_text(mask), error);
}

std::string core_list_text(const CoreList& cores) {
  std::string text;
  for (size_t i = 0; i < cores.size();) {
    size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cores[i]);
    if (last > i) text += "-" + std::to_string(cores[last]);
    i = last + 1;
  }
  return text;
}

CoreList parse_core_list(const std::string& text) {
  CoreList cores;
  std::istringstream in(text);
  std::string part;
  while (std::getline(in, part, ',')) {
    char* end = nullptr;
    const long first = std::strtol(part.c_str(), &end, 10);
    if (end == part.c_str()) return {};
    const long last = *end == '-' ? std::strtol(end + 1, nullptr, 10) : first;
    if (first < 0 || last < first || last >= 1 << 20) return {};
    for (long c = first; c <= last; ++c) cores.push_back(static_cast<int>(c));
  }
  return cores;
}

namespace {

std::string status_field(const std::string& folder, const std::string& key) {
  std::ifstream in(folder + "/status");
  std::string line;
  while (std::getline(in, line)) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

bool is_launcher(const std::string& name) {
  static constexpr std::array<const char*, 9> kNames = {"mpirun", "mpiexec", "orterun",         "orted",     "prterun",
                                                        "prted",  "prte",    "hydra_pmi_proxy", "slurmstepd"};
  return std::any_of(kNames.begin(), kNames.end(), [&](const char* known) { return name.compare(0, std::string(known).size(), known) == 0; });
}

std::vector<std::string> command_line(const std::string& folder) {
  std::ifstream in(folder + "/cmdline");
  std::vector<std::string> arguments;
  for (std::string part; std::getline(in, part, '\0');) arguments.push_back(part);
  return arguments;
}

}  // namespace

LauncherView look_at_launcher(const std::string& root) {
  LauncherView view;
  std::string pid = status_field(root + "/proc/self", "PPid:");
  for (int depth = 0; depth < 32 && !pid.empty() && pid != "0"; ++depth) {  // wrappers (a shell, numactl, a debugger) may stand between
    const std::string folder = root + "/proc/" + pid;
    if (is_launcher(status_field(folder, "Name:"))) {
      view.found = true;
      view.allowed = parse_core_list(status_field(folder, "Cpus_allowed_list:"));
      view.arguments = command_line(folder);
      return view;
    }
    pid = status_field(folder, "PPid:");
  }
  return view;
}

bool binding_was_asked(const std::vector<std::string>& environment, const LauncherView& launcher) {
  bool open_mpi = false, slurm = false;
  for (const std::string& entry : environment) {
    for (const char* name : {"OMPI_MCA_hwloc_base_binding_policy=", "OMPI_MCA_rmaps_rank_file_path=", "OMPI_MCA_hwloc_base_cpu_list=",
                             "PRTE_MCA_hwloc_default_binding_policy=", "OMPI_MCA_hwloc_base_cpu_set=", "HYDRA_BINDING="})
      if (entry.compare(0, std::string(name).size(), name) == 0) return true;
    if (entry.compare(0, 21, "OMPI_COMM_WORLD_SIZE=") == 0) open_mpi = true;
    if (entry.compare(0, 20, "SLURM_CPU_BIND_TYPE=") == 0) slurm = entry.size() > 20 && entry != "SLURM_CPU_BIND_TYPE=none";
  }
  if (slurm && !open_mpi) return true;  // under mpirun in a Slurm job that variable describes how mpirun was started, not the ranks
  for (const std::string& argument : launcher.arguments) {
    std::string name = argument.substr(0, argument.find('='));
    if (name.compare(0, 2, "--") == 0) name.erase(0, 1);
    for (const char* known : {"-bind-to", "-bind-to-core", "-bind-to-socket", "-cpu-set", "-cpu-list", "-rankfile", "-rf", "-cpus-per-proc",
                              "-cpus-per-rank", "-use-hwthread-cpus"})
      if (name == known) return true;
    if (argument == "hwloc_base_binding_policy" || argument.find(":PE=") != std::string::npos || argument.find(":pe=") != std::string::npos)
      return true;
  }
  return false;
}

CpuTopology read_topology(const std::string& root) {
  CpuTopology topology;
  const std::string base = root + "/sys/devices/system/cpu/";
  std::string online;
  std::ifstream(base + "online") >> online;
  struct Place {
    int package, core, cpu;
  };
  std::vector<Place> places;
  for (int cpu : parse_core_list(online)) {
    Place place{0, cpu, cpu};  // a machine that says nothing: each processor a core
    const std::string folder = base + "cpu" + std::to_string(cpu) + "/topology/";
    std::ifstream(folder + "physical_package_id") >> place.package;
    int core = cpu;
    if (std::ifstream(folder + "core_id") >> core) place.core = core;
    places.push_back(place);
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const Place& a, const Place& b) { return std::tie(a.package, a.core) < std::tie(b.package, b.core); });
  std::map<std::pair<int, int>, int> numbers;
  for (const Place& place : places) {
    topology.order.push_back(place.cpu);
    if (place.cpu >= static_cast<int>(topology.physical_core.size())) topology.physical_core.resize(static_cast<size_t>(place.cpu) + 1, -1);
    topology.physical_core[static_cast<size_t>(place.cpu)] =
        numbers.try_emplace({place.package, place.core}, static_cast<int>(numbers.size())).first->second;
  }
  return topology;
}

}  // namespace llmtrain
