// FlightRecorder: the last collectives of one Communicator, for the dump that explains a hang or a crash.
//
// A collective is issued (numbered, in the order in which the engine asks for it), started (its stream has come to it) and finished. A ring keeps the
// last kCapacity of them. Nothing is allocated after construction, but by records() and json().
// Thread rules: every function may be called from any thread at any time (a watchdog reads while a stream's thread writes).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace llmtrain {

struct CollectiveRecord {
  uint64_t sequence = 0;  // 1 is the first
  const char* operation = "";
  size_t bytes = 0;                              // of one rank's contribution
  std::array<char, 64> label{};                  // the unit, cut to 63 characters
  double issued = 0, started = 0, finished = 0;  // seconds on the monotonic clock; 0: not yet
};

class FlightRecorder {
 public:
  explicit FlightRecorder(std::string name, int rank, size_t capacity = 256);

  // `operation` must be a string literal. The number of the collective: 1, 2, 3 …
  uint64_t issue(const char* operation, size_t bytes, const std::string& label);
  void start(uint64_t sequence);
  // Seconds that the collective took.
  double finish(uint64_t sequence);
  // For a collective whose length was measured on the device and that was seen to be done only now.
  void finish(uint64_t sequence, double seconds);

  std::vector<CollectiveRecord> records() const;  // oldest first
  uint64_t issued() const;
  double busy_seconds() const;  // the sum over finished collectives
  // {"communicator": …, "rank": …, "issued": n, "busy_seconds": x, "collectives": [{"sequence", "operation", "bytes", "label", "issued", "started",
  // "finished", "state": "issued" | "running" | "done"}]}; times in seconds, relative to the construction.
  std::string json() const;

 private:
  mutable std::mutex mutex_;
  std::string name_;
  int rank_;
  std::vector<CollectiveRecord> ring_;
  uint64_t issued_ = 0;
  double busy_seconds_ = 0, began_;
};

}  // namespace llmtrain
