// Limits of memory and processor time (cgroup.h).
#include "device/cpu/cgroup.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <vector>

namespace llmtrain {
namespace {

// Empty when the file is not there: a limit that does not exist limits nothing.
std::string small_file(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  if (in) out << in.rdbuf();
  return out.str();
}

// "max" and what is no number count as no limit.
bool read_number(const std::string& text, uint64_t* value) {
  char* end = nullptr;
  *value = std::strtoull(text.c_str(), &end, 10);
  return end != text.c_str();
}

// The value of a line "<key> <number>" or "<key>: <number> kB".
uint64_t field(const std::string& text, const std::string& key) {
  std::istringstream in(text);
  std::string line;
  while (std::getline(in, line)) {
    if (line.compare(0, key.size(), key) != 0 || line.size() <= key.size() || (line[key.size()] != ' ' && line[key.size()] != ':')) continue;
    uint64_t value = 0;
    return read_number(line.substr(line.find_first_of("0123456789", key.size())), &value) ? value : 0;
  }
  return 0;
}

struct Group {
  bool version2 = false;
  std::string mount, path;  // the folder of the hierarchy, and the group within it ("" or "/a/b")
};

// The groups of this process for a version 1 controller and for version 2. In a container the path may name folders outside what is mounted; walking
// up from it meets the folders that are there, the mount itself at the latest.
std::vector<Group> groups_of_process(const std::string& root, const std::string& controller) {
  std::vector<Group> found;
  std::istringstream in(small_file(root + "/proc/self/cgroup"));
  std::string line;
  while (std::getline(in, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers == ",,") {
      found.push_back({true, root + "/sys/fs/cgroup", path});
      found.push_back({true, root + "/sys/fs/cgroup/unified", path});
    } else if (controllers.find("," + controller + ",") != std::string::npos) {
      found.push_back({false, root + "/sys/fs/cgroup/" + controller, path});
    }
  }
  return found;
}

// Calls visit(folder, version2) for the group and every group above it.
void for_each_group(const std::string& root, const std::string& controller, const std::function<void(const std::string&, bool)>& visit) {
  for (const Group& group : groups_of_process(root, controller)) {
    std::string path = group.path;
    while (true) {
      visit(group.mount + path, group.version2);
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
}

}  // namespace

size_t memory_available(const std::string& root) {
  uint64_t available = field(small_file(root + "/proc/meminfo"), "MemAvailable") * 1024;
  for_each_group(root, "memory", [&](const std::string& folder, bool version2) {
    uint64_t limit = 0, used = 0;
    if (!read_number(small_file(folder + (version2 ? "/memory.max" : "/memory.limit_in_bytes")), &limit)) return;
    if (!read_number(small_file(folder + (version2 ? "/memory.current" : "/memory.usage_in_bytes")), &used)) return;
    // Pages of files that nobody uses are given back before anything fails.
    const uint64_t reclaimable = field(small_file(folder + "/memory.stat"), version2 ? "inactive_file" : "total_inactive_file");
    used -= std::min(used, reclaimable);
    available = std::min(available, limit > used ? limit - used : 0);
  });
  return available;
}

double cpu_quota(const std::string& root) {
  double quota = 0;
  for_each_group(root, "cpu", [&](const std::string& folder, bool version2) {
    double run = 0, period = 0;
    if (version2) {
      std::istringstream in(small_file(folder + "/cpu.max"));  // "max 100000" or "150000 100000"
      if (!(in >> run >> period)) return;
    } else {
      std::istringstream(small_file(folder + "/cpu.cfs_quota_us")) >> run;  // -1: none
      std::istringstream(small_file(folder + "/cpu.cfs_period_us")) >> period;
    }
    if (run > 0 && period > 0) quota = quota == 0 ? run / period : std::min(quota, run / period);
  });
  return quota;
}

}  // namespace llmtrain
