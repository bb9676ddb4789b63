// Slot classes and schedules (slots.h).
#include "zero/slots.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/error.h"

namespace llmtrain {

std::vector<SlotClass> plan_slot_classes(const std::vector<size_t>& bytes, int most_slots) {
  std::vector<int> order(bytes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return bytes[static_cast<size_t>(a)] > bytes[static_cast<size_t>(b)]; });
  std::vector<SlotClass> classes;
  for (int unit : order) {
    const size_t n = bytes[static_cast<size_t>(unit)];
    if (n == 0) continue;
    if (classes.empty() || n < classes.back().bytes / 5 * 4) classes.push_back({n, 0, {}});
    classes.back().units.push_back(unit);
  }
  for (SlotClass& c : classes) {
    c.slots = std::min(static_cast<int>(c.units.size()), most_slots);
    std::sort(c.units.begin(), c.units.end());
  }
  return classes;
}

Schedule::Schedule(std::vector<int> uses, int units) : uses_(std::move(uses)), positions_(static_cast<size_t>(units)) {
  for (size_t i = 0; i < uses_.size(); ++i) {
    LLMTRAIN_ASSERT(uses_[i] >= 0 && uses_[i] < units, "a schedule names unit " + std::to_string(uses_[i]) + " of " + std::to_string(units));
    positions_[static_cast<size_t>(uses_[i])].push_back(i);
  }
}

size_t Schedule::next_use(int unit) const {
  const std::vector<size_t>& at = positions_[static_cast<size_t>(unit)];
  if (at.empty()) return SIZE_MAX;
  const auto next = std::lower_bound(at.begin(), at.end(), position_);
  return next != at.end() ? *next : uses_.size() + at.front();
}

std::vector<int> Schedule::upcoming(int count, int except) const {
  std::vector<int> units;
  for (size_t i = position_; i < uses_.size() && static_cast<int>(units.size()) < count; ++i)
    if (uses_[i] != except && std::find(units.begin(), units.end(), uses_[i]) == units.end()) units.push_back(uses_[i]);
  return units;
}

}  // namespace llmtrain
