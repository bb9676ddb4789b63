// JSON with the limits that hostile files need: depth, duplicate keys, size. Built on nlohmann::ordered_json (keys keep their order).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace llmtrain {

using Json = nlohmann::ordered_json;

inline constexpr int kJsonMaxDepth = 64;

// Parses one document. InputError with `where` and the byte or line for: broken syntax, depth over 64, a duplicate key, bytes after
// the end, text that is not UTF-8.
Json parse_json(std::string_view text, const std::string& where);
Json parse_json_file(const std::string& path, size_t limit_bytes = size_t{1} << 30);

// The whole number under `key` in [least, most]; InputError with `where` and the key where it is missing, no whole number, or outside. (Json::get casts
// whatever number stands there: 1e300 to an int is undefined.)
int64_t whole_number(const Json& object, const char* key, int64_t least, int64_t most, const std::string& where);

// One line; floats are written with the fewest digits that read back exactly. JSON has no NaN and no infinities: they become null, so that every reader,
// parse_json() included, takes what is written. Text that is not UTF-8 is replaced by U+FFFD.
std::string dump_json(const Json& value, int indent = -1);

// A number that must come back as it was: itself, or "nan", "inf", "-inf". from_exact() raises InputError with `where` for anything else.
Json exact_number(double value);
double from_exact(const Json& value, const std::string& where);

}  // namespace llmtrain
