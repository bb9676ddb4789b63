#include "core/dtype.h"

#include "core/error.h"

namespace llmtrain {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64: return 8;
    case DType::float32:
    case DType::int32: return 4;
    case DType::bfloat16:
    case DType::float16:
    case DType::int16: return 2;
    case DType::int8:
    case DType::uint8:
    case DType::boolean: return 1;
  }
  LLMTRAIN_ASSERT(false, "dtype");
}

namespace {
struct Names {
  DType dtype;
  const char* torch;
  const char* safetensors;
};
constexpr Names kNames[] = {
    {DType::float32, "float32", "F32"}, {DType::bfloat16, "bfloat16", "BF16"}, {DType::float16, "float16", "F16"},
    {DType::float64, "float64", "F64"}, {DType::int64, "int64", "I64"},        {DType::int32, "int32", "I32"},
    {DType::int16, "int16", "I16"},     {DType::int8, "int8", "I8"},           {DType::uint8, "uint8", "U8"},
    {DType::boolean, "bool", "BOOL"},
};
}  // namespace

const char* name_of(DType dtype) { return kNames[static_cast<int>(dtype)].torch; }
const char* safetensors_name(DType dtype) { return kNames[static_cast<int>(dtype)].safetensors; }

DType parse_dtype(std::string_view name, const std::string& where) {
  for (const Names& n : kNames) {
    if (name == n.torch || name == n.safetensors) return n.dtype;
  }
  if (name == "fp32" || name == "float") return DType::float32;
  if (name == "bf16") return DType::bfloat16;
  if (name == "fp16" || name == "half") return DType::float16;
  throw InputError(where, "unknown element type '" + std::string(name) + "'", "known: float32, bfloat16, float16");
}

float float16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ffu, bits;
  if (exponent == 0) {
    if (mantissa == 0) {
      bits = sign;
    } else {
      exponent = 127 - 15 + 1;
      while ((mantissa & 0x400u) == 0) {
        mantissa <<= 1;
        --exponent;
      }
      bits = sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13);
    }
  } else if (exponent == 31) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else {
    bits = sign | ((exponent + 127 - 15) << 23) | (mantissa << 13);
  }
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

uint16_t float_to_float16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, or zero
    if (magnitude < 0x33000000u) return sign;  // below 2^-25
    const int shift = 126 - static_cast<int>(magnitude >> 23);
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), middle = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (kept + (rest > middle || (rest == middle && (kept & 1u)))));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

namespace {
template <class Read, class Write>
void convert_each(size_t n, Read read, Write write) {
  for (size_t i = 0; i < n; ++i) write(i, read(i));
}

template <class Read>
void convert_from(Read read, void* to, DType to_type, size_t n) {
  switch (to_type) {
    case DType::float32: return convert_each(n, read, [p = static_cast<float*>(to)](size_t i, double v) { p[i] = static_cast<float>(v); });
    case DType::float64: return convert_each(n, read, [p = static_cast<double*>(to)](size_t i, double v) { p[i] = v; });
    case DType::bfloat16:
      return convert_each(n, read, [p = static_cast<bfloat16*>(to)](size_t i, double v) { p[i] = bfloat16(static_cast<float>(v)); });
    case DType::float16:
      return convert_each(n, read, [p = static_cast<uint16_t*>(to)](size_t i, double v) { p[i] = float_to_float16(static_cast<float>(v)); });
    default: LLMTRAIN_ASSERT(false, "conversion to a type that is not floating-point");
  }
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define LLMTRAIN_CLONES __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))  // picked when the program is loaded
#else
#define LLMTRAIN_CLONES
#endif

// bfloat16(float) without a branch, so that the compiler vectorises it: setting up a model rounds every weight.
LLMTRAIN_CLONES void round_to_bf16(const float* from, uint16_t* to, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    uint32_t u;
    std::memcpy(&u, from + i, sizeof u);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    to[i] = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
}
}  // namespace

void convert_elements(const void* from, DType from_type, void* to, DType to_type, size_t n) {
  if (from_type == to_type) {
    std::memcpy(to, from, n * size_of(from_type));
    return;
  }
  if (from_type == DType::bfloat16 && to_type == DType::float32) {
    const auto* p = static_cast<const bfloat16*>(from);
    auto* q = static_cast<float*>(to);
    for (size_t i = 0; i < n; ++i) q[i] = static_cast<float>(p[i]);
    return;
  }
  if (from_type == DType::float32 && to_type == DType::bfloat16) {
    round_to_bf16(static_cast<const float*>(from), static_cast<uint16_t*>(to), n);
    return;
  }
  switch (from_type) {
    case DType::float32: return convert_from([p = static_cast<const float*>(from)](size_t i) { return static_cast<double>(p[i]); }, to, to_type, n);
    case DType::float64: return convert_from([p = static_cast<const double*>(from)](size_t i) { return p[i]; }, to, to_type, n);
    case DType::bfloat16:
      return convert_from([p = static_cast<const bfloat16*>(from)](size_t i) { return static_cast<double>(static_cast<float>(p[i])); }, to, to_type,
                          n);
    case DType::float16:
      return convert_from([p = static_cast<const uint16_t*>(from)](size_t i) { return static_cast<double>(float16_to_float(p[i])); }, to, to_type, n);
    default: LLMTRAIN_ASSERT(false, "conversion from a type that is not floating-point");
  }
}

}  // namespace llmtrain
