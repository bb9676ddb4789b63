// What Device, Stream and Event promise (device/device.h), on the CUDA backend: on the emulated GPU with starved streams, where a copy is done when somebody
// waits for it and not before, and on a real one.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "device/arena.h"
#include "device/cuda_backend.h"

namespace llmtrain {
namespace {

class CudaDevice : public testing::Test {
 protected:
  CudaBackend backend_ = CudaBackend::open();
  std::unique_ptr<Device> device_ = backend_.plugin().make_device(0);
  std::unique_ptr<Stream> stream_ = device_->make_stream("test", true);
};

TEST_F(CudaDevice, AHostBufferMayBeChangedAsSoonAsItsCopyWasAskedFor) {
  constexpr int kCopies = 40;  // more than there are staging slots
  for (const size_t bytes : {size_t{4096}, size_t{3} << 20}) {
    const int copies = bytes > 4096 ? 3 : kCopies;
    char* to = static_cast<char*>(device_->allocate(bytes * static_cast<size_t>(copies)));
    std::vector<char> buffer(bytes), all(bytes * static_cast<size_t>(copies));
    for (int i = 0; i < copies; ++i) {
      std::memset(buffer.data(), i + 1, bytes);
      device_->copy_to_device(*stream_, to + static_cast<size_t>(i) * bytes, buffer.data(), bytes);
    }
    std::memset(buffer.data(), 0, bytes);
    device_->copy_to_host(*stream_, all.data(), to, all.size());
    stream_->synchronize();
    for (int i = 0; i < copies; ++i) {
      EXPECT_EQ(all[static_cast<size_t>(i) * bytes], i + 1);
      EXPECT_EQ(all[static_cast<size_t>(i + 1) * bytes - 1], i + 1);
    }
    device_->free(to);
  }
}

TEST_F(CudaDevice, MemoryOfTheArenaIsZeroForEveryStreamFromTheBeginning) {
  constexpr size_t kFloats = 1 << 16;
  Arena arena(*device_, kFloats * sizeof(float));
  void* memory = arena.take_bytes("test", kFloats * sizeof(float));
  std::vector<float> seen(kFloats, 1);
  device_->copy_to_host(*stream_, seen.data(), memory, kFloats * sizeof(float));
  stream_->synchronize();
  EXPECT_EQ(seen, std::vector<float>(kFloats));
}

TEST_F(CudaDevice, EventsOrderStreamsAndTheHost) {
  auto other = device_->make_stream("other", true);
  auto filled = device_->make_event(), copied = device_->make_event();
  constexpr size_t kBytes = 1 << 16;
  char *first = static_cast<char*>(device_->allocate(kBytes)), *second = static_cast<char*>(device_->allocate(kBytes));
  char *source = static_cast<char*>(device_->allocate_host(kBytes)), *result = static_cast<char*>(device_->allocate_host(kBytes));
  copied->synchronize();  // never recorded: returns
  for (int round = 1; round <= 20; ++round) {
    std::memset(source, round, kBytes);
    device_->copy(*stream_, first, source, kBytes);
    filled->record(*stream_);
    filled->wait(*other);
    device_->copy(*other, second, first, kBytes);
    device_->copy(*other, result, second, kBytes);
    copied->record(*other);
    copied->wait(*stream_);
    copied->synchronize();
    ASSERT_EQ(result[kBytes - 1], round);
  }
  for (char* p : {first, second}) device_->free(p);
  for (char* p : {source, result}) device_->free_host(p);
}

TEST_F(CudaDevice, ItsDestructionWaitsForCopiesOutOfItsOwnMemory) {
  auto device = backend_.plugin().make_device(0);
  auto stream = device->make_stream("test", true);
  void* to = device->allocate(4096);
  const std::vector<char> buffer(4096, 7);
  device->copy_to_device(*stream, to, buffer.data(), buffer.size());
  stream.reset();
  device.reset();  // the emulator ends the program when pinned memory goes that a copy has still to read
  std::vector<char> seen(4096);
  device_->copy_to_host(*stream_, seen.data(), to, seen.size());
  stream_->synchronize();
  EXPECT_EQ(seen, buffer);
  device_->free(to);
}

TEST_F(CudaDevice, TimePointsAreReachedInTheOrderOfTheStream) {
  auto begin = device_->make_time_point(), end = device_->make_time_point();
  EXPECT_FALSE(begin->reached());
  void* memory = device_->allocate(1 << 20);
  begin->record(*stream_);
  device_->zero(*stream_, memory, 1 << 20);
  end->record(*stream_);
  stream_->synchronize();
  EXPECT_TRUE(begin->reached() && end->reached());
  EXPECT_GT(end->seconds_after(*begin), 0);
  device_->free(memory);
}

}  // namespace
}  // namespace llmtrain

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::string why;
  if (!llmtrain::CudaBackend::try_open(why)) {
    std::printf("no GPU: %s\n", why.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
