// What a checkpoint costs, each figure beside what it is to be compared with, in one run:
//
//   mpirun -np 2 checkpoint_bench [FOLDER] [MB of state, all ranks together] [rounds]        default: . 400 7
//
// stall of an asynchronous save      against a plain memcpy of the same bytes into memory that was written before, on all ranks at the same time, once before and
//                                    once after each save
// digests (XXH3 and Fletcher-32)     as a share of a save, as the I/O thread takes them
// throughput of a save               against `dd bs=8M conv=fsync` of as many bytes into the same folder
// restart (digests, then HDF5 reads) against `cat` of the same files (both from the page cache, or both cold where the caches can be dropped)
//
// Medians over the rounds, whose parts take turns; of the ranks the slowest counts.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/resume.h"
#include "checkpoint/saver.h"
#include "comm/context.h"
#include "core/error.h"

using namespace llmtrain;

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double slowest(RankGroup& group, double mine) {
  std::vector<double> all(static_cast<size_t>(group.size()));
  group.all_gather(&mine, all.data(), sizeof mine);
  return *std::max_element(all.begin(), all.end());
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Seconds of a shell command on rank 0; the others wait.
double command_seconds(RankGroup& group, const std::string& command) {
  double seconds = 0;
  group.barrier();
  if (group.rank() == 0) {
    const auto begin = Clock::now();
    if (std::system(command.c_str()) != 0) throw OperationError(command + " failed");
    seconds = since(begin);
  }
  group.barrier();
  return slowest(group, seconds);
}

struct Bench {
  RankGroup& group;
  std::string folder;
  CheckpointContent content;
  std::vector<std::vector<float>> state;  // as the engine holds it
  std::vector<double> copy, stall, snapshot, write, digest, dd, restart, cat;

  size_t bytes_here() const { return state.size() * state[0].size() * sizeof(float); }

  void fill(ShardImage& image) const {
    const auto& arrays = content.units[0].arrays;
    for (size_t i = 0; i < arrays.size(); ++i) image.put(0, arrays[i].name, 0, arrays[i].shard_elements, state[i].data());
  }

  void measure_copy(std::vector<std::vector<float>>& to) {
    group.barrier();
    const auto begin = Clock::now();
    for (size_t i = 0; i < state.size(); ++i) std::memcpy(to[i].data(), state[i].data(), state[i].size() * sizeof(float));
    copy.push_back(slowest(group, since(begin)));
  }

  void measure_save(CheckpointSaver& saver, int64_t step) {
    double filled = 0;
    group.barrier();
    const auto take = [&](ShardImage& image) {
      const auto begin = Clock::now();
      fill(image);
      filled = since(begin);
    };
    saver.start(step, take, Json::object(), {});
    stall.push_back(slowest(group, saver.last().stall_seconds));  // before poll and finish add to it
    snapshot.push_back(slowest(group, filled));
    while (saver.under_way() && !saver.poll()) ::usleep(2000);
    write.push_back(slowest(group, saver.last().write_seconds));
    digest.push_back(slowest(group, saver.last().digest_seconds));
  }

  void measure_restart(const std::string& checkpoint, bool cold) {
    const std::string drop = cold ? "sync; echo 3 > /proc/sys/vm/drop_caches" : "true";
    command_seconds(group, drop);
    cat.push_back(command_seconds(group, "cat '" + checkpoint + "'/* > /dev/null"));
    command_seconds(group, drop);
    group.barrier();
    const auto begin = Clock::now();
    const FoundCheckpoint found = open_checkpoint(checkpoint, group);
    CheckpointReader reader(found.folder, found.manifest);
    const StoredUnit& unit = found.manifest.content.units[0];
    for (size_t i = 0; i < state.size(); ++i) reader.read(unit, unit.arrays[i], group.rank() * unit.arrays[i].shard_elements, unit.arrays[i].shard_elements, state[i].data());
    restart.push_back(slowest(group, since(begin)));
  }
};

CheckpointContent content_of(int64_t elements, int world) {
  CheckpointContent content;
  content.world = world;
  StoredUnit unit;
  unit.name = "unit";
  unit.tensors.push_back({"weight", {elements * world}, true, 0});
  for (const char* name : {"weight", "adam_m", "adam_v"}) unit.arrays.push_back({name, DType::float32, true, elements});
  content.units.push_back(unit);
  return content;
}

void run(RankGroup& group, const std::string& base, int megabytes, int rounds) {
  const int64_t elements = int64_t{megabytes} * 1000000 / 12 / group.size();
  Bench b{group, base + "/checkpoint-bench", content_of(elements, group.size()), {}, {}, {}, {}, {}, {}, {}, {}, {}};
  for (int i = 0; i < 3; ++i) {
    b.state.emplace_back(static_cast<size_t>(elements));
    for (int64_t e = 0; e < elements; ++e) b.state.back()[static_cast<size_t>(e)] = static_cast<float>((e * 2654435761u + static_cast<unsigned>(i)) % 1000003);
  }
  std::vector<std::vector<float>> copied(3, std::vector<float>(static_cast<size_t>(elements), 1.0f));
  if (group.rank() == 0) std::filesystem::create_directories(b.folder);
  group.barrier();
  Log log{group.rank(), group.rank() == 0};
  const bool cold = ::access("/proc/sys/vm/drop_caches", W_OK) == 0 && std::getenv("COLD");
  {
    CheckpointSaver saver({b.folder, "bench", "bench", true, 1}, b.content, group, log);
    for (int round = 0; round < rounds; ++round) {
      b.measure_copy(copied);
      b.measure_save(saver, round + 1);
      b.measure_copy(copied);
      b.dd.push_back(command_seconds(group, "dd if=/dev/zero of='" + b.folder + "/dd' bs=8M count=" + std::to_string(megabytes * 1000000 / (8 << 20) + 1) +
                                                " conv=fsync 2>/dev/null; rm '" + b.folder + "/dd'"));
    }
  }
  for (int round = 0; round < rounds; ++round) b.measure_restart(b.folder + "/checkpoint-" + std::to_string(rounds), cold);
  if (group.rank() == 0) {
    std::filesystem::remove_all(b.folder);
    const double mb = static_cast<double>(b.bytes_here()) * group.size() / 1e6;
    std::printf("%.0f MB of state on %d ranks, median of %d\n", mb, group.size(), rounds);
    std::printf("stall of an asynchronous save %.1f ms (the snapshot %.1f ms of it), memcpy of the same bytes %.1f ms: ratio %.3f\n", median(b.stall) * 1e3,
                median(b.snapshot) * 1e3, median(b.copy) * 1e3, median(b.stall) / median(b.copy));
    std::printf("digests %.1f ms of a save of %.1f ms: %.1f %%\n", median(b.digest) * 1e3, median(b.write) * 1e3, 100 * median(b.digest) / median(b.write));
    std::printf("save %.0f MB/s, dd with fsync %.0f MB/s: ratio %.2f\n", mb / median(b.write), mb / median(b.dd), median(b.dd) / median(b.write));
    std::printf("restart %.0f ms, cat %.0f ms (%s cache): ratio %.2f\n", median(b.restart) * 1e3, median(b.cat) * 1e3, cold ? "cold" : "warm", median(b.restart) / median(b.cat));
  }
}

}  // namespace

int main(int argc, char** argv) {
  MpiRuntime mpi(&argc, &argv);
  const auto group = make_rank_group(mpi);
  int code = 0;
  try {
    run(*group, argc > 1 ? argv[1] : ".", argc > 2 ? std::atoi(argv[2]) : 400, argc > 3 ? std::atoi(argv[3]) : 7);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    code = 1;
  }
  if (code != 0) mpi.abort(code);
  mpi.finalise();
  return 0;
}
