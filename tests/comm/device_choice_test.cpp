// The rule by which ranks agree on a device and a communicator: a function of what all ranks see.
#include <gtest/gtest.h>

#include "comm/device_choice.h"
#include "core/error.h"

namespace llmtrain {
namespace {

RankDevices with_gpu(const std::string& host, int local_rank, int gpus, const std::string& uuid) {
  RankDevices r;
  r.host = host;
  r.local_rank = local_rank;
  r.gpus = gpus;
  r.gpu = "NVIDIA H200 at 0000:" + uuid;
  r.uuid = uuid;
  r.versions = {"CUDA runtime 13.0", "driver for CUDA 13.0", "NCCL 2.28.9"};
  r.commit = "abc";
  return r;
}

RankDevices without_gpu(const std::string& host, int local_rank) {
  RankDevices r;
  r.host = host;
  r.local_rank = local_rank;
  r.why_no_gpu = "no NVIDIA driver is installed";
  r.commit = "abc";
  return r;
}

DeviceWish wish(const std::string& device, const std::string& communicator = "auto") {
  DeviceWish w;
  w.device = device;
  w.communicator = communicator;
  w.device_where = "run.yaml:3: device";
  w.communicator_where = "run.yaml:4: communicator";
  return w;
}

// The message of the InputError that every rank must get alike; "" where some rank gets none.
std::string refusal(const DeviceWish& w, const std::vector<RankDevices>& ranks) {
  std::string first;
  for (size_t r = 0; r < ranks.size(); ++r) {
    try {
      choose_device(w, ranks, static_cast<int>(r));
      return "";
    } catch (const InputError& e) {
      if (r == 0) first = e.what();
      EXPECT_EQ(first, e.what());
    }
  }
  return first;
}

void expect_all_in(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

TEST(DeviceChoice, AutoTakesTheGpuOfTheLocalRankAndNccl) {
  const std::vector<RankDevices> ranks = {with_gpu("a", 0, 2, "11"), with_gpu("a", 1, 2, "22"), with_gpu("b", 0, 2, "33"), with_gpu("b", 1, 2, "44")};
  for (int r = 0; r < 4; ++r) {
    const DeviceChoice choice = choose_device(wish("auto"), ranks, r);
    EXPECT_EQ(choice.device, DeviceKind::cuda);
    EXPECT_EQ(choice.gpu, r % 2);
    EXPECT_EQ(choice.communicator, "nccl");
  }
}

TEST(DeviceChoice, SchedulerThatShowsEachRankItsOwnGpuOnly) {
  const std::vector<RankDevices> ranks = {with_gpu("a", 0, 1, "11"), with_gpu("a", 1, 1, "22")};
  for (int r = 0; r < 2; ++r) EXPECT_EQ(choose_device(wish("cuda"), ranks, r).gpu, 0);
}

TEST(DeviceChoice, AutoWithoutAnyGpuIsTheCpuAndSaysWhy) {
  const DeviceChoice choice = choose_device(wish("auto"), {without_gpu("a", 0), without_gpu("a", 1)}, 1);
  EXPECT_EQ(choice.device, DeviceKind::cpu);
  EXPECT_EQ(choice.communicator, "shared");
  EXPECT_NE(choice.line.find("no NVIDIA driver is installed"), std::string::npos) << choice.line;
}

TEST(DeviceChoice, NodeWithoutGpuNamesItself) {
  const std::vector<RankDevices> ranks = {with_gpu("a", 0, 1, "11"), without_gpu("b", 0)};
  for (const char* device : {"auto", "cuda"}) expect_all_in(refusal(wish(device), ranks), {"run.yaml:3: device", "rank 1 on b", "no NVIDIA driver"});
  expect_all_in(refusal(wish("cuda"), {without_gpu("a", 0)}), {"rank 0 on a", "device: cpu"});
}

TEST(DeviceChoice, CpuIsTakenWhereAskedForWhateverIsThere) {
  const std::vector<RankDevices> ranks = {without_gpu("a", 0), without_gpu("b", 0)};
  EXPECT_EQ(choose_device(wish("cpu", "mpi"), ranks, 0).communicator, "mpi");
  EXPECT_EQ(choose_device(wish("cpu", "shared"), ranks, 0).communicator, "shared");
  EXPECT_EQ(choose_device(wish("cpu"), ranks, 0).line, "");
}

TEST(DeviceChoice, TwoRanksOnOneGpuAreRefusedUnderNcclByNamingBoth) {
  const std::vector<RankDevices> ranks = {with_gpu("a", 0, 1, "11"), with_gpu("b", 0, 1, "22"), with_gpu("b", 1, 1, "22")};
  for (const char* communicator : {"auto", "nccl"})
    expect_all_in(refusal(wish("cuda", communicator), ranks),
                  {"run.yaml:4: communicator", "rank 1 on b", "rank 2 on b", "0000:22", "communicator: staged", "no more ranks on a node than it has GPUs"});
  EXPECT_EQ(choose_device(wish("cuda", "staged"), ranks, 2).communicator, "staged");
}

TEST(DeviceChoice, CombinationsThatCannotWorkAreRefusedByName) {
  const std::vector<RankDevices> cpu = {without_gpu("a", 0)}, gpu = {with_gpu("a", 0, 1, "11")};
  for (const char* communicator : {"nccl", "staged"}) expect_all_in(refusal(wish("cpu", communicator), cpu), {communicator, "is for GPUs"});
  for (const char* communicator : {"mpi", "shared"}) expect_all_in(refusal(wish("cuda", communicator), gpu), {communicator, "is for the CPU", "staged"});
}

TEST(DeviceChoice, UnknownNamesAreRefusedWithThoseThatThereAre) {
  const std::vector<RankDevices> ranks = {without_gpu("a", 0)};
  expect_all_in(refusal(wish("gpu"), ranks), {"run.yaml:3: device", "'gpu'", "auto, cpu or cuda"});
  expect_all_in(refusal(wish("cpu", "gloo"), ranks), {"run.yaml:4: communicator", "'gloo'", "staged"});
}

TEST(DeviceChoice, ASingleRankStartsNcclOnlyWhereAskedTo) {
  const std::vector<RankDevices> ranks = {with_gpu("a", 0, 1, "11")};
  EXPECT_EQ(choose_device(wish("cuda"), ranks, 0).communicator, "staged");
  EXPECT_EQ(choose_device(wish("cuda", "nccl"), ranks, 0).communicator, "nccl");
}

TEST(DeviceChoice, BuildWithoutNcclUsesTheStagedCommunicatorAndSaysSo) {
  std::vector<RankDevices> ranks = {with_gpu("a", 0, 2, "11"), with_gpu("a", 1, 2, "22")};
  for (RankDevices& r : ranks) r.versions.pop_back();
  const DeviceChoice choice = choose_device(wish("auto"), ranks, 0);
  EXPECT_EQ(choice.communicator, "staged");
  EXPECT_NE(choice.line.find("without NCCL"), std::string::npos);
  expect_all_in(refusal(wish("auto", "nccl"), ranks), {"without NCCL", "communicator: staged"});
}

TEST(DeviceChoice, DifferentVersionsNameTheNodeAndBothVersions) {
  std::vector<RankDevices> ranks = {with_gpu("a", 0, 1, "11"), with_gpu("b", 0, 1, "22"), with_gpu("c", 0, 1, "33")};
  ranks[2].versions[2] = "NCCL 2.27.3";
  expect_all_in(refusal(wish("auto"), ranks), {"rank 2 on c", "NCCL 2.27.3", "NCCL 2.28.9"});
  ranks[2].versions.pop_back();
  expect_all_in(refusal(wish("auto"), ranks), {"rank 2 on c", "nothing", "NCCL 2.28.9"});
  ranks[1].commit = "def";
  expect_all_in(refusal(wish("auto"), ranks), {"rank 1 on b", "def", "abc"});
  expect_all_in(refusal(wish("cpu"), {without_gpu("a", 0), ranks[1]}), {"rank 1 on b", "def"});
}

}  // namespace
}  // namespace llmtrain
