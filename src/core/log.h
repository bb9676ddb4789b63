// Progress and messages for people, on stderr. Under MPI one rank speaks: the others are made silent and only their warnings
// to_all() come through, with their rank. Thread-safe: a line is written by one call.
#pragma once

#include <mutex>
#include <set>
#include <string>

namespace llmtrain {

class Log {
 public:
  explicit Log(int rank = 0, bool speaks = true) : rank_(rank), speaks_(speaks) {}
  void set_rank(int rank, bool speaks) {
    rank_ = rank;
    speaks_ = speaks;
  }
  void set_quiet(bool quiet) { quiet_ = quiet; }  // only warnings
  bool speaks() const { return speaks_; }
  int rank() const { return rank_; }

  void info(const std::string& line);
  void warn(const std::string& line);
  void warn_once(const std::string& line);         // the same text is written once in a run
  void warn_all_ranks(const std::string& line);    // written by whichever rank calls it, with its rank
  // Replaces the current terminal line by a progress bar; `finished` ends it with a newline.
  void bar(const std::string& line, bool finished);

 private:
  void write(const std::string& line);
  std::mutex mutex_;
  std::set<std::string> said_;
  bool bar_open_ = false;
  int rank_;
  bool speaks_;
  bool quiet_ = false;
};

}  // namespace llmtrain
