// Spans over TimePoints (spans.h).
#include "device/spans.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/error.h"

namespace llmtrain {

std::unique_ptr<TimePoint> Spans::point() {
  if (unused_.empty()) return device_.make_time_point();
  std::unique_ptr<TimePoint> point = std::move(unused_.back());
  unused_.pop_back();
  return point;
}

uint64_t Spans::begin(Stream& stream, SpanKind kind, std::string_view name, size_t bytes) {
  Open open;
  open.number = ++numbers_;
  open.span.kind = kind;
  open.span.bytes = bytes;
  if (origin_ || (by_name_on_ && kind == SpanKind::compute)) open.span.name = name;
  if (origin_) {
    open.span.unit = unit_;
    open.span.step = step_;
    open.origin = origin_;
  }
  open.begin = point();
  open.begin->record(stream);
  open_[static_cast<size_t>(kind)].push_back(std::move(open));
  return numbers_;
}

void Spans::end(uint64_t span, Stream& stream) {
  for (std::deque<Open>& kind : open_) {
    for (auto open = kind.rbegin(); open != kind.rend() && open->number >= span; ++open) {
      if (open->number != span) continue;
      open->end = point();
      open->end->record(stream);
      return;
    }
  }
  assertion_failed("an open span", __FILE__, __LINE__, "a span was ended that had not begun");
}

void Spans::keep(Stream& stream) {
  origin_ = std::make_shared<Origin>();
  origin_->point = device_.make_time_point();
  origin_->point->record(stream);
  stream.synchronize();
  kept_.clear();
}

void Spans::set_step(Stream& stream, int64_t step) {
  step_ = step;
  if (!origin_) return;
  auto next = std::make_shared<Origin>();
  next->point = device_.make_time_point();
  next->point->record(stream);
  next->before = std::exchange(origin_, next);
}

bool Spans::known(Origin& origin) {
  if (!origin.before) return true;
  if (!origin.point->reached() || !known(*origin.before)) return false;
  origin.seconds = origin.before->seconds + origin.point->seconds_after(*origin.before->point);
  origin.before.reset();
  return true;
}

bool Spans::resolve(Open& open) {
  if (!open.end || !open.end->reached() || !open.begin->reached() || (open.origin && !known(*open.origin))) return false;
  DeviceSpan& span = open.span;
  span.seconds = std::max(0.0, open.end->seconds_after(*open.begin));
  SpanTotal& total = totals_[static_cast<size_t>(span.kind)];
  total.seconds += span.seconds;
  ++total.calls;
  if (by_name_on_ && span.kind == SpanKind::compute) {
    SpanTotal& of_name = by_name_[span.name];
    of_name.seconds += span.seconds;
    ++of_name.calls;
  }
  if (open.origin) {
    span.begin = open.origin->seconds + open.begin->seconds_after(*open.origin->point);
    kept_.push_back(std::move(span));
  }
  unused_.push_back(std::move(open.begin));
  unused_.push_back(std::move(open.end));
  return true;
}

void Spans::collect() {
  for (std::deque<Open>& kind : open_)
    while (!kind.empty() && resolve(kind.front())) kind.pop_front();
}

std::vector<DeviceSpan> Spans::take() {
  collect();
  return std::exchange(kept_, {});
}

SpanScope::~SpanScope() {
  if (!spans_) return;
  try {
    spans_->end(number_, stream_);
  } catch (const std::exception&) {  // the stream's error comes out of its next use; this span stays open
  }
}

}  // namespace llmtrain
