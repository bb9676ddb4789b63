// Deadline: ends the process with a message unless what it guards is done in time. For the calls that may wait for ever for a rank that is stopped, and
// that cannot be interrupted: MPI_Init and MPI_Finalize. A thread of its own that makes no MPI call.
// Thread rules: construct and destroy on one thread.
#pragma once

#include <memory>
#include <string>

namespace llmtrain {

class Deadline {
 public:
  // `what` for the message: "MPI_Init".
  Deadline(double seconds, const std::string& what);
  ~Deadline();  // in time
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmtrain
