// The last collectives of a Communicator (flight_recorder.h).
#include "comm/flight_recorder.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/error.h"

namespace llmtrain {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string quoted(const char* text) {
  std::string out = "\"";
  for (; *text != '\0'; ++text) {
    const unsigned char c = static_cast<unsigned char>(*text);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += *text;
    } else if (c < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      out += code;
    } else {
      out += *text;
    }
  }
  return out + "\"";
}

std::string seconds(double t, double began) {
  if (t == 0) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.6f", t - began);
  return text;
}

}  // namespace

FlightRecorder::FlightRecorder(std::string name, int rank, size_t capacity) : name_(std::move(name)), rank_(rank), ring_(capacity), began_(now()) {
  LLMTRAIN_ASSERT(capacity > 0, "a flight recorder without room");
}

uint64_t FlightRecorder::issue(const char* operation, size_t bytes, const std::string& label) {
  std::lock_guard lock(mutex_);
  CollectiveRecord& record = ring_[++issued_ % ring_.size()];
  record = CollectiveRecord{};
  record.sequence = issued_;
  record.operation = operation;
  record.bytes = bytes;
  std::copy_n(label.begin(), std::min(label.size(), record.label.size() - 1), record.label.begin());
  record.issued = now();
  return issued_;
}

void FlightRecorder::start(uint64_t sequence) {
  std::lock_guard lock(mutex_);
  CollectiveRecord& record = ring_[sequence % ring_.size()];
  if (record.sequence == sequence) record.started = now();
}

double FlightRecorder::finish(uint64_t sequence) {
  std::lock_guard lock(mutex_);
  CollectiveRecord& record = ring_[sequence % ring_.size()];
  if (record.sequence != sequence) return 0;
  record.finished = now();
  busy_seconds_ += record.finished - record.started;
  return record.finished - record.started;
}

void FlightRecorder::finish(uint64_t sequence, double seconds) {
  std::lock_guard lock(mutex_);
  busy_seconds_ += seconds;
  CollectiveRecord& record = ring_[sequence % ring_.size()];
  if (record.sequence == sequence) record.finished = now();
}

std::vector<CollectiveRecord> FlightRecorder::records() const {
  std::lock_guard lock(mutex_);
  std::vector<CollectiveRecord> out;
  const uint64_t kept = std::min<uint64_t>(issued_, ring_.size());
  for (uint64_t s = issued_ - kept + 1; s <= issued_; ++s) out.push_back(ring_[s % ring_.size()]);
  return out;
}

uint64_t FlightRecorder::issued() const {
  std::lock_guard lock(mutex_);
  return issued_;
}

double FlightRecorder::busy_seconds() const {
  std::lock_guard lock(mutex_);
  return busy_seconds_;
}

std::string FlightRecorder::json() const {
  const std::vector<CollectiveRecord> kept = records();
  std::string out = "{\"communicator\": " + quoted(name_.c_str()) + ", \"rank\": " + std::to_string(rank_) +
                    ", \"issued\": " + std::to_string(issued()) + ", \"busy_seconds\": " + std::to_string(busy_seconds()) + ", \"collectives\": [";
  for (size_t i = 0; i < kept.size(); ++i) {
    const CollectiveRecord& r = kept[i];
    out += std::string(i == 0 ? "" : ",") + "\n  {\"sequence\": " + std::to_string(r.sequence) + ", \"operation\": " + quoted(r.operation) +
           ", \"bytes\": " + std::to_string(r.bytes) + ", \"label\": " + quoted(r.label.data()) + ", \"issued\": " + seconds(r.issued, began_) +
           ", \"started\": " + seconds(r.started, began_) + ", \"finished\": " + seconds(r.finished, began_) + ", \"state\": \"" +
           (r.finished != 0  ? "done"
            : r.started != 0 ? "running"
                             : "issued") +
           "\"}";
  }
  return out + "]}";
}

}  // namespace llmtrain
