// main() of the fault tests: the program runs under the I/O shim.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "faults/forked_ranks.h"

int main(int argc, char** argv) {
  llmtrain::testing_support::need_io_shim(argv);
  ::unsetenv("LD_PRELOAD");  // not for the programs that the tests start
  // What fails is injected, and SIGKILL leaves the page cache as it is: a disk would only make thousands of saves slow.
  if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 0);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
