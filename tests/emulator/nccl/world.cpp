// Shared memory and meetings of ranks (world.h).
#include "nccl/world.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>

namespace llmtrain::emulator {

struct World::Shared {
  struct Rank {
    alignas(64) std::atomic<int> device;  // + 1; 0: has not joined
    std::atomic<int> left;
    std::atomic<uint64_t> step;
    Description description;
  };
  Rank ranks[kMostRanks];
  alignas(4096) char slots[kMostRanks][kSlotBytes];
};

namespace {

// Where the memory is found: the file of the process that made it.
struct Place {
  char magic[16];
  int process, file;
};
constexpr char kMagic[16] = "emulated NCCL 1";

}  // namespace

bool World::make_id(ncclUniqueId& id) {
  Place place{};
  std::memcpy(place.magic, kMagic, sizeof kMagic);
  place.process = ::getpid();
  place.file = ::memfd_create("emulated-nccl", MFD_CLOEXEC);  // open until the process ends, as others may still come
  if (place.file < 0 || ::ftruncate(place.file, sizeof(Shared)) != 0) return false;
  id = {};
  std::memcpy(&id, &place, sizeof place);
  return true;
}

std::unique_ptr<World> World::open(const ncclUniqueId& id, int rank, int ranks) {
  Place place;
  std::memcpy(&place, &id, sizeof place);
  if (std::memcmp(place.magic, kMagic, sizeof kMagic) != 0 || ranks > kMostRanks) return nullptr;
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", place.process, place.file);
  const int file = ::open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  return memory == MAP_FAILED ? nullptr : std::unique_ptr<World>(new World(static_cast<Shared*>(memory), rank, ranks));
}

World::~World() { ::munmap(shared_, sizeof(Shared)); }

bool World::wait(const std::function<bool(int)>& has_come, const Stop& stop) const {
  for (int r = 0; r < ranks_; ++r) {
    for (int tries = 0; !has_come(r); ++tries) {
      if (stop()) return false;
      if (tries < 50) {
        ::sched_yield();
      } else {
        ::usleep(tries < 2000 ? 50 : 2000);
      }
    }
  }
  return true;
}

bool World::join(int device, const Stop& stop) {
  shared_->ranks[rank_].device = device + 1;
  return wait([this](int r) { return shared_->ranks[r].device != 0; }, stop);
}

bool World::find_duplicate(int& first, int& second) const {
  for (second = 1; second < ranks_; ++second)
    for (first = 0; first < second; ++first)
      if (shared_->ranks[first].device == shared_->ranks[second].device) return true;
  return false;
}

bool World::leave(const Stop& stop) {
  shared_->ranks[rank_].left = 1;
  return wait([this](int r) { return shared_->ranks[r].left != 0; }, stop);
}

char* World::slot(int rank) const { return shared_->slots[rank]; }
void World::describe(const Description& mine) { shared_->ranks[rank_].description = mine; }
const Description& World::description(int rank) const { return shared_->ranks[rank].description; }

bool World::meet(const Stop& stop) {
  shared_->ranks[rank_].step = ++step_;
  return wait([this](int r) { return shared_->ranks[r].step >= step_; }, stop);
}

}  // namespace llmtrain::emulator
