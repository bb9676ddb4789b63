// A job whose ranks issue the collectives of one NCCL communicator in different orders, under a watchdog that has to say so. Argument: the folder for dumps.
#include <cstdio>
#include <string>

#include "comm/communicator.h"
#include "comm/context.h"
#include "comm/watchdog.h"
#include "device/cuda_backend.h"

int main(int argc, char** argv) {
  using namespace llmtrain;
  MpiRuntime mpi(&argc, &argv);
  auto group = make_rank_group(mpi);
  const CudaBackend backend = CudaBackend::open();
  auto device = backend.plugin().make_device(mpi.rank());
  auto stream = device->make_stream("gather", true);
  auto nccl = backend.plugin().make_nccl_communicator(*group, *device, "gather", {});
  WatchdogOptions options;
  options.timeout_seconds = 2;
  options.dump_dir = argc > 1 ? argv[1] : ".";
  options.host = mpi.host();
  Watchdog watchdog(options, *group, nullptr);
  watchdog.watch({nccl.get()});
  watchdog.progress("training", 1);
  void* shard = nccl->allocate_registered(4096, "shards");
  void* full = device->allocate(4096 * static_cast<size_t>(mpi.size()));
  nccl->fence(*stream);
  for (const bool first : {true, false}) {
    const bool ahead = (mpi.rank() == 0) == first;
    nccl->all_gather_shards(*stream, shard, full, ahead ? 4096 : 1024, ahead ? "layers.0" : "layers.1");
  }
  stream->synchronize();  // returns when the watchdog takes the collective off the GPU
  nccl->fence(*stream);
  std::fprintf(stderr, "rank %d: nobody noticed\n", mpi.rank());
  mpi.abort(3);
}
