// Runs of the program itself under mpirun, and what they wrote: for end-to-end tests.
//
// Taken from the environment where it says so, so that a bundle of the tests can be moved (else from this build):
//   LLMTRAIN_TEST_BINARY    the program
//   LLMTRAIN_TEST_MPIEXEC   mpirun
//   LLMTRAIN_TEST_DEVICE    cuda: `train` gets device=cuda use_cpu=false, and on several ranks communicator=staged, as they share one GPU, or
//   LLMTRAIN_TEST_COMMUNICATOR
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "support/shared.h"

namespace llmtrain::testing_support {

struct RunOptions {
  int ranks = 1;                          // 0: without mpirun
  std::string folder;                     // working directory
  std::map<std::string, std::string> environment;
  std::string input;                      // stdin
  std::string wrapper;                    // a shell script that starts the program on each rank: its arguments are the command
  double limit_seconds = 240;
};

struct RunOutcome {
  int exit_code = -1;
  double seconds = 0;
  std::string out, err;
};

// LLMTRAIN_TEST_DEVICE is cuda.
bool on_gpu();

// `llmtrain` with these words.
RunOutcome run_llmtrain(const std::vector<std::string>& words, const RunOptions& options);

// A folder that looks like shared/compat, with everything linked; a tokenizer file that a copy of the data turned from a link into its text is linked
// to what it names. Removed at the end.
class CompatFolder {
 public:
  CompatFolder();
  const std::string& path() const { return scratch_.path(); }

 private:
  ScratchFolder scratch_;
};

// The worst relative differences of a run from a golden one, by the rules of shared/tools/compare_run.py, and the first value out of tolerance ("" =
// none).
struct Comparison {
  std::map<std::string, double> worst;
  std::string first_out;
  std::string text() const;
};
struct Tolerances {
  double loss = 2e-5, norm = 2e-4, rate = 1e-6;
  bool epochs = true;  // compare epoch fractions (they depend on how rows are dealt to ranks)
};
Comparison compare_run(const std::string& expected_json, const std::string& output_dir, const Tolerances& tolerances);

// loss and grad_norm of each logged step as written (all digits), and the bytes of the exported weights: equal only if two runs are equal bit for
// bit.
std::string bits_of_run(const std::string& output_dir);

// How often `part` stands in `text`.
size_t count_of(const std::string& text, const std::string& part);

// The logged values of one key by step.
std::map<int64_t, double> logged(const std::string& output_dir, const std::string& key);

}  // namespace llmtrain::testing_support
