// Which instructions the kernels may use on this machine.
#include <cstdlib>
#include <string>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/targets.h"

#include "hwy/targets.h"

namespace llmtrain::cpu {

namespace {
constexpr int64_t kAbove512 = HWY_AVX3 - 1, kAbove2 = HWY_AVX2 - 1;
}  // namespace

void limit_instruction_set() {
  const char* limit = std::getenv("LLMTRAIN_MAX_ISA");
  if (!limit || !*limit) return;
  const std::string name = limit;
  if (name == "avx512") {
    hwy::DisableTargets(kAbove512);
  } else if (name == "avx2") {
    hwy::DisableTargets(kAbove2);
  } else if (name == "baseline") {
    hwy::DisableTargets(kAbove2 | HWY_AVX2);
  } else {
    throw InputError("LLMTRAIN_MAX_ISA", "unknown instruction set '" + name + "'", "known: baseline, avx2, avx512");
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::string vector_isa() {
  const int64_t supported = hwy::SupportedTargets();
#if defined(__x86_64__)
  if (supported & HWY_AVX3) return bf16_dot_pays() ? "avx512 with bfloat16 dot products" : "avx512";
  if (supported & HWY_AVX2) return "avx2";
#endif
  return "baseline";
}

bool bf16_dot_pays() {
#if defined(__x86_64__)
  return (hwy::SupportedTargets() & HWY_AVX3) && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

}  // namespace llmtrain::cpu
