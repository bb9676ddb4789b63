// What a run does with an output folder that it may not have: used by another job, read-only, full, or under a limit of file sizes.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <thread>

#include "checkpoint/lock.h"
#include "checkpoint/resume.h"
#include "core/error.h"
#include "core/file.h"
#include "faults/io_shim.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const std::vector<std::string> kRun{"max_steps=2", "save_strategy=steps", "save_steps=1", "logging_steps=1"};

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

// The run in a process of its own, in which `prepare` was called before; nothing when `prepare` says why it cannot ("" = it could).
struct Apart {
  std::string cannot;
  RunOutcome run;
};
Apart run_apart(const std::string& output, const std::vector<std::string>& words, const std::function<std::string()>& prepare, int ranks = 2) {
  const ScratchFolder scratch;
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string cannot = prepare();
    if (!cannot.empty()) {
      write_file_atomically(scratch / "cannot", cannot);
    } else {
      const RunOutcome run = own().train(output, ranks, words);
      write_file_atomically(scratch / "code", std::to_string(run.exit_code));
      write_file_atomically(scratch / "err", run.err);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  Apart apart;
  if (is_regular_file(scratch / "cannot")) {
    apart.cannot = read_file(scratch / "cannot");
  } else {
    apart.run.exit_code = std::atoi(read_file(scratch / "code").c_str());
    apart.run.err = read_file(scratch / "err");
  }
  return apart;
}

// A tmpfs at `folder`, seen by this process and its children only.
std::string mount_here(const std::string& folder, unsigned long flags, const char* options) {
  if (::unshare(CLONE_NEWNS) != 0) return std::string("a mount namespace of its own: ") + std::strerror(errno);
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return std::string("making mounts private: ") + std::strerror(errno);
  if (::mount("tmpfs", folder.c_str(), "tmpfs", flags, options) != 0) return std::string("mounting a tmpfs: ") + std::strerror(errno);
  return "";
}

void expect_refused_before_training(const RunOutcome& run, const std::string& folder) {
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_NE(run.err.find(folder), std::string::npos) << run.err;
  EXPECT_EQ(run.err.find("set-up:"), std::string::npos) << "training had begun: " << run.err;
}

TEST(OutputFolder, ASecondJobOnItIsRefusedAndTheFirstGoesOn) {
  std::optional<RunOutcome> first;
  std::thread job([&] { first = own().train("shared", 2, {"max_steps=150", "save_strategy=steps", "save_steps=20"}); });
  for (int i = 0; i < 600 && !fs::exists(own().output("shared") + "/trainer_log.jsonl"); ++i) ::usleep(50000);
  const RunOutcome second = own().train("shared", 2, kRun);
  job.join();
  EXPECT_EQ(second.exit_code, 2) << second.err;
  EXPECT_NE(second.err.find("another job is writing into this folder"), std::string::npos) << second.err;
  EXPECT_NE(second.err.find("process"), std::string::npos) << "it says who: " << second.err;
  EXPECT_EQ(first->exit_code, 0) << first->err;
}

// The program started by a script that does `before` on rank 1.
RunOutcome train_with_rank_1(const std::string& before, const std::string& output) {
  const ScratchFolder scratch;
  const char* set = std::getenv("LLMTRAIN_TEST_BINARY");
  const std::string program = fs::absolute(set && *set ? set : LLMTRAIN_TEST_BINARY).string(), script = scratch / "start";
  write_file_atomically(script, "#!/bin/sh\nif [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then " + before + "; fi\nexec '" + program + "' \"$@\"\n");
  fs::permissions(script, fs::perms::owner_all);
  ::setenv("LLMTRAIN_TEST_BINARY", script.c_str(), 1);
  std::vector<std::string> words = kRun;
  words.push_back("tokenized_path=" + own().output("tokens"));
  const RunOutcome run = own().train(output, 2, words);
  set ? ::setenv("LLMTRAIN_TEST_BINARY", program.c_str(), 1) : ::unsetenv("LLMTRAIN_TEST_BINARY");
  return run;
}

TEST(OutputFolder, OneThatARankDoesNotShareIsRefusedWithTheRankBeforeTraining) {
  ASSERT_EQ(train_with_rank_1("true", "plain").exit_code, 0) << "the tokens are there for the others";
  const ScratchFolder other_disk;
  for (const char* name : {"model", "data", "train.yaml"}) fs::create_symlink(fs::path(own().path()) / name, other_disk / name);
  fs::create_directory(other_disk / "unshared");
  const RunOutcome unshared = train_with_rank_1("cd " + other_disk.path(), "unshared");
  expect_refused_before_training(unshared, "unshared");
  EXPECT_NE(unshared.err.find("rank 1 on "), std::string::npos) << unshared.err;
  EXPECT_NE(unshared.err.find("does not see"), std::string::npos) << unshared.err;
  for (const auto& entry : fs::directory_iterator(own().output("unshared"))) EXPECT_FALSE(entry.path().filename().string().starts_with(".seen")) << entry.path();
}

TEST(OutputFolder, OneThatARankMayNotWriteToIsRefusedWithTheRank) {
  const std::string folder = own().output("read-only-for-one");
  fs::create_directories(folder);
  if (std::system("unshare -m true 2>/dev/null") != 0) GTEST_SKIP() << "no mount namespace can be made here";
  const std::string mounted = "mount --bind '" + folder + "' '" + folder + "' && mount -o remount,ro,bind '" + folder + "'";
  const RunOutcome run = train_with_rank_1("[ -n \"$INSIDE\" ] || exec env INSIDE=1 unshare -m \"$0\" \"$@\"; " + mounted, folder);
  expect_refused_before_training(run, folder);
  EXPECT_NE(run.err.find("rank 1 on "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("may not write there"), std::string::npos) << run.err;
}

TEST(OutputFolder, TheLockDiesWithItsHolder) {
  const std::string folder = own().output("orphan");
  fs::create_directories(folder);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t holder = ::fork();
  if (holder == 0) {
    const FolderLock lock(folder);
    [[maybe_unused]] const ssize_t n = ::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THROW(FolderLock{folder}, InputError);
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  const RunOutcome run = own().train("orphan", 1, kRun);
  EXPECT_EQ(run.exit_code, 0) << run.err;
}

// As root no permission stops a write, so these are folders of the kernel in which nobody may make anything.
TEST(OutputFolder, OneThatCannotBeWrittenIsAnErrorBeforeTraining) {
  for (const std::string folder : {"/proc/sys", "/proc/llmtrain-out", "/sys/llmtrain-out"}) expect_refused_before_training(own().train(folder, 2, kRun), folder);
  own().write("a-file", "x");
  expect_refused_before_training(own().train("a-file", 2, kRun), "a-file");
}

TEST(OutputFolder, AReadOnlyFileSystemIsAnErrorBeforeTraining) {
  const std::string folder = own().output("read-only");
  fs::create_directories(folder);
  const Apart apart = run_apart(folder, kRun, [&] { return mount_here(folder, MS_RDONLY, ""); });
  if (!apart.cannot.empty()) GTEST_SKIP() << "no read-only file system can be made here: " << apart.cannot;
  expect_refused_before_training(apart.run, folder);
}

TEST(OutputFolder, AFullDiskIsAnErrorWithPathAndErrno) {
  const std::string folder = own().output("full");
  fs::create_directories(folder);
  const Apart apart = run_apart(folder, kRun, [&] { return mount_here(folder, 0, "size=300k"); });
  if (!apart.cannot.empty()) GTEST_SKIP() << "no small file system can be made here: " << apart.cannot;
  EXPECT_EQ(apart.run.exit_code, 1) << apart.run.err;
  EXPECT_NE(apart.run.err.find(std::strerror(ENOSPC)), std::string::npos) << apart.run.err;
  EXPECT_NE(apart.run.err.find(folder + "/checkpoint-"), std::string::npos) << apart.run.err;
}

TEST(OutputFolder, ALimitOfFileSizesIsAnErrorWithPathAndErrnoNotACrash) {
  const std::string folder = own().output("limited");
  const auto limit_files = [] {
    const rlimit limit{200 << 10, 200 << 10};
    return ::setrlimit(RLIMIT_FSIZE, &limit) == 0 ? std::string() : std::string(std::strerror(errno));
  };
  const Apart apart = run_apart(folder, kRun, limit_files, 0);  // without mpirun, whose own files are larger than this
  ASSERT_EQ(apart.cannot, "");
  EXPECT_EQ(apart.run.exit_code, 1) << apart.run.err;
  EXPECT_NE(apart.run.err.find(std::strerror(EFBIG)), std::string::npos) << apart.run.err;
  EXPECT_NE(apart.run.err.find("/checkpoint-1.tmp/shard-"), std::string::npos) << apart.run.err;
}

// On a large parallel file system removing a checkpoint takes its time. The other ranks wait for rank 0, and their watchdogs must not take it for hung.
TEST(OutputFolder, RemovingOldCheckpointsSlowlyIsNoHang) {
  const std::string folder = own().output("slow");
  const std::map<std::string, std::string> slow{{"LD_PRELOAD", LLMTRAIN_IO_SHIM}, {"IO_SHIM_FOLDER", fs::canonical(own().path()).string() + "/slow"}, {"IO_SHIM_PART", ".old.tmp"},
                                                {"IO_SHIM_RANK", "0"}, {"IO_SHIM_AT", "1"}, {"IO_SHIM_PERSIST", "1"}, {"IO_SHIM_ACTION", std::to_string(io_shim_delay)}, {"IO_SHIM_ERROR", "150"}};
  const std::vector<std::string> words{"max_steps=24", "save_strategy=steps", "save_steps=8", "save_total_limit=1", "hang_timeout=1"};
  const RunOutcome pruning = own().train(fs::canonical(own().path()).string() + "/slow", 2, words, slow);
  EXPECT_EQ(pruning.exit_code, 0) << pruning.err;
  const RunOutcome afresh = own().train(fs::canonical(own().path()).string() + "/slow", 2, {"max_steps=2", "overwrite_output_dir=true", "hang_timeout=1"}, slow);
  EXPECT_EQ(afresh.exit_code, 0) << afresh.err;
  EXPECT_FALSE(fs::exists(folder + "/checkpoint-24"));
  EXPECT_GT(pruning.seconds, 3) << "two checkpoints were removed, slowly: else this shows nothing";
}

}  // namespace
}  // namespace llmtrain
