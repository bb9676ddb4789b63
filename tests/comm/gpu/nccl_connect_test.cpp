// What of NCCL can be tried without a GPU: its version, and that a start that fails ends in one clear error, in time.
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "comm/nccl/nccl_communicator.h"
#include "comm/nccl/nccl_connect.h"
#include "core/error.h"

namespace llmtrain::cuda {
namespace {

TEST(Nccl, VersionIsThatOfTheHeader) {
  EXPECT_EQ(nccl_version(), "NCCL " + std::to_string(NCCL_MAJOR) + "." + std::to_string(NCCL_MINOR) + "." + std::to_string(NCCL_PATCH));
}

TEST(Nccl, ErrorsNameTheCallAndWhatWentWrong) {
  EXPECT_NO_THROW(check_nccl(ncclSuccess, "ncclAllGather", nullptr));
  EXPECT_NO_THROW(check_nccl(ncclInProgress, "ncclAllGather", nullptr));
  try {
    check_nccl(ncclInvalidArgument, "ncclAllGather", nullptr);
    FAIL() << "nothing was thrown";
  } catch (const OperationError& e) {
    EXPECT_NE(std::string(e.what()).find("ncclAllGather: invalid argument"), std::string::npos) << e.what();
  }
}

TEST(Nccl, StartWithoutThatGpuFailsWithOneErrorInTime) {
  SoloGroup group;
  NcclOptions options;
  options.timeout_seconds = 5;
  const auto begin = std::chrono::steady_clock::now();
  try {
    connect_nccl(group, 4711, "gather", options);
    FAIL() << "nothing was thrown";
  } catch (const OperationError& e) {
    EXPECT_NE(std::string(e.what()).find("cudaSetDevice"), std::string::npos) << e.what();
  }
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 20);
  EXPECT_STREQ(std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT"), "1");
}

}  // namespace
}  // namespace llmtrain::cuda
