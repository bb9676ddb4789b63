// The two kinds of error that a person can meet, and the assertion for what must never happen.
//
// InputError      wrong input from a person: a key, a file, a flag. Exit code 2, nothing changed. Says what, where and what to do.
// OperationError  an operation failed: I/O, MPI, CUDA, NCCL. Exit code 1. Says which call, on which rank and host.
// LLMTRAIN_ASSERT a broken invariant of the program itself: aborts with the place.
// NotHere         the command cannot run on this machine (no GPU, no Slurm): exit code 77.
//
// Thread rules: plain exceptions; one that leaves a worker thread must be carried to the main thread with std::exception_ptr.
#pragma once

#include <stdexcept>
#include <string>

namespace llmtrain {

class InputError : public std::runtime_error {
 public:
  explicit InputError(const std::string& message) : std::runtime_error(message) {}
  // `where` is a file, a file:line or a key; `what` the fault; `advice` what the person can do (may be empty).
  InputError(const std::string& where, const std::string& what, const std::string& advice = "")
      : std::runtime_error(where + ": " + what + (advice.empty() ? "" : "\n  " + advice)) {}
};

class OperationError : public std::runtime_error {
 public:
  explicit OperationError(const std::string& message) : std::runtime_error(message) {}
};

// The operation failed on another rank, or that rank has ended: this one has only heard of it. The text is that of the rank that failed.
class PeerFailure : public OperationError {
 public:
  using OperationError::OperationError;
};

// Every rank fails with this same text at the same place (a decision from a reduced value): only rank 0 says it.
class FailureOfAll : public OperationError {
 public:
  using OperationError::OperationError;
};

class NotHere : public std::runtime_error {
 public:
  explicit NotHere(const std::string& message) : std::runtime_error(message) {}
};

// Exit codes that people and scripts rely on (docs/cli.md).
enum ExitCode : int { kExitDone = 0, kExitFailed = 1, kExitInput = 2, kExitNotHere = 77, kExitStopped = 85 };

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line, const std::string& detail);

// OperationError with errno's text: "open /a/b: No space left on device (errno 28)".
[[noreturn]] void throw_errno(const std::string& call, const std::string& path, int error_number);

}  // namespace llmtrain

#define LLMTRAIN_ASSERT(expression, detail)                                                  \
  do {                                                                                       \
    if (!(expression)) ::llmtrain::assertion_failed(#expression, __FILE__, __LINE__, detail); \
  } while (0)
