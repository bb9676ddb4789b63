// What a person sees while a run goes on: a bar on a terminal, else one line per logging step.
//
// Under mpirun a rank's stderr is a pipe even on a terminal, so whether and how wide a bar may be drawn is read from the launcher's own stderr
// (/proc/<parent>/fd/2). Thread rules: one thread, on the rank that speaks.
#pragma once

#include <cstdint>
#include <string>

#include "core/log.h"

namespace llmtrain {

enum class ProgressKind { automatic, bar, lines };
// "auto", "bar", "lines"; InputError naming the key `progress`.
ProgressKind parse_progress(const std::string& text);

// Columns of the terminal that a person looks at, 0 where there is none. `launched`: started by mpirun or srun.
int terminal_columns(bool launched);

// "1:02:03" as Python's timedelta prints whole seconds ("2 days, 1:02:03").
std::string duration_text(double seconds);
// "950", "12.3k", "4.5M"
std::string short_number(double value);

class Progress {
 public:
  Progress(Log& log, ProgressKind kind, bool launched, int64_t total_steps);

  struct State {
    int64_t step = 0;
    double epoch = 0, loss = 0, tokens_per_second = 0, elapsed_seconds = 0, remaining_seconds = 0;
  };
  bool draws_bar() const { return columns_ > 0; }
  void update(const State& state);                              // bar: redrawn, at most ten times a second
  void line(const State& state, const std::string& more);       // lines: written; bar: redrawn
  void finish();

 private:
  std::string bar_text(const State& state) const;
  Log& log_;
  int columns_ = 0;
  int64_t total_;
  double drawn_at_ = -1;
  bool open_ = false;
  State last_;
};

}  // namespace llmtrain
