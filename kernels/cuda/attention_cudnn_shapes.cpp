// Buckets, layouts and refusals of cuDNN's attention (attention_cudnn_shapes.h).
#include "kernels/cuda/attention_cudnn_shapes.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "kernels/workspace.h"

namespace llmtrain::cuda {
namespace {

constexpr char kPlanMagic[] = "llmtrain cuDNN plan 1\n";

int64_t power_of_two_from(int64_t n) { return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1)))); }
int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

std::string hexadecimal(uint64_t x) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(x));
  return text;
}

}  // namespace

std::string AttentionGraph::key() const {
  char text[256];
  std::snprintf(text, sizeof text, "%s heads %d/%d x %d, slots %lld, longest %lld, tokens %lld, scale %a, window %d%s%s",
                backward ? "backward" : "forward", layout.heads, layout.kv_heads, layout.head_dim, static_cast<long long>(slots),
                static_cast<long long>(longest), static_cast<long long>(tokens), static_cast<double>(scale), window, stats ? ", stats" : "",
                deterministic ? ", deterministic" : "");
  return text;
}

int64_t slots_for(int64_t rest) { return std::min(kSlots, power_of_two_from(rest)); }

int64_t length_bucket(int64_t longest, int64_t limit) {
  const int64_t bucket = kLengthStep * power_of_two_from((longest + kLengthStep - 1) / kLengthStep);
  return longest <= limit ? std::min(bucket, rounded_up(limit, kLengthStep)) : bucket;
}

int64_t token_bucket(int64_t tokens, int64_t limit) { return tokens <= limit ? limit : power_of_two_from(std::max<int64_t>(tokens, 1024)); }

int64_t AttentionOffsets::entries(int64_t count) { return count <= kSlots ? slots_for(count) + 1 : rounded_up(count, kSlots) + 1; }

size_t AttentionOffsets::planned_bytes(int64_t tokens) {
  const auto n = static_cast<size_t>(entries(tokens));
  return 4 * padded(n * sizeof(int64_t)) + padded(n * sizeof(int32_t));
}

GradientLayout gradient_layout(HeadLayout layout, int64_t tokens) {
  const auto t = static_cast<size_t>(tokens), d = static_cast<size_t>(layout.head_dim), row = static_cast<size_t>(layout.row()),
             hq = static_cast<size_t>(layout.heads), hk = static_cast<size_t>(layout.kv_heads), group = hq / hk;
  const size_t dq_in_place = 4 * t * row, dq_own = 2 * t * hq * d, dq_apart = 4 * t * hq * d + dq_own;
  const size_t dkv_own = 4 * t * hk * d, dkv_in_place = group == 1 ? 0 : 8 * t * row * group, dkv_apart = (group == 1 ? 0 : 8 * t * hq * d) + dkv_own;
  GradientLayout result;
  result.dq_in_place = dq_in_place <= dq_apart;
  result.dkv_in_place = dkv_in_place <= dkv_apart;
  result.bytes = (result.dq_in_place ? 0 : padded(dq_own)) + (result.dkv_in_place ? 0 : 2 * padded(dkv_own / 2));
  result.estimated_total = std::min(dq_in_place, dq_apart) + std::min(dkv_in_place, dkv_apart) + 4 * t * hq;
  return result;
}

std::string version_text(size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." + std::to_string(version % 100);
}

std::string refuse_version(size_t version) {
  // 9.18 is the first whose backward pass over packed sequences reads no uninitialised workspace on sm_90 (Transformer Engine issue 2186); 9.10.0,
  // 9.10.1 and 9.14.0, which have errors of their own, lie below it.
  if (version < 91800) return "cuDNN " + version_text(version) + " is too old: packed sequences need 9.18 or newer";
  if (version >= 100000) return "cuDNN " + version_text(version) + " is newer than this program knows (9)";
  return "";
}

std::string refuse_attention(DType type, HeadLayout layout, bool backward, bool deterministic, int sm, size_t version) {
  if (type != DType::bfloat16) return "cuDNN is used for bfloat16 only";
  const int d = layout.head_dim;
  if (d % 8 != 0 || d > 256) return "head size " + std::to_string(d) + ": cuDNN takes multiples of 8 up to 256";
  if (sm < 80) return "compute capability " + std::to_string(sm / 10) + "." + std::to_string(sm % 10) + ": cuDNN's attention needs 8.0";
  if (!backward) return "";
  // cuDNN's engine for these GPUs refuses a packed lse.
  if (sm / 10 == 8 || sm / 10 == 12) return "cuDNN has no backward pass over packed sequences on compute capability " + std::to_string(sm / 10) + ".x";
  if (sm / 10 == 10 && d > 128) return "head size " + std::to_string(d) + ": cuDNN's backward pass takes up to 128 on this GPU";
  // Without the hint of the batch's tokens, which cuDNN ignores then, its workspace is (number of sequences x longest sequence).
  if (d % 16 != 0) return "head size " + std::to_string(d) + ": cuDNN's backward pass over packed sequences takes multiples of 16";
  if (deterministic && !(sm / 10 == 9 && version >= 92500) && sm / 10 != 10)
    return "deterministic: cuDNN " + version_text(version) + " would need memory that grows with the square of the length (9.25 does not)";
  return "";
}

std::string plan_file_name(const std::string& key) { return hexadecimal(XXH3_64bits(key.data(), key.size())) + ".plan"; }

// Magic line, checksum of the rest, length of the key, key, blob.
std::string pack_plan(const std::string& key, const std::string& blob) {
  const uint64_t n = key.size();
  std::string rest(reinterpret_cast<const char*>(&n), sizeof n);
  rest += key;
  rest += blob;
  return kPlanMagic + hexadecimal(XXH3_64bits(rest.data(), rest.size())) + rest;
}

bool unpack_plan(const std::string& file, const std::string& key, std::string& blob) {
  const size_t head = sizeof kPlanMagic - 1, body = head + 16;
  uint64_t n = 0;
  if (file.size() < body + sizeof n || file.compare(0, head, kPlanMagic) != 0) return false;
  if (file.compare(head, 16, hexadecimal(XXH3_64bits(file.data() + body, file.size() - body))) != 0) return false;
  std::memcpy(&n, file.data() + body, sizeof n);
  const size_t at = body + sizeof n;
  if (n != key.size() || file.size() - at < n || file.compare(at, key.size(), key) != 0) return false;
  blob = file.substr(at + key.size());
  return !blob.empty();
}

}  // namespace llmtrain::cuda
