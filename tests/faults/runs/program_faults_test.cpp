// The program itself under the I/O shim: a run of two ranks whose save at step 4 fails, is interrupted or is killed ends with an error that says why (or goes
// on), and the same command started again ends with the bits of the undisturbed run.
//
// LLMTRAIN_FAULTS_FULL: every I/O call of the save (make test-slow); otherwise a few.
#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "checkpoint/resume.h"
#include "core/error.h"
#include "core/file.h"
#include "faults/io_shim.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using Environment = std::map<std::string, std::string>;

const std::vector<std::string> kRun{"max_steps=6", "save_strategy=steps", "save_steps=2", "save_total_limit=2", "logging_steps=1"};
constexpr const char* kSave = "checkpoint-4";  // the save that is disturbed: paths that contain this

struct Scene {
  OwnModel model;
  std::string undisturbed;
  long calls[2] = {};
};

Environment shim(const std::string& output, int rank, long at, int action, int error) {
  const char* asan = std::getenv("ASAN_OPTIONS");
  return {{"LD_PRELOAD", LLMTRAIN_IO_SHIM},
          {"ASAN_OPTIONS", (asan ? std::string(asan) + ":" : std::string()) + "verify_asan_link_order=0"},
          {"IO_SHIM_FOLDER", fs::canonical(fs::path(output).parent_path()).string() + "/" + fs::path(output).filename().string()},
          {"IO_SHIM_PART", kSave},
          {"IO_SHIM_RANK", std::to_string(rank)},
          {"IO_SHIM_AT", std::to_string(at)},
          {"IO_SHIM_ACTION", std::to_string(action)},
          {"IO_SHIM_ERROR", std::to_string(error)},
          {"IO_SHIM_REPORT", output + ".report"}};
}

// The undisturbed run, and how many I/O calls its save makes on each rank.
Scene& scene() {
  static Scene* const made = [] {
    auto* s = new Scene;
    for (int rank = 0; rank < 2; ++rank) {
      const std::string name = "count" + std::to_string(rank);
      fs::create_directories(s->model.output(name));
      // Relative in the configuration, absolute here: the program is given the absolute one so that the shim sees the same paths.
      const RunOutcome run = s->model.train(s->model.output(name), 2, kRun, shim(s->model.output(name), rank, 0, io_shim_count, 0));
      EXPECT_EQ(run.exit_code, 0) << run.err;
      s->calls[rank] = std::atol(read_file(s->model.output(name) + ".report").c_str());
      EXPECT_GT(s->calls[rank], 3);
    }
    s->undisturbed = bits_of_run(s->model.output("count0"));
    return s;
  }();
  return *made;
}

struct Tally {
  int injections = 0, refused = 0, survived = 0, killed = 0;
};

// One disturbed run, what it left, and the run after it.
void disturb(int rank, long at, int action, int error, Tally& tally) {
  const std::string output = scene().model.output("disturbed");
  fs::remove_all(output);
  fs::create_directories(output);
  const std::string what = "rank " + std::to_string(rank) + ", call " + std::to_string(at) + " of " + std::to_string(scene().calls[rank]) + ", action " +
                           std::to_string(action) + ", errno " + std::to_string(error);
  const RunOutcome run = scene().model.train(output, 2, kRun, shim(output, rank, at, action, error));
  ++tally.injections;
  SoloGroup solo;
  Log log{0, false};
  const auto found = find_checkpoint(output, solo, log);
  ASSERT_TRUE(found.has_value()) << what;
  EXPECT_GE(found->manifest.step, 2) << what;
  if (run.exit_code == 0) {
    ++tally.survived;
    EXPECT_EQ(bits_of_run(output), scene().undisturbed) << what;
    return;
  }
  if (action == io_shim_error) {
    EXPECT_NE(error, EINTR) << what << run.err;
    EXPECT_EQ(run.exit_code, 1) << what << run.err;
    EXPECT_NE(run.err.find(std::strerror(error)), std::string::npos) << what << run.err;
    EXPECT_NE(run.err.find(output), std::string::npos) << what << run.err;
    ++tally.refused;
  } else {
    EXPECT_GE(action, static_cast<int>(io_shim_kill_before)) << what << run.err;
    ++tally.killed;
  }
  const RunOutcome again = scene().model.train(output, 2, kRun);
  EXPECT_EQ(again.exit_code, 0) << what << again.err;
  EXPECT_NE(again.err.find("resuming from"), std::string::npos) << what << again.err;
  EXPECT_EQ(bits_of_run(output), scene().undisturbed) << what;
}

TEST(ProgramFaults, ADisturbedSaveEndsWithAReasonAndTheNextRunEndsWithTheSameBits) {
  const bool full = std::getenv("LLMTRAIN_FAULTS_FULL") != nullptr;
  Tally tally;
  for (int rank = 0; rank < 2; ++rank) {
    const long calls = scene().calls[rank];
    for (long k = 1; k <= calls; ++k) {
      if (full || k == calls / 2) {
        disturb(rank, k, io_shim_error, rank == 0 ? ENOSPC : EIO, tally);
        disturb(rank, k, rank == 0 ? io_shim_kill_before : io_shim_kill_half, 0, tally);
      }
      if (full) disturb(rank, k, io_shim_kill_after, 0, tally);
    }
  }
  disturb(1, 2, io_shim_short, 0, tally);
  disturb(1, 2, io_shim_error, EINTR, tally);
  std::printf("%d disturbed saves of the program (%ld I/O calls on rank 0, %ld on rank 1): %d ended with path and errno, %d killed, %d went on; each next run ended with the same bits\n",
              tally.injections, scene().calls[0], scene().calls[1], tally.refused, tally.killed, tally.survived);
}

}  // namespace
}  // namespace llmtrain
