// A job of the program under mpirun that a test watches and disturbs while it runs: signals to mpirun or to single ranks.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace llmtrain::testing_support {

struct JobOptions {
  int ranks = 2;
  std::string folder;   // working directory
  std::string program;  // "": the program under test
  std::map<std::string, std::string> environment;
};

class Job {
 public:
  // Starts `mpirun -np ranks program words`.
  Job(const std::vector<std::string>& words, const JobOptions& options);
  ~Job();  // ends it with everything that belongs to it
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  pid_t launcher() const { return launcher_; }
  // The process of a rank; waits for it up to `seconds`; 0: there is none.
  pid_t rank_process(int rank, double seconds);
  // Waits for the job's end up to `seconds`: mpirun's exit code (128 + signal), -1: it still runs.
  int wait(double seconds);
  // Processes of ranks that are there (after the end: orphans).
  std::vector<pid_t> processes() const;
  double age() const;           // seconds since the start
  std::string output() const;   // stdout and stderr so far

 private:
  std::string id_, log_;
  pid_t launcher_ = 0;
  double began_ = 0;
  int exit_code_ = -1;
};

// How many times fewer processors there were than processes that wanted to run, on average over the looks; 1 at least. A job that shares its machine takes
// so much longer.
class Crowding {
 public:
  void look();
  double factor() const;

 private:
  double running_ = 0;
  int samples_ = 0;
};

double now_seconds();
void sleep_seconds(double seconds);

}  // namespace llmtrain::testing_support
