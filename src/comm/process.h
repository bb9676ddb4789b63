// Processes of this machine as other processes see them (/proc): whether one still lives, runs or was stopped. Process ids are reused and mean something
// only in one pid namespace, so a process is named by id, start time and namespace.
// Thread rules: free functions without state.
#pragma once

#include <cstdint>

namespace llmtrain {

struct ProcessName {
  int64_t pid = 0;  // 0: cannot be told
  uint64_t start_time = 0, pid_namespace = 0;
};

enum class ProcessState { runs, stopped, gone, unknown };

ProcessName this_process();
// unknown: of another pid namespace (another node, another container), or /proc cannot be read. stopped: by SIGSTOP or the like (not by a debugger).
ProcessState state_of(const ProcessName& process, uint64_t own_namespace);

}  // namespace llmtrain
