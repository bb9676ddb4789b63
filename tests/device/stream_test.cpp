// Streams, events and memory of the CPU device.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "core/error.h"
#include "device/arena.h"
#include "device/device.h"

namespace llmtrain {
namespace {

using std::chrono::milliseconds;

HostStream& host(Stream& s) { return dynamic_cast<HostStream&>(s); }

TEST(CpuDevice, MemoryIsAlignedWritableAndZero) {
  auto device = make_cpu_device(1);
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{2} << 20, (size_t{5} << 20) + 3}) {
    char* p = static_cast<char*>(device->allocate(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (bytes >= size_t{2} << 20 ? size_t{2} << 20 : size_t{256}), 0u);
    if (bytes > 0) {
      EXPECT_EQ(p[0], 0);
      EXPECT_EQ(p[bytes - 1], 0);
      std::memset(p, 1, bytes);
    }
    device->free(p);
  }
  device->free(nullptr);
}

TEST(CpuDevice, ImpossibleSizesAreErrorsNotCrashes) {
  auto device = make_cpu_device(1);
  EXPECT_THROW(device->allocate(SIZE_MAX - 10), OperationError);
  EXPECT_THROW(device->allocate(size_t{1} << 50), OperationError);
  EXPECT_GT(device->bytes_available(), size_t{1} << 20);
}

TEST(CpuStream, AsynchronousWorkRunsInOrderBesideTheCaller) {
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("side", true);
  ASSERT_FALSE(host(*stream).is_inline());
  std::vector<int> order;
  std::atomic<bool> go{false};
  host(*stream).run([&] {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
    order.push_back(0);
  });
  for (int i = 1; i < 100; ++i) host(*stream).run([&order, i] { order.push_back(i); });
  EXPECT_TRUE(order.empty());
  go = true;
  stream->synchronize();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(CpuStream, FirstErrorComesOutOfSynchronizeAndLaterWorkIsSkipped) {
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("side", true);
  bool later = false;
  host(*stream).run([] { throw OperationError("first"); });
  host(*stream).run([&] { later = true; });
  host(*stream).run([] { throw OperationError("second"); });
  try {
    stream->synchronize();
    FAIL() << "no error";
  } catch (const OperationError& e) {
    EXPECT_STREQ(e.what(), "first");
  }
  EXPECT_FALSE(later);
  host(*stream).run([&] { later = true; });  // the error was delivered: the stream works again
  stream->synchronize();
  EXPECT_TRUE(later);
}

TEST(CpuEvent, OrdersWorkBetweenEveryPairOfStreamKinds) {
  auto device = make_cpu_device(1);
  for (const bool first_async : {false, true}) {
    for (const bool second_async : {false, true}) {
      auto a = device->make_stream("a", first_async), b = device->make_stream("b", second_async);
      auto event = device->make_event();
      event->wait(*b);  // never recorded: no waiting
      std::atomic<int> value{0};
      int seen = -1;
      host(*a).run([&] {
        std::this_thread::sleep_for(milliseconds(20));
        value = 7;
      });
      event->record(*a);
      host(*a).run([&] { std::this_thread::sleep_for(milliseconds(30)); });  // behind the event: not waited for
      event->wait(*b);
      host(*b).run([&] { seen = value; });
      b->synchronize();
      EXPECT_EQ(seen, 7);
      event->synchronize();
      a->synchronize();
    }
  }
}

TEST(CpuEvent, ErrorBeforeTheEventReachesWhoWaitsForIt) {
  auto device = make_cpu_device(1);
  auto a = device->make_stream("a", true), b = device->make_stream("b", true);
  auto event = device->make_event();
  host(*a).run([] { throw OperationError("broken gather"); });
  event->record(*a);
  EXPECT_THROW(event->synchronize(), OperationError);
  event->wait(*b);
  bool ran = false;
  host(*b).run([&] { ran = true; });
  EXPECT_THROW(b->synchronize(), OperationError);
  EXPECT_FALSE(ran);
}

TEST(CpuStream, DestructionDropsWorkThatHasNotBegunAndFreesWhoWaits) {
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("side", true);
  auto event = device->make_event();
  std::atomic<bool> started{false}, go{false};
  bool later = false;
  host(*stream).run([&] {
    started = true;
    while (!go) std::this_thread::sleep_for(milliseconds(1));
  });
  host(*stream).run([&] { later = true; });
  event->record(*stream);
  while (!started) std::this_thread::sleep_for(milliseconds(1));
  std::thread end([&] { stream.reset(); });
  std::this_thread::sleep_for(milliseconds(20));
  go = true;
  end.join();
  EXPECT_FALSE(later);
  EXPECT_THROW(event->synchronize(), OperationError);
}

TEST(CpuDevice, CopiesFollowTheStreamsOrder) {
  auto device = make_cpu_device(1);
  auto stream = device->make_stream("side", true);
  int a = 1, b = 0, c = 0;
  host(*stream).run([&] {
    std::this_thread::sleep_for(milliseconds(10));
    a = 5;
  });
  device->copy(*stream, &b, &a, sizeof a);
  device->copy_to_host(*stream, &c, &b, sizeof b);
  stream->synchronize();
  EXPECT_EQ(c, 5);
}

TEST(Arena, PlanAndRealArenaAgreeAndGroupsAddUp) {
  auto device = make_cpu_device(1);
  const auto take = [](Arena& arena) {
    const TensorView a = arena.take("weights", DType::bfloat16, {3, 5});
    void* b = arena.take_bytes("workspace", 1000);
    arena.count_elsewhere("window", 4096);
    return std::make_pair(a.data, b);
  };
  Arena plan;
  EXPECT_TRUE(plan.planning());
  EXPECT_EQ(take(plan).first, nullptr);
  EXPECT_EQ(plan.total(), 256u + 1024u);
  EXPECT_EQ(plan.total_with_elsewhere(), 256u + 1024u + 4096u);
  EXPECT_EQ(plan.groups().at("workspace"), 1024u);
  Arena arena(*device, plan.total());
  const auto [a, b] = take(arena);
  EXPECT_EQ(static_cast<char*>(b) - static_cast<char*>(a), 256);
  EXPECT_EQ(static_cast<char*>(b)[999], 0);
  EXPECT_EQ(arena.groups(), plan.groups());
  EXPECT_EQ(plan.table().size(), 4u);  // three groups and the total
}

TEST(ArenaDeathTest, MoreThanPlannedOrAfterSealingIsABrokenInvariant) {
  auto device = make_cpu_device(1);
  EXPECT_DEATH(
      {
        Arena arena(*device, 256);
        arena.take_bytes("a", 257);
      },
      "more memory than planned");
  EXPECT_DEATH(
      {
        Arena arena(*device, 512);
        arena.seal();
        arena.take_bytes("a", 1);
      },
      "inside a step");
}

}  // namespace
}  // namespace llmtrain
