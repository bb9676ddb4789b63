// The lock of an output folder on file systems that have none: flock() is replaced for the whole of this test program.
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "checkpoint/lock.h"
#include "support/shared.h"
#include "core/error.h"

namespace {
int flock_fails_with = 0;  // 0: the kernel's own answer
}

extern "C" int flock(int fd, int operation) noexcept {
  if (flock_fails_with == 0) return static_cast<int>(::syscall(SYS_flock, fd, operation));
  errno = flock_fails_with;
  return -1;
}

namespace llmtrain {
namespace {

using namespace testing_support;

TEST(Lock, WhereTheFileSystemHasNoneTheRunGoesOnAndKnowsWhy) {
  const ScratchFolder scratch;
  for (const int error : {ENOSYS, EOPNOTSUPP, ENOLCK}) {
    flock_fails_with = error;
    const FolderLock lock(scratch.path()), second(scratch.path());
    flock_fails_with = 0;
    EXPECT_EQ(lock.unlocked(), std::strerror(error));
    FolderLock moved;
    moved = FolderLock(scratch.path());
    EXPECT_EQ(moved.unlocked(), "") << "a lock that is held";
  }
  flock_fails_with = EIO;
  EXPECT_THROW(FolderLock{scratch.path()}, OperationError) << "a failure is not the absence of locks";
  flock_fails_with = 0;
}

}  // namespace
}  // namespace llmtrain
