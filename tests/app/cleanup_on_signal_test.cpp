// What a command would leave behind is removed when a signal ends it, and the process still ends by that signal.
#include "app/cleanup_on_signal.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::ScratchFolder;

// How a child ends that holds `folder` when it gets `number`; `ignored`: it began with the signal ignored, as under nohup, and leaves by itself.
int status_of_child(const std::string& folder, int number, bool ignored) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(number, ignored ? SIG_IGN : SIG_DFL);
    const CleanupOnSignal cleanup([&folder] {
      std::error_code error;
      std::filesystem::remove_all(folder, error);
    });
    ::kill(::getpid(), number);
    if (!ignored) ::sleep(20);
    ::_exit(3);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(CleanupOnSignal, RemovesAndEndsByTheSignal) {
  const ScratchFolder scratch;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    const std::string folder = scratch / std::to_string(number);
    std::filesystem::create_directories(folder + "/inside");
    const int status = status_of_child(folder, number, false);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == number) << "signal " << number << ", status " << status;
    EXPECT_FALSE(std::filesystem::exists(folder)) << number;
  }
}

TEST(CleanupOnSignal, AnIgnoredSignalStaysIgnored) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "kept";
  std::filesystem::create_directories(folder);
  const int status = status_of_child(folder, SIGHUP, true);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status;
  EXPECT_TRUE(std::filesystem::exists(folder));
}

TEST(CleanupOnSignal, TheOldActionsComeBack) {
  struct sigaction before {}, after {};
  ::sigaction(SIGTERM, nullptr, &before);
  { const CleanupOnSignal cleanup([] {}); }
  ::sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

}  // namespace
}  // namespace llmtrain
