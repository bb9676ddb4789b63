// The choice of device and communicator (device_choice.h).
#include "comm/device_choice.h"

#include <dlfcn.h>
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <map>

#include "comm/mpi/mpi_calls.h"
#include "comm/staged/staged_communicator.h"
#include "core/error.h"
#include "core/json.h"
#include "device/program_commit.h"

namespace llmtrain {
namespace {

std::string place(const std::vector<RankDevices>& ranks, size_t r) { return "rank " + std::to_string(r) + " on " + ranks[r].host; }

// The first rank that sees a GPU (or none), or ranks.size().
size_t first_rank(const std::vector<RankDevices>& ranks, bool with_gpu) {
  return static_cast<size_t>(std::find_if(ranks.begin(), ranks.end(), [&](const RankDevices& r) { return (r.gpus > 0) == with_gpu; }) - ranks.begin());
}

void check_wish(const DeviceWish& wish) {
  const auto check = [](const std::string& value, std::initializer_list<const char*> known, const std::string& where, const char* advice) {
    if (std::find(known.begin(), known.end(), value) == known.end()) throw InputError(where, "'" + value + "' is unknown", advice);
  };
  check(wish.device, {"auto", "cpu", "cuda"}, wish.device_where, "choose auto, cpu or cuda");
  check(wish.communicator, {"auto", "mpi", "shared", "nccl", "staged"}, wish.communicator_where, "choose auto, mpi, shared, nccl or staged");
}

bool takes_gpu(const DeviceWish& wish, const std::vector<RankDevices>& ranks) {
  if (wish.device == "cpu") return false;
  const size_t without = first_rank(ranks, false), with = first_rank(ranks, true);
  if (without == ranks.size()) return true;
  const std::string why = place(ranks, without) + " sees no GPU: " + ranks[without].why_no_gpu;
  if (wish.device == "cuda") throw InputError(wish.device_where, why, "use device: cpu, or start where every rank has a GPU");
  if (with == ranks.size()) return false;
  throw InputError(wish.device_where, "auto: " + why + "; " + place(ranks, with) + " sees one",
                   "leave that node out, repair it, or say device: cpu for all ranks");
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

// Every rank runs the same program over the same libraries.
void compare_versions(const std::vector<RankDevices>& ranks, bool gpu) {
  for (size_t r = 1; r < ranks.size(); ++r) {
    if (ranks[r].commit != ranks[0].commit) {
      throw InputError("llmtrain", place(ranks, r) + " runs a build of commit " + ranks[r].commit + ", " + place(ranks, 0) + " one of " + ranks[0].commit,
                       "install one build on every node");
    }
    if (!gpu || ranks[r].versions == ranks[0].versions) continue;
    const auto [there, here] = std::mismatch(ranks[r].versions.begin(), ranks[r].versions.end(), ranks[0].versions.begin(), ranks[0].versions.end());
    throw InputError("CUDA libraries",
                     place(ranks, r) + " has " + (there == ranks[r].versions.end() ? "nothing" : *there) + " where " + place(ranks, 0) + " has " +
                         (here == ranks[0].versions.end() ? "nothing" : *here) + " (" + joined(ranks[r].versions) + " against " + joined(ranks[0].versions) + ")",
                     "use the same driver and the same libraries on every node");
  }
}

bool has_nccl(const RankDevices& rank) {
  return std::any_of(rank.versions.begin(), rank.versions.end(), [](const std::string& v) { return v.rfind("NCCL ", 0) == 0; });
}

void refuse_shared_gpus(const DeviceWish& wish, const std::vector<RankDevices>& ranks) {
  std::map<std::string, size_t> owner;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto [first, fresh] = owner.emplace(ranks[r].uuid, r);
    if (fresh) continue;
    throw InputError(wish.communicator_where,
                     place(ranks, first->second) + " and " + place(ranks, r) + " would share one GPU (" + ranks[r].gpu + "; that rank sees " +
                         std::to_string(ranks[r].gpus) + "), and NCCL needs one for each rank",
                     "start no more ranks on a node than it has GPUs, or say communicator: staged");
  }
}

std::string choose_communicator(const DeviceWish& wish, const std::vector<RankDevices>& ranks, bool gpu, std::string& line) {
  const std::string& wanted = wish.communicator;
  if (!gpu) {
    if (wanted == "nccl" || wanted == "staged")
      throw InputError(wish.communicator_where, wanted + " is for GPUs, and the run is on the CPU", "use auto, shared or mpi");
    return wanted == "mpi" ? "mpi" : "shared";
  }
  if (wanted == "mpi" || wanted == "shared")
    throw InputError(wish.communicator_where, wanted + " is for the CPU, and the run is on GPUs", "use nccl, or staged (through host memory and MPI)");
  if (wanted == "staged") return "staged";
  if (!has_nccl(ranks[0])) {
    if (wanted == "nccl")
      throw InputError(wish.communicator_where, "nccl: this build was made without NCCL", "build where NCCL is found, or say communicator: staged");
    if (ranks.size() > 1) line += "; communicator staged through host memory, as this build was made without NCCL";
    return "staged";
  }
  if (ranks.size() == 1 && wanted == "auto") return "staged";  // nobody to talk to: NCCL need not start, nor take its memory
  refuse_shared_gpus(wish, ranks);
  return "nccl";
}

// ---- what this rank sees

int number_within_node(MpiRuntime& mpi) {
  if (!mpi.active() || mpi.size() == 1) return 0;
  MPI_Comm node = MPI_COMM_NULL;
  int number = 0;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, mpi.rank(), MPI_INFO_NULL, &node), "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(node, &number), "MPI_Comm_rank");
  MPI_Comm_free(&node);
  return number;
}

// Opening the plugin costs 60 ms and 200 MB (cuBLASLt): not where there is no driver, unless somebody names a plugin.
bool may_have_gpu(std::string& why) {
  const char* plugin = std::getenv("LLMTRAIN_CUDA_PLUGIN");
  if (plugin && *plugin) return true;
  if (void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) {
    ::dlclose(driver);
    return true;
  }
  why = "no NVIDIA driver is installed (libcuda.so.1 cannot be opened)";
  return false;
}

RankDevices look(MpiRuntime& mpi, const DeviceWish& wish, std::optional<CudaBackend>& backend) {
  RankDevices mine;
  mine.host = mpi.host();
  mine.commit = program_commit();
  mine.local_rank = number_within_node(mpi);
  if (wish.device == "cpu") return mine;
  try {
    if (!may_have_gpu(mine.why_no_gpu)) return mine;
    backend = CudaBackend::open();
    const CudaPlugin& plugin = backend->plugin();
    mine.versions = plugin.versions();
    mine.gpus = plugin.device_count(mine.why_no_gpu);
    if (mine.gpus == 0) return mine;
    const CudaDeviceInfo info = plugin.device_info(mine.local_rank % mine.gpus);
    mine.gpu = info.name + " at " + info.pci;
    mine.uuid = info.uuid;
  } catch (const std::exception& e) {  // told to all below: nobody may leave the others waiting
    mine.gpus = 0;
    mine.why_no_gpu = e.what();
  }
  return mine;
}

Json to_json(const RankDevices& r) {
  return {{"host", r.host}, {"local_rank", r.local_rank}, {"gpus", r.gpus},         {"why_no_gpu", r.why_no_gpu},
          {"gpu", r.gpu},   {"uuid", r.uuid},             {"versions", r.versions}, {"commit", r.commit}};
}

RankDevices from_json(const Json& j) {
  RankDevices r;
  r.host = j.at("host").get<std::string>();
  r.local_rank = j.at("local_rank").get<int>();
  r.gpus = j.at("gpus").get<int>();
  r.why_no_gpu = j.at("why_no_gpu").get<std::string>();
  r.gpu = j.at("gpu").get<std::string>();
  r.uuid = j.at("uuid").get<std::string>();
  r.versions = j.at("versions").get<std::vector<std::string>>();
  r.commit = j.at("commit").get<std::string>();
  return r;
}

std::vector<RankDevices> tell_all(RankGroup& group, const RankDevices& mine) {
  std::string text = dump_json(to_json(mine));
  uint64_t length = text.size();
  std::vector<uint64_t> lengths(static_cast<size_t>(group.size()));
  group.all_gather(&length, lengths.data(), sizeof length);
  const size_t longest = *std::max_element(lengths.begin(), lengths.end());
  text.resize(longest, ' ');
  std::string all(longest * lengths.size(), ' ');
  group.all_gather(text.data(), all.data(), longest);
  std::vector<RankDevices> ranks;
  for (size_t r = 0; r < lengths.size(); ++r) ranks.push_back(from_json(parse_json(std::string_view(all).substr(r * longest, lengths[r]), "what a rank sees")));
  return ranks;
}

}  // namespace

DeviceChoice choose_device(const DeviceWish& wish, const std::vector<RankDevices>& ranks, int rank) {
  check_wish(wish);
  const RankDevices& mine = ranks.at(static_cast<size_t>(rank));
  DeviceChoice choice;
  const bool gpu = takes_gpu(wish, ranks);
  compare_versions(ranks, gpu);
  if (gpu) {
    choice.device = DeviceKind::cuda;
    choice.gpu = mine.local_rank % mine.gpus;
    choice.line = "device: cuda, " + joined(mine.versions);
  } else if (wish.device == "auto") {
    choice.line = "device: cpu (auto: " + mine.why_no_gpu + ")";
  }
  choice.communicator = choose_communicator(wish, ranks, gpu, choice.line);
  return choice;
}

DeviceChoice make_device_choice(MpiRuntime& mpi, RankGroup& group, const DeviceWish& wish) {
  std::optional<CudaBackend> backend;
  DeviceChoice choice = choose_device(wish, tell_all(group, look(mpi, wish, backend)), group.rank());
  if (choice.device == DeviceKind::cuda) choice.backend = std::move(backend);
  return choice;
}

std::unique_ptr<Device> make_chosen_device(const DeviceChoice& choice, int threads) {
  if (choice.device == DeviceKind::cpu) return make_cpu_device(threads);
  return choice.backend.value().plugin().make_device(choice.gpu);
}

std::unique_ptr<Communicator> make_chosen_communicator(const DeviceChoice& choice, MpiRuntime& mpi, RankGroup& group, Device& device, const std::string& name,
                                                       const NodeOptions& nodes, double timeout_seconds) {
  if (choice.communicator == "nccl") {
    NcclOptions options;
    options.timeout_seconds = timeout_seconds;
    auto communicator = choice.backend.value().plugin().make_nccl_communicator(group, device, name, options);
    LLMTRAIN_ASSERT(communicator != nullptr, "NCCL was chosen in a build without it");
    return communicator;
  }
  if (choice.device == DeviceKind::cuda) return make_staged_communicator(mpi, device, name, nodes);
  NodeOptions options = nodes;
  options.shared_memory = nodes.shared_memory && choice.communicator != "mpi";
  return make_mpi_communicator(mpi, name, options);
}

}  // namespace llmtrain
