// The trace file (trace.h).
#include "train/trace.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace llmtrain {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;

struct Track {
  int number;
  const char* name;
};

Track track_of(SpanKind kind) {
  switch (kind) {
    case SpanKind::compute: return {1, "compute"};
    case SpanKind::gather: return {2, "gather"};
    case SpanKind::reduce: return {3, "reduce"};
    case SpanKind::wait_gather:
    case SpanKind::wait_reduce: return {4, "wait"};
  }
  return {0, ""};
}

std::string json_text(const std::string& text) { return dump_json(Json(text)); }

// {"name": "layers.3", "cat": "gather", "ph": "X", "ts": …, "dur": …, "pid": rank, "tid": track, "args": {…}}; times in microseconds.
std::string event_of(const DeviceSpan& span, int rank) {
  const Track track = track_of(span.kind);
  std::string name = span.name;
  if (span.kind == SpanKind::wait_gather) name = "wait for gather: " + name;
  if (span.kind == SpanKind::wait_reduce) name = "wait for reduce: " + name;
  std::array<char, 160> numbers{};
  std::snprintf(numbers.data(), numbers.size(), R"(,"ph":"X","ts":%.3f,"dur":%.3f,"pid":%d,"tid":%d,"args":{"step":%lld)", span.begin * 1e6, span.seconds * 1e6, rank,
                track.number, static_cast<long long>(span.step));
  std::string event = "{\"name\":" + json_text(name) + ",\"cat\":\"" + track.name + "\"" + numbers.data();
  if (span.kind == SpanKind::compute && !span.unit.empty()) event += ",\"unit\":" + json_text(span.unit);
  if (span.bytes > 0) event += ",\"bytes\":" + std::to_string(span.bytes);
  return event + "}}";
}

std::string metadata(const char* what, int rank, int track, const std::string& name) {
  return std::string("{\"name\":\"") + what + "\",\"ph\":\"M\",\"pid\":" + std::to_string(rank) + ",\"tid\":" + std::to_string(track) + ",\"args\":{\"name\":" + json_text(name) + "}}";
}

}  // namespace

Trace::Trace(std::string path, RankGroup& group, const std::string& host, Spans& spans, Stream& compute)
    : path_(std::move(path)), group_(group), spans_(spans), compute_(compute), most_bytes_(kTraceBytes / static_cast<size_t>(group.size())) {
  run_on_all_or_fail(group_, [&] {
    if (group_.rank() != 0) return;
    try {
      write_file_atomically(path_, "[]\n");
    } catch (const OperationError& e) {
      throw InputError("trace", e.what(), "name a file that can be written");
    }
  });
  add(metadata("process_name", group_.rank(), 0, "rank " + std::to_string(group_.rank()) + " on " + host));
  for (const SpanKind kind : {SpanKind::compute, SpanKind::gather, SpanKind::reduce, SpanKind::wait_gather})
    add(metadata("thread_name", group_.rank(), track_of(kind).number, track_of(kind).name));
  compute_.synchronize();
  group_.barrier();
  spans_.keep(compute_);
}

void Trace::add(const std::string& event) { text_ += event + ",\n"; }

void Trace::take() {
  for (const DeviceSpan& span : spans_.take()) {
    if (full_at_ >= 0) return;
    const std::string event = event_of(span, group_.rank());
    if (text_.size() + event.size() + 2 > most_bytes_) {
      full_at_ = span.step;
      spans_.stop_keeping();
      return;
    }
    add(event);
    ++events_;
  }
}

void Trace::step(int64_t step) {
  step_ = step;
  take();
  spans_.set_step(compute_, step);
}

std::string Trace::write() {
  compute_.synchronize();
  take();
  if (full_at_ < 0) spans_.stop_keeping();
  const size_t ranks = static_cast<size_t>(group_.size());
  struct Told {
    uint64_t bytes;
    int64_t events, full_at;
  };
  const Told mine{text_.size(), events_, full_at_};
  std::vector<Told> all(ranks);
  group_.all_gather(&mine, all.data(), sizeof mine);
  File file;
  run_on_all_or_fail(group_, [&] {
    if (group_.rank() == 0) file = File::create(path_);
  });
  uint64_t at = 0;
  std::string piece, failure;
  const auto put = [&](const char* from, size_t bytes) {
    if (group_.rank() != 0 || !failure.empty()) return;
    try {
      file.write_at(from, bytes, at);
      at += bytes;
    } catch (const std::exception& e) {  // thrown below, on all ranks
      failure = e.what();
    }
  };
  put("[\n", 2);
  int64_t events = 0, full_at = -1;
  for (size_t r = 0; r < ranks; ++r) {
    for (uint64_t from = 0; from < all[r].bytes; from += kPieceBytes) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(kPieceBytes, all[r].bytes - from));
      piece.resize(n);
      if (static_cast<int>(r) == group_.rank()) text_.copy(piece.data(), n, from);
      if (r > 0) group_.broadcast(piece.data(), n, static_cast<int>(r));
      // The last event of all has no comma behind it.
      const bool last = r + 1 == ranks && from + n == all[r].bytes;
      put(piece.data(), last ? n - 2 : n);
    }
    events += all[r].events;
    if (all[r].full_at >= 0 && (full_at < 0 || all[r].full_at < full_at)) full_at = all[r].full_at;
  }
  put("\n]\n", 3);
  run_on_all_or_fail(group_, [&] {
    if (group_.rank() != 0) return;
    if (!failure.empty()) throw OperationError(failure);
    file.close();
  });
  text_.clear();
  std::string line = "trace: " + path_ + ", " + std::to_string(events) + " events of " + std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks");
  if (full_at >= 0) line += "; nothing is in it after step " + std::to_string(full_at) + ", as there was no room left";
  return line;
}

}  // namespace llmtrain
