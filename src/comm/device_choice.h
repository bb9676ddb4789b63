// Which device each rank computes on and how the ranks talk, agreed on by all of them before anything of CUDA or NCCL is started: every rank tells the
// others what it sees, and the same rule over the same facts gives every rank the same answer (or the same error, which names the node).
//
//   device: auto   the GPU where every rank sees one; the CPU where none does; where only some do, an error that names a node without
//           cuda   the GPU, or an error that names the node without
//           cpu    the CPU
//   communicator:  on GPUs auto is nccl (staged in a build without NCCL, and for a single rank), else nccl or staged; on the CPU auto is shared, else
//                  shared or mpi.
//
// The GPU of a rank is its number within its node modulo the GPUs that it sees, so it does not matter whether a scheduler shows each rank all GPUs or
// only its own. Under NCCL each rank needs a GPU of its own: GPUs are told apart by their UUIDs.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/context.h"
#include "device/cuda_backend.h"

namespace llmtrain {

struct DeviceWish {
  std::string device = "auto";        // auto, cpu, cuda
  std::string communicator = "auto";  // auto, mpi, shared, nccl, staged
  std::string device_where = "device", communicator_where = "communicator";  // for errors: "run.yaml:12: device"
};

// What one rank sees.
struct RankDevices {
  std::string host;
  int local_rank = 0;  // its number within its node
  int gpus = 0;        // that this process sees
  std::string why_no_gpu;
  std::string gpu, uuid;              // of the one it would take: name and bus id; 32 hexadecimal digits
  std::vector<std::string> versions;  // of the libraries and the driver: "CUDA runtime 13.0"
  std::string commit;                 // of the program
};

struct DeviceChoice {
  DeviceKind device = DeviceKind::cpu;
  int gpu = 0;                          // index among those that this process sees
  std::string communicator = "shared";  // mpi, shared, nccl or staged
  std::string line;                     // for the log: what was chosen, and why where that may surprise; may be empty
  std::optional<CudaBackend> backend;   // on GPUs
};

// The rule (pure): the choice of rank `rank`, without the backend. InputError, the same for every rank.
DeviceChoice choose_device(const DeviceWish& wish, const std::vector<RankDevices>& ranks, int rank);

// Looks at this machine, tells the others, applies the rule. Collective. InputError on all ranks. The plugin is opened only where there may be a GPU.
DeviceChoice make_device_choice(MpiRuntime& mpi, RankGroup& group, const DeviceWish& wish);

// The Device of a choice. `threads`: of the CPU backend.
std::unique_ptr<Device> make_chosen_device(const DeviceChoice& choice, int threads);
// A communicator over all ranks as chosen; each needs a name of its own. Collective. `group` must live as long as the communicator.
// `timeout_seconds`: for NCCL to come up.
std::unique_ptr<Communicator> make_chosen_communicator(const DeviceChoice& choice, MpiRuntime& mpi, RankGroup& group, Device& device, const std::string& name,
                                                       const NodeOptions& nodes, double timeout_seconds = 60);

}  // namespace llmtrain
