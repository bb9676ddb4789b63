// MPI as the launcher started it, and the group of ranks that agree on host values (context.h).
#include <mpi.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "comm/context.h"
#include "comm/flight_recorder.h"
#include "comm/mpi/mpi_calls.h"
#include "core/error.h"

namespace llmtrain {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int slurm_tasks() {
  if (environment("SLURM_STEP_ID").empty()) return 1;  // a batch script's own processes are not started by srun
  const std::string step = environment("SLURM_STEP_NUM_TASKS");
  return std::atoi((step.empty() ? environment("SLURM_NTASKS") : step).c_str());
}

bool mpi_launched() { return !environment("OMPI_COMM_WORLD_SIZE").empty() || !environment("PMIX_RANK").empty() || !environment("PMI_RANK").empty(); }

class MpiRankGroup final : public RankGroup {
 public:
  explicit MpiRankGroup(const MpiRuntime& mpi)
      : rank_(mpi.rank()), size_(mpi.size()), comm_(MpiGroup::duplicate(MPI_COMM_WORLD)), recorder_("group", mpi.rank(), 32) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override {
    recorded("barrier", 0, [&] { check_mpi(MPI_Barrier(comm_.get()), "MPI_Barrier"); });
  }
  void all_gather(const void* mine, void* all, size_t bytes_each) override {
    recorded("all_gather", bytes_each, [&] { all_gather_any_size(comm_.get(), size_, mine, all, bytes_each); });
  }
  void broadcast(void* data, size_t bytes, int root) override {
    recorded("broadcast", bytes, [&] { broadcast_any_size(comm_.get(), data, bytes, root); });
  }
  const FlightRecorder& recorder() const { return recorder_; }

 private:
  template <class Work>
  void recorded(const char* operation, size_t bytes, Work work) {
    const uint64_t sequence = recorder_.issue(operation, bytes, "");
    recorder_.start(sequence);
    work();
    recorder_.finish(sequence);
  }

  int rank_, size_;
  MpiGroup comm_;
  FlightRecorder recorder_;
};

}  // namespace

MpiRuntime::MpiRuntime(int* argc, char*** argv, bool always) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  host_ = host.data();
  int initialized = 0, provided = MPI_THREAD_SINGLE;
  MPI_Initialized(&initialized);
  if (!initialized) {
    if (!always && !mpi_launched() && slurm_tasks() <= 1) return;
    check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
    started_here_ = true;
  } else {
    MPI_Query_thread(&provided);
  }
  active_ = true;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (provided < MPI_THREAD_MULTIPLE) throw OperationError("MPI_Init_thread: this MPI was built without MPI_THREAD_MULTIPLE, which llmtrain needs");
  if (size_ == 1 && !mpi_launched() && slurm_tasks() > 1) {
    // Every task would train by itself and write over the others' output.
    throw InputError("srun", "started " + std::to_string(slurm_tasks()) + " tasks, but MPI does not see the others",
                     "start with: srun --mpi=pmix … (srun --mpi=list shows what this Slurm can do)");
  }
}

MpiRuntime::~MpiRuntime() = default;

void MpiRuntime::finalise() {
  int finalized = 0;
  if (active_) MPI_Finalized(&finalized);
  if (active_ && started_here_ && !finalized) check_mpi(MPI_Finalize(), "MPI_Finalize");
  active_ = false;
}

void MpiRuntime::abort(int exit_code) {
  std::fflush(nullptr);
  if (active_ && size_ > 1) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::unique_ptr<RankGroup> make_rank_group(MpiRuntime& mpi) {
  if (!mpi.active() || mpi.size() == 1) return std::make_unique<SoloGroup>();
  return std::make_unique<MpiRankGroup>(mpi);
}

const FlightRecorder* flight_recorder_of(const RankGroup& group) {
  const auto* over_mpi = dynamic_cast<const MpiRankGroup*>(&group);
  return over_mpi ? &over_mpi->recorder() : nullptr;
}

}  // namespace llmtrain
