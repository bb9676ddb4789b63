// Spans: lengths and places of stretches of streams, and that asking for them waits for nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "device/spans.h"

namespace llmtrain {
namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

HostStream& host(Stream& stream) { return dynamic_cast<HostStream&>(stream); }

TEST(Spans, AddUpByKindAndByNameWhereAskedFor) {
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("compute", false);
  Spans spans(*device);
  spans.count_by_name(true);
  for (int i = 0; i < 3; ++i) {
    const SpanScope span(&spans, *stream, SpanKind::compute, "gemm");
    sleep_ms(2);
  }
  { const SpanScope span(&spans, *stream, SpanKind::wait_gather, "unit"); }
  spans.collect();
  EXPECT_GE(spans.seconds(SpanKind::compute), 0.006);
  EXPECT_LT(spans.seconds(SpanKind::wait_gather), 0.002);
  ASSERT_EQ(spans.by_name().size(), 1u);
  EXPECT_EQ(spans.by_name().at("gemm").calls, 3);
  EXPECT_EQ(spans.by_name().at("gemm").seconds, spans.seconds(SpanKind::compute));
  spans.reset_names();
  EXPECT_TRUE(spans.by_name().empty());
  EXPECT_TRUE(spans.take().empty());  // nobody asked for single ones
}

TEST(Spans, MeasureOnTheStreamAndNotOnTheHostThatRunsAhead) {
  auto device = make_cpu_device(1);
  auto compute = device->make_stream("compute", false), gather = device->make_stream("gather", true);
  Spans spans(*device);
  spans.keep(*compute);
  std::atomic<bool> go{false};
  host(*gather).run([&] {
    while (!go) sleep_ms(1);
  });
  {
    const SpanScope span(&spans, *gather, SpanKind::gather, "layers.0", 64);
    host(*gather).run([] { sleep_ms(20); });
  }
  spans.collect();  // the stream has not come so far
  EXPECT_EQ(spans.seconds(SpanKind::gather), 0);
  EXPECT_TRUE(spans.take().empty());
  go = true;
  gather->synchronize();
  const std::vector<DeviceSpan> kept = spans.take();
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].name, "layers.0");
  EXPECT_EQ(kept[0].bytes, 64u);
  EXPECT_GE(kept[0].seconds, 0.02);
  EXPECT_EQ(kept[0].seconds, spans.seconds(SpanKind::gather));
}

TEST(Spans, StepsAndUnitsAndOneClockAcrossPointsOfReference) {
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("compute", false);
  Spans spans(*device);
  spans.keep(*stream);
  for (int step = 1; step <= 3; ++step) {
    spans.set_step(*stream, step);
    spans.set_unit("layers." + std::to_string(step));
    const SpanScope span(&spans, *stream, SpanKind::compute, "gemm");
    sleep_ms(3);
  }
  const std::vector<DeviceSpan> kept = spans.take();
  ASSERT_EQ(kept.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(kept[i].step, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(kept[i].unit, "layers." + std::to_string(i + 1));
    EXPECT_GE(kept[i].begin, i == 0 ? 0 : kept[i - 1].begin + kept[i - 1].seconds);
  }
  spans.stop_keeping();
  { const SpanScope span(&spans, *stream, SpanKind::compute, "gemm"); }
  EXPECT_TRUE(spans.take().empty());
}

}  // namespace
}  // namespace llmtrain
