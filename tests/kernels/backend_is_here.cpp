// Before the first test: says why and ends with 77 where the backend that was asked for cannot be had.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "support/backend.h"

namespace llmtrain::testing_support {
namespace {

class BackendIsHere : public testing::Environment {
 public:
  void SetUp() override {
    try {
      TestBackend::get();
    } catch (const NotHere& missing) {
      std::printf("SKIPPED: kernels on the GPU: %s\n", missing.what());
      std::fflush(stdout);
      std::_Exit(kExitNotHere);
    }
  }
};

[[maybe_unused]] const auto* const environment = testing::AddGlobalTestEnvironment(new BackendIsHere);

}  // namespace
}  // namespace llmtrain::testing_support
