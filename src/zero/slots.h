// Slots: how many buffers of which size hold the full weights (or gradients) of units, and which of them to give up.
//
// Units of similar size share a class of slots, so that a large embedding does not blow up the slot of every block. Both are pure functions of the
// sizes and of the schedule: the choice is the same on every rank and in every run, whatever the timing.
#pragma once

#include <cstddef>
#include <vector>

namespace llmtrain {

struct SlotClass {
  size_t bytes = 0;  // of one slot: the largest unit of the class
  int slots = 0;
  std::vector<int> units;  // ascending
};

// bytes[u] = 0: the unit needs no slot. A class holds units of at least four fifths of its largest; it has min(units, most_slots) slots.
std::vector<SlotClass> plan_slot_classes(const std::vector<size_t>& bytes, int most_slots);

// The uses of units in one micro-step, in order, and how far it has come.
class Schedule {
 public:
  Schedule() = default;
  Schedule(std::vector<int> uses, int units);
  bool done() const { return position_ == uses_.size(); }
  int current() const { return uses_[position_]; }
  void advance() { ++position_; }
  size_t position() const { return position_; }
  size_t size() const { return uses_.size(); }
  // Position of the next use of `unit`, from here on; the schedule is taken to repeat itself. SIZE_MAX: it is never used.
  size_t next_use(int unit) const;
  // The next `count` different units from here on, without `except` (-1: none).
  std::vector<int> upcoming(int count, int except) const;

 private:
  std::vector<int> uses_;
  std::vector<std::vector<size_t>> positions_;  // of each unit, ascending
  size_t position_ = 0;
};

}  // namespace llmtrain
