// A job in which rank 1 is killed in the middle of its collectives (run by kill_test.sh). Argument: "memfd" or "files".
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "comm/context.h"
#include "core/error.h"

int main(int argc, char** argv) {
  using namespace llmtrain;
  MpiRuntime mpi(&argc, &argv);
  NodeOptions options;
  options.anonymous_memory = argc < 2 || std::string(argv[1]) != "files";
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("reduce", true);
  auto comm = make_mpi_communicator(mpi, "reduce", options);
  const size_t count = 1 << 20;
  float* full = static_cast<float*>(comm->allocate_registered(count * sizeof(float) * static_cast<size_t>(mpi.size()), "gradients"));
  std::vector<float> shard(count);
  try {
    for (int i = 0; i < 20; ++i) {
      if (mpi.rank() == 1 && i == 10) kill(getpid(), SIGKILL);
      comm->reduce_scatter(*stream, full, shard.data(), count, true, "unit");
      stream->synchronize();
    }
  } catch (const OperationError& e) {
    std::fprintf(stderr, "rank %d: %s\n", mpi.rank(), e.what());
    mpi.abort(kExitFailed);
  }
  mpi.finalise();
  return 0;
}
