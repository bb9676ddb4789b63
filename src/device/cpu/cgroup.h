// What the operating system lets this process use: memory (free on the machine, left by the control group) and processor time (the group's quota).
// Control groups of version 1 and 2: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html, https://docs.kernel.org/admin-guide/cgroup-v2.html.
//
// `root` stands before /proc and /sys (tests give a folder of their own). Thread rules: free functions without state.
#pragma once

#include <cstddef>
#include <string>

namespace llmtrain {

// The smaller of MemAvailable and what is left under the limits of the process's group and all groups above it. Bytes.
size_t memory_available(const std::string& root = "");

// Processors that the group's quota pays for (1.5 = one and a half); 0: no quota.
double cpu_quota(const std::string& root = "");

}  // namespace llmtrain
