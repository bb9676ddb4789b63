// Element types of tensors and the bfloat16 / float16 storage types.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace llmtrain {

enum class DType : uint8_t { float32, bfloat16, float16, float64, int64, int32, int16, int8, uint8, boolean };

// Bytes of one element.
size_t size_of(DType dtype);
// "float32", "bfloat16" … as torch and config.json write them.
const char* name_of(DType dtype);
// "F32", "BF16" … as safetensors writes them (https://huggingface.co/docs/safetensors).
const char* safetensors_name(DType dtype);
// Reads both kinds of name, and short ones ("fp32", "bf16"); InputError naming `where` for an unknown one.
DType parse_dtype(std::string_view name, const std::string& where);

// Storage of a bfloat16: the upper half of a float32. Rounds to nearest even, NaN stays a quiet NaN.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  explicit bfloat16(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
};
static_assert(sizeof(bfloat16) == 2);

// IEEE binary16 conversions for reading and writing float16 files.
float float16_to_float(uint16_t half);
uint16_t float_to_float16(float f);  // round to nearest even; overflow gives infinity

// Converts n elements between floating-point dtypes (float32, bfloat16, float16, float64), round to nearest even.
void convert_elements(const void* from, DType from_type, void* to, DType to_type, size_t n);

}  // namespace llmtrain
