// Starting and ending NCCL communicators without ever waiting for ever: every call is non-blocking and has a deadline.
// https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/usage/communicators.html
#pragma once

#include <nccl.h>

#include <atomic>
#include <functional>
#include <string>

#include "core/rank_group.h"
#include "device/cuda_backend.h"

namespace llmtrain::cuda {

// OperationError "ncclAllGather: unhandled cuda error (run with NCCL_DEBUG=INFO for details) …" unless the call succeeded or is in progress. `communicator` may be null.
void check_nccl(ncclResult_t result, const char* call, ncclComm_t communicator);

// Waits until `communicator` has finished its last call; OperationError on its error, or after `seconds`. Leaves it alone, and returns, as soon as `given_up`
// is set.
void wait_until_ready(ncclComm_t communicator, const char* call, double seconds, const std::atomic<bool>& given_up);

// Whether `communicator` has finished its last call; OperationError on its error.
bool is_ready(ncclComm_t communicator, const char* call);

// Calls `look`, which says whether something has happened on this rank, until it has happened on all. Collective: where `look` throws on a rank, every rank
// throws that rank's error at once, also those that would wait for it until their deadline; after `seconds` the error is `too_late`, of the first rank on
// which it has not happened.
void look_until_on_all(RankGroup& group, const std::function<bool()>& look, double seconds, const std::string& too_late);

// A communicator over `group` on GPU `device`. Collective: where it fails on a rank, every rank throws that rank's OperationError at once, and where it does
// not end, after options.timeout_seconds. Environment variables that NCCL reads are set where the user has not: NCCL_DEBUG=WARN and
// NCCL_LAUNCH_ORDER_IMPLICIT=1, by which kernels of several communicators of one GPU take the order in which the host issued them.
ncclComm_t connect_nccl(RankGroup& group, int device, const std::string& name, const NcclOptions& options);

// Ends a communicator: in good order where `healthy` (all ranks do so), else by abort. Waits `seconds` at most; false when it has not ended by then (it is
// left to the end of the process).
bool disconnect_nccl(ncclComm_t communicator, int device, bool healthy, double seconds);

}  // namespace llmtrain::cuda
