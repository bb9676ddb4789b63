// A safetensors file; what opens is read to the last element.
#include "hf/safetensors.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {
namespace {

std::string file(const std::string& header, size_t data_bytes) {
  const std::string text = json(header);
  std::string all(8, '\0');
  for (size_t i = 0; i < 8; ++i) all[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return all + text + std::string(data_bytes, '\x3c');
}

}  // namespace

const Target& target() {
  static const Target t{
      {file("{'__metadata__':{'format':'pt'},'a':{'dtype':'F32','shape':[2,3],'data_offsets':[0,24]},'b':{'dtype':'BF16','shape':[4],'data_offsets':[24,32]}}  ", 32),
       file("{'s':{'dtype':'I64','shape':[],'data_offsets':[0,8]},'e':{'dtype':'F16','shape':[0,5],'data_offsets':[8,8]}}", 8), file("{}", 0),
       file("{'a':{'dtype':'F64','shape':[4294967296,4294967296],'data_offsets':[0,0]}}", 0), std::string("\x80\x02}q\x00", 5), "PK\x03\x04"},
      json_words({"\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"__metadata__\"", "\"F32\"", "\"BF16\"", "\"F16\"", "\"F64\"", "\"I64\"", "\"U8\"", "\"BOOL\"",
                  "\"F8_E4M3\"", "[0,0]", "4294967296", std::string("\x02\0\0\0\0\0\0\0", 8), std::string(8, '\xFF')})};
  return t;
}

void take(std::string_view input) {
  const SafetensorsFile file = SafetensorsFile::open(put("model.safetensors", input));
  std::vector<double> room;
  for (const SafetensorsEntry& e : file.entries()) {
    if (e.end > input.size()) finding("a tensor ends behind the file");
    const int64_t n = e.shape.elements();
    room.resize(static_cast<size_t>(n));
    if (is_floating(e.dtype)) file.read_range(e, 0, n, room.data(), DType::float32);
    file.read_range(e, n > 0 ? n - 1 : 0, n > 0 ? 1 : 0, room.data(), e.dtype);
    if (file.find(e.name) != &e) finding("a tensor is not found by its name");
  }
}

}  // namespace llmtrain::fuzz
