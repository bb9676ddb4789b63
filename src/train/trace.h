// Trace: what every rank did when, as a file for Perfetto (https://ui.perfetto.dev) or chrome://tracing: one JSON array of complete events
// (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU, the Trace Event Format), a process for each rank with four tracks:
// compute, gather, reduce, wait. docs/outputs.md describes the events.
//
// While the run goes on each rank keeps its own events as text, at most so many bytes that all ranks together stay below kTraceBytes; what comes after that
// is not recorded. At the end rank 0 writes the file of all ranks. The ranks' clocks begin together, at a barrier.
// Thread rules: one thread; construction and write() are collective.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/rank_group.h"
#include "device/spans.h"

namespace llmtrain {

inline constexpr size_t kTraceBytes = size_t{256} << 20;

class Trace {
 public:
  // From here on `spans` keeps what it measures. `host` names this rank's process. InputError on all ranks where the file cannot be made.
  Trace(std::string path, RankGroup& group, const std::string& host, Spans& spans, Stream& compute);
  // What comes next belongs to this step. Also takes what is complete of the steps before.
  void step(int64_t step);
  // Waits for `compute`, merges all ranks and writes the file. Returns a line for the log.
  std::string write();

 private:
  void take();
  void add(const std::string& event);

  std::string path_;
  RankGroup& group_;
  Spans& spans_;
  Stream& compute_;
  std::string text_;      // events, each with a comma and a newline behind it
  size_t most_bytes_;
  int64_t full_at_ = -1;  // the step at which there was no room left
  int64_t step_ = 0, events_ = 0;
};

}  // namespace llmtrain
