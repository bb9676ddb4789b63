// Spans: how long stretches of streams took, found without waiting for any of them. A span is two TimePoints around what a stream is given; its length
// is looked up later, once the stream has passed both. On the CPU that is the steady clock, on a GPU it is events, so that a wait is measured where it
// happens (on the compute stream) and not on the host, which runs ahead.
//
// Always on for the waits (their sums are the exposed communication of a step); everything else is recorded where somebody asks for it: sums by name of
// what was computed (bench --breakdown), and single spans for a trace.
// Cost: two TimePoints a span (CPU: 0.1 us; GPU: two events) and what collect() does: one query for the oldest open span of each kind.
// Thread rules: one thread, the one that feeds the streams.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"

namespace llmtrain {

enum class SpanKind { compute, gather, reduce, wait_gather, wait_reduce };
inline constexpr size_t kSpanKinds = 5;

struct DeviceSpan {
  SpanKind kind = SpanKind::compute;
  std::string name, unit;           // "rms_norm_forward", "layers.3"
  int64_t step = 0;                 // as set_step() said when it began
  size_t bytes = 0;                 // moved by this rank's collective; 0 for computing
  double begin = 0, seconds = 0;    // begin: after the origin of keep()
};

struct SpanTotal {
  double seconds = 0;
  int64_t calls = 0;
};

class Spans {
 public:
  explicit Spans(Device& device) : device_(device) {}

  // A stretch of `stream` that begins here; the number is for end(). `bytes`: what a collective moves.
  uint64_t begin(Stream& stream, SpanKind kind, std::string_view name, size_t bytes = 0);
  void end(uint64_t span, Stream& stream);

  // Sums by name of compute spans from here on.
  void count_by_name(bool on) { by_name_on_ = on; }
  // Single spans from here on, for take(); times are after this moment of `stream`, which is waited for.
  void keep(Stream& stream);
  void stop_keeping() { origin_.reset(); }
  bool keeps() const { return origin_ != nullptr; }
  // The spans that begin from here on belong to this step, to this unit. set_step() also takes a new point of reference on the stream, as devices
  // measure long distances less exactly than short ones.
  void set_step(Stream& stream, int64_t step);
  void set_unit(std::string_view unit) {
    if (origin_) unit_ = unit;
  }

  // Looks up what has been reached since; waits for nothing.
  void collect();
  double seconds(SpanKind kind) const { return totals_[static_cast<size_t>(kind)].seconds; }
  const std::map<std::string, SpanTotal>& by_name() const { return by_name_; }
  void reset_names() { by_name_.clear(); }
  // What was kept and is complete, in the order of its ends within a kind.
  std::vector<DeviceSpan> take();

 private:
  struct Origin {
    std::unique_ptr<TimePoint> point;
    std::shared_ptr<Origin> before;  // until `seconds` is known
    double seconds = 0;              // after the first origin
  };
  struct Open {
    uint64_t number = 0;
    DeviceSpan span;
    std::unique_ptr<TimePoint> begin, end;  // end: none until end()
    std::shared_ptr<Origin> origin;
  };
  std::unique_ptr<TimePoint> point();
  static bool known(Origin& origin);
  bool resolve(Open& open);

  Device& device_;
  std::array<std::deque<Open>, kSpanKinds> open_;  // oldest first
  std::vector<std::unique_ptr<TimePoint>> unused_;
  std::array<SpanTotal, kSpanKinds> totals_{};
  std::map<std::string, SpanTotal> by_name_;
  std::vector<DeviceSpan> kept_;
  std::shared_ptr<Origin> origin_;
  std::string unit_;
  int64_t step_ = 0;
  uint64_t numbers_ = 0;
  bool by_name_on_ = false;
};

// A span around a block; `spans` may be null.
class SpanScope {
 public:
  SpanScope(Spans* spans, Stream& stream, SpanKind kind, std::string_view name, size_t bytes = 0) : spans_(spans), stream_(stream) {
    if (spans_) number_ = spans_->begin(stream, kind, name, bytes);
  }
  ~SpanScope();
  SpanScope(const SpanScope&) = delete;
  SpanScope& operator=(const SpanScope&) = delete;

 private:
  Spans* spans_;
  Stream& stream_;
  uint64_t number_ = 0;
};

}  // namespace llmtrain
