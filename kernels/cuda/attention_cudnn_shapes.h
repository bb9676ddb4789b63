// What cuDNN attention plans are compiled for: sizes rounded to buckets, the memory layout of the gradients, and who may use cuDNN at all. Nothing here
// needs CUDA or cuDNN.
//
// A plan's number of sequences and longest sequence are fixed when it is compiled (0.4 to 1.2 s), so both are rounded up: sequences to powers of two, at
// most kSlots a call (more are done in several calls, which the offsets' being absolute makes possible), the longest sequence to 128 x powers of two,
// but not above what the run's longest sequence rounds to. Slots without a sequence have length 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/kernels.h"

namespace llmtrain::cuda {

inline constexpr int64_t kSlots = 256;         // sequences in one call of cuDNN
inline constexpr int64_t kLengthStep = 128;    // cuDNN's key tiles; whole ones only, see attention_cudnn_plan.h

// A plan's whole description: two that are equal share a plan.
struct AttentionGraph {
  HeadLayout layout;
  int64_t slots = 1;    // sequences, unused ones included
  int64_t longest = 0;  // no sequence is longer
  int64_t tokens = 0;   // of the whole batch at most: sizes the backward plan's workspace; 0 in forward plans
  float scale = 0;
  int window = 0;
  bool backward = false;
  bool stats = false;          // the forward plan writes lse
  bool deterministic = false;  // backward
  std::string key() const;     // one line, exact
  bool operator==(const AttentionGraph& other) const { return key() == other.key(); }
};

// `count` sequences in calls of up to kSlots: slots of a call that has `rest` sequences left to do.
int64_t slots_for(int64_t rest);
// `limit`: the run's longest sequence; 0 where it is not known.
int64_t length_bucket(int64_t longest, int64_t limit);
int64_t token_bucket(int64_t tokens, int64_t limit);

// Offsets of packed sequences as cuDNN wants them, in elements: one entry for each slot and one more; entries past the last sequence repeat the end.
struct AttentionOffsets {
  static int64_t entries(int64_t count);  // slots of all calls, plus one
  // Bytes of the five arrays for batches of up to `tokens` sequences.
  static size_t planned_bytes(int64_t tokens);
};

// Where the backward plan writes. cuDNN lays out its float32 sums of dq, and its dk and dv of each query head, by the strides of dq, dk and dv, so that
// writing into the interleaved dqkv blows them up; writing to tensors of their own costs those tensors and a copy. What is smaller is taken:
//   dq in place         4 T (Hq + 2 Hk) D          of its own   (4 + 2) T Hq D
//   dk, dv in place     Hq = Hk: nothing           of their own 2 * 2 T Hk D
//                       else: 2 * 4 T (Hq + 2 Hk) D Hq / Hk     2 * 4 T Hq D + 2 * 2 T Hk D
// which puts dq in place for Hq >= 4 Hk, and dk and dv for Hq = Hk.
struct GradientLayout {
  bool dq_in_place = false, dkv_in_place = false;
  size_t bytes = 0;          // of the tensors of their own
  size_t estimated_total = 0;  // those and cuDNN's workspace, by the formulas above
};
GradientLayout gradient_layout(HeadLayout layout, int64_t tokens);

// Why cuDNN does not do attention of this kind; empty where it does. `sm` is 80, 90 …; `version` as cudnnGetVersion() gives it.
std::string refuse_attention(DType type, HeadLayout layout, bool backward, bool deterministic, int sm, size_t version);
// Why this cuDNN is not used at all; empty where it is.
std::string refuse_version(size_t version);
std::string version_text(size_t version);  // 91900 -> "9.19.0"

// Compiled plans as files: what was kept under a key, or nothing where the file is absent, damaged, or of another key.
std::string plan_file_name(const std::string& key);
std::string pack_plan(const std::string& key, const std::string& blob);
bool unpack_plan(const std::string& file, const std::string& key, std::string& blob);

}  // namespace llmtrain::cuda
