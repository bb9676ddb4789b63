// The Communicator for tensors of a device that MPI cannot reach: everything goes through pinned host memory and the communicator over MPI
// (`communicator: staged`). Several ranks can share one GPU in this way; the sums are those of the CPU backend, bit for bit.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/context.h"

namespace llmtrain {

// Collective. Works with any Device. Host memory taken: 2 pinned buffers and one shared window of at most 4 MiB each.
// A collective is done when its call returns: the issuing thread waits for `stream` before and after, so nothing overlaps.
std::unique_ptr<Communicator> make_staged_communicator(MpiRuntime& mpi, Device& device, const std::string& name, const NodeOptions& options);

}  // namespace llmtrain
