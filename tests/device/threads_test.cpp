// The rule of cores and threads (device/cpu/threads.h), and what is read from /proc and /sys.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>

#include "device/cpu/cgroup.h"
#include "device/cpu/threads.h"

namespace llmtrain {
namespace {

CoreList range(int begin, int end) {
  CoreList cores(static_cast<size_t>(end - begin));
  std::iota(cores.begin(), cores.end(), begin);
  return cores;
}

TEST(ThreadRule, RanksBoundToSingleCoresGetEqualDisjointSharesOfOneTo128Cores) {
  for (int cores = 1; cores <= 128; ++cores) {
    for (int ranks = 1; ranks <= 160; ranks += ranks < 20 ? 1 : 7) {
      NodeThreadsInput input;
      input.allowed = range(0, cores);
      for (int r = 0; r < ranks; ++r) input.masks.push_back({r % cores});
      const std::vector<RankThreads> plan = plan_node_threads(input);
      std::set<int> seen;
      for (const RankThreads& rank : plan) {
        EXPECT_EQ(rank.threads, std::max(1, cores / ranks)) << cores << " cores, " << ranks << " ranks";
        ASSERT_FALSE(rank.mask.empty());
        if (cores < ranks) continue;
        EXPECT_EQ(static_cast<int>(rank.mask.size()), cores / ranks);
        for (int c : rank.mask) {
          EXPECT_TRUE(c >= 0 && c < cores);
          EXPECT_TRUE(seen.insert(c).second) << "core " << c << " was given twice";
        }
      }
    }
  }
}

TEST(ThreadRule, SharedMaskIsDividedAndOwnMaskIsUsedWhole) {
  for (int cores = 1; cores <= 128; ++cores) {
    for (int ranks = 1; ranks <= 140; ranks += 3) {
      NodeThreadsInput input;
      input.allowed = range(0, cores);
      input.masks.assign(static_cast<size_t>(ranks), range(0, cores));
      for (const RankThreads& rank : plan_node_threads(input)) {
        EXPECT_EQ(rank.threads, std::max(1, cores / ranks));
        EXPECT_FALSE(rank.widened);
      }
    }
  }
  NodeThreadsInput sockets;  // two ranks bound to a socket each
  sockets.masks = {range(0, 32), range(32, 64)};
  sockets.allowed = range(0, 64);
  for (const RankThreads& rank : plan_node_threads(sockets)) {
    EXPECT_EQ(rank.threads, 32);
    EXPECT_FALSE(rank.widened);
  }
}

TEST(ThreadRule, BindingThatWasAskedForStays) {
  NodeThreadsInput input;
  input.masks = {{0}, {1}};
  input.allowed = range(0, 16);
  input.binding_asked = true;
  for (const RankThreads& rank : plan_node_threads(input)) {
    EXPECT_FALSE(rank.widened);
    EXPECT_EQ(rank.threads, 1);
  }
}

TEST(ThreadRule, UnknownLauncherMeansNoWidening) {
  NodeThreadsInput input;
  input.masks = {{0}, {1}};
  EXPECT_FALSE(plan_node_threads(input)[0].widened);
}

TEST(ThreadRule, MasksOutsideWhatTheLauncherMayUseStay) {
  NodeThreadsInput input;
  input.masks = {{20}, {21}};
  input.allowed = range(0, 16);
  EXPECT_FALSE(plan_node_threads(input)[0].widened);
}

TEST(ThreadRule, QuotaCapsTheSumAndOmpNumThreadsWins) {
  NodeThreadsInput input;
  input.masks = {range(0, 64), range(0, 64)};
  input.allowed = range(0, 64);
  input.quota = 9.5;
  for (const RankThreads& rank : plan_node_threads(input)) EXPECT_EQ(rank.threads, 4);
  input.quota = 0.5;
  for (const RankThreads& rank : plan_node_threads(input)) EXPECT_EQ(rank.threads, 1);
  input.omp_num_threads = 12;
  for (const RankThreads& rank : plan_node_threads(input)) EXPECT_EQ(rank.threads, 12);
}

TEST(ThreadRule, HyperthreadsOfOneCoreStayTogetherAndCountOnce) {
  NodeThreadsInput input;  // 8 cores, siblings i and i + 8
  for (int c = 0; c < 8; ++c) {
    input.allowed.push_back(c);
    input.allowed.push_back(c + 8);
  }
  for (int c = 0; c < 16; ++c) input.physical_core.push_back(c % 8);
  input.masks = {{0, 8}, {1, 9}};
  const std::vector<RankThreads> plan = plan_node_threads(input);
  EXPECT_EQ(plan[0].mask, (CoreList{0, 1, 2, 3, 8, 9, 10, 11}));
  EXPECT_EQ(plan[1].mask, (CoreList{4, 5, 6, 7, 12, 13, 14, 15}));
  EXPECT_EQ(plan[0].threads, 4);
  EXPECT_EQ(plan[1].threads, 4);
}

TEST(ThreadRule, SharesFollowTheRanksOwnPlaces) {
  NodeThreadsInput input;
  input.allowed = range(0, 4);
  input.masks = {{2}, {0}};
  const std::vector<RankThreads> plan = plan_node_threads(input);
  EXPECT_EQ(plan[0].mask, (CoreList{2, 3}));
  EXPECT_EQ(plan[1].mask, (CoreList{0, 1}));
}

TEST(ThreadRule, OverlappingMasksShareWhatTheyOverlapIn) {
  NodeThreadsInput input;
  input.masks = {range(0, 4), range(2, 6)};  // two cores of one's own, two shared
  input.allowed = range(0, 6);
  for (const RankThreads& rank : plan_node_threads(input)) EXPECT_EQ(rank.threads, 3);
}

TEST(CoreLists, TextAndBack) {
  EXPECT_EQ(core_list_text({0, 1, 2, 3, 8, 10, 11}), "0-3,8,10-11");
  EXPECT_EQ(parse_core_list("0-3,8,10-11\n"), (CoreList{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_TRUE(parse_core_list("x").empty());
  EXPECT_TRUE(parse_core_list("5-2").empty());
  EXPECT_TRUE(parse_core_list("").empty());
}

TEST(Affinity, SettingWhatIsThereChangesNothing) {
  const CoreList before = affinity_of_this_thread();
  ASSERT_FALSE(before.empty());
  set_affinity_of_this_thread({before.front()});
  EXPECT_EQ(affinity_of_this_thread(), CoreList{before.front()});
  set_affinity_of_this_thread(before);
  EXPECT_EQ(affinity_of_this_thread(), before);
}

// A folder that stands before /proc and /sys.
class FakeRoot : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/llmtrain-root-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(FakeRoot, MemoryIsTheSmallestOfMachineAndGroupsOfVersion2) {
  write("/proc/meminfo", "MemTotal: 100 kB\nMemAvailable:    1000000 kB\n");
  write("/proc/self/cgroup", "0::/job/step\n");
  EXPECT_EQ(memory_available(root_), 1024000000u);
  write("/sys/fs/cgroup/job/memory.max", "500000000\n");
  write("/sys/fs/cgroup/job/memory.current", "300000000\n");
  write("/sys/fs/cgroup/job/memory.stat", "anon 5\ninactive_file 100000000\n");
  write("/sys/fs/cgroup/job/step/memory.max", "max\n");
  write("/sys/fs/cgroup/job/step/memory.current", "1\n");
  EXPECT_EQ(memory_available(root_), 300000000u);
  write("/sys/fs/cgroup/job/memory.current", "700000000\n");  // over the limit already
  EXPECT_EQ(memory_available(root_), 0u);
}

TEST_F(FakeRoot, MemoryOfVersion1GroupWhosePathIsNotMounted) {
  write("/proc/meminfo", "MemAvailable: 1000000 kB\n");
  write("/proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n");
  EXPECT_EQ(memory_available(root_), 300000u);
}

TEST_F(FakeRoot, QuotaOfBothVersions) {
  EXPECT_EQ(cpu_quota(root_), 0);
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 1.5);
  write("/proc/self/cgroup", "3:cpu,cpuacct:/j\n");
  write("/sys/fs/cgroup/cpu/j/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpu/j/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu_quota(root_), 0);
  write("/sys/fs/cgroup/cpu/j/cpu.cfs_quota_us", "400000\n");
  EXPECT_EQ(cpu_quota(root_), 4);
}

TEST_F(FakeRoot, LauncherIsFoundBehindAWrapperAndItsArgumentsTellOfBinding) {
  write("/proc/self/status", "Name:\tllmtrain\nPPid:\t20\n");
  write("/proc/20/status", "Name:\tbash\nPPid:\t10\nCpus_allowed_list:\t0\n");
  write("/proc/10/status", "Name:\tmpirun\nPPid:\t1\nCpus_allowed_list:\t0-7\n");
  write("/proc/10/cmdline", std::string("mpirun\0-np\0002\0./llmtrain\0", 24));
  LauncherView view = look_at_launcher(root_);
  ASSERT_TRUE(view.found);
  EXPECT_EQ(view.allowed, range(0, 8));
  EXPECT_EQ(view.arguments, (std::vector<std::string>{"mpirun", "-np", "2", "./llmtrain"}));
  EXPECT_FALSE(binding_was_asked({}, view));
  view.arguments = {"mpirun", "--bind-to", "core"};
  EXPECT_TRUE(binding_was_asked({}, view));
  view.arguments = {"mpirun", "--map-by", "slot:PE=4"};
  EXPECT_TRUE(binding_was_asked({}, view));
  write("/proc/self/status", "Name:\tllmtrain\nPPid:\t1\n");
  write("/proc/1/status", "Name:\tinit\nPPid:\t0\n");
  EXPECT_FALSE(look_at_launcher(root_).found);
}

TEST(Binding, EnvironmentOfOpenMpiAndSlurm) {
  const LauncherView none;
  EXPECT_TRUE(binding_was_asked({"OMPI_MCA_hwloc_base_binding_policy=core"}, none));
  EXPECT_TRUE(binding_was_asked({"SLURM_CPU_BIND_TYPE=mask_cpu:"}, none));
  EXPECT_FALSE(binding_was_asked({"SLURM_CPU_BIND_TYPE=none"}, none));
  EXPECT_FALSE(binding_was_asked({"SLURM_CPU_BIND_TYPE=mask_cpu:", "OMPI_COMM_WORLD_SIZE=2"}, none));
  EXPECT_FALSE(binding_was_asked({"HOME=/"}, none));
}

TEST_F(FakeRoot, TopologyOrdersByPackageThenCore) {
  write("/sys/devices/system/cpu/online", "0-3\n");
  const int package[] = {0, 1, 0, 1};
  for (int c = 0; c < 4; ++c) {
    write("/sys/devices/system/cpu/cpu" + std::to_string(c) + "/topology/physical_package_id", std::to_string(package[c]));
    write("/sys/devices/system/cpu/cpu" + std::to_string(c) + "/topology/core_id", "0");
  }
  const CpuTopology topology = read_topology(root_);
  EXPECT_EQ(topology.order, (CoreList{0, 2, 1, 3}));
  EXPECT_EQ(topology.physical_core, (std::vector<int>{0, 1, 0, 1}));
}

}  // namespace
}  // namespace llmtrain
