// A piece of memory that one rank of a node makes and the others of the node map: the ground under registered memory and under the node's flags.
//
// Way 1: memory without a name (memfd_create), which the others reach by /proc/<pid>/fd/<n>; nothing can be left behind.
// Way 2, where /proc is closed to the others (containers with user namespaces of their own): a file in /dev/shm that gets its name only when it is
// complete, is removed as soon as everybody has opened it, and is locked meanwhile, so that a later run recognises and removes one whose maker was
// killed in between. All pages are reserved before anybody touches them: a full /dev/shm is an error message here, never a SIGBUS later. Thread
// rules: set-up only, one thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace llmtrain {

// What the others need to open a segment. Sent as bytes.
struct SegmentAddress {
  int64_t pid = 0;
  int32_t fd = -1;
  uint64_t device = 0, inode = 0;  // proof that what was opened is what was meant (a pid may mean another process in another container)
  uint64_t bytes = 0;
  std::array<char, 256> path{};  // way 2
};

class SharedSegment {
 public:
  SharedSegment() = default;
  // Zeroed memory of `bytes`. OperationError when there is not so much.
  static SharedSegment make_anonymous(size_t bytes);
  static SharedSegment make_in_folder(const std::string& folder, size_t bytes);
  // Another rank's segment. OperationError when it cannot be reached.
  static SharedSegment open(const SegmentAddress& address);
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;
  ~SharedSegment();

  char* data() const { return data_; }
  size_t size() const { return bytes_; }
  const SegmentAddress& address() const { return address_; }
  // Everybody has opened it: removes the name (way 2) and closes the file; the mapping stays.
  void close_file();

 private:
  void map(int fd, size_t bytes);
  char* data_ = nullptr;
  size_t bytes_ = 0;
  int fd_ = -1;
  SegmentAddress address_;
};

// Removes files of killed runs of this user from `folder`: those that nobody holds locked. Returns how many.
int remove_stale_segments(const std::string& folder);

}  // namespace llmtrain
