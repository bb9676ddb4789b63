// Faults of the emulated NCCL: LLMTRAIN_EMULATED_NCCL_FAULT=WHAT:N:RANK, where WHAT is
//   a call ("ncclAllGather")   the N-th such call of that rank fails at once (ncclSystemError)
//   init, init-hangs           the N-th start fails in the background, or never ends
//   launch-hangs               the N-th collective of that rank never comes to the GPU
//   remote                     in the N-th collective of that rank NCCL reports a broken connection by itself, and the collective never ends
//   kill, stop                 the process ends, or stands still, in its N-th collective
#pragma once

namespace llmtrain::emulator {

// Whether it strikes now: counts the occasions.
bool nccl_fault_strikes(const char* what);

}  // namespace llmtrain::emulator
