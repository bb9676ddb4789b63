// App: what main() hands to every command.
#pragma once

#include <string>
#include <vector>

#include "core/log.h"

namespace llmtrain {

struct App {
  Log log;                // on stderr; only the rank that speaks writes
  int launcher_rank = 0;  // as mpirun or srun set it in the environment; 0 without a launcher. Known before MPI is initialised
  bool speaks() const { return launcher_rank == 0; }
  // Results for people and scripts: to stdout, on the rank that speaks only.
  void print(const std::string& text) const;
};

// The rank that the launcher (Open MPI, PMIx, Slurm) gave this process; 0 if there is none.
int rank_of_launcher();

// Runs the program: picks the command, turns errors into one message on stderr and an exit code (core/error.h).
int run_app(const std::vector<std::string>& words, App& app);

}  // namespace llmtrain
