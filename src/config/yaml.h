// YAML as this program takes it: one document, a map at its root, no aliases or anchors (380 bytes of them can unfold to 111 million
// nodes), no tags but the plain ones, no key twice, at most 1 MiB and 32 levels. Built on yaml-cpp's event parser, so nothing is built
// that the limits would refuse. Thread rules: plain values.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llmtrain {

inline constexpr size_t kYamlMaxBytes = size_t{1} << 20;
inline constexpr int kYamlMaxDepth = 32;

struct YamlEntry;

struct YamlNode {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text;                                       // scalar: as written
  bool quoted = false;                                    // scalar: in quotes or a block, so it is a text whatever it looks like
  int line = 0;                                           // from 1
  std::vector<YamlNode> items;                            // list
  std::vector<YamlEntry> entries;                         // map, in the file's order
};

struct YamlEntry {
  YamlEntry(std::string key, YamlNode value) : first(std::move(key)), second(std::move(value)) {}
  std::string first;
  YamlNode second;
};

// InputError "where:line:column: what" for broken or refused YAML. parse_yaml: a document whose root is a map.
YamlNode parse_yaml(std::string_view text, const std::string& where);
YamlNode parse_yaml_file(const std::string& path);
// One value, as it stands behind "key=" on the command line. Empty text is null.
YamlNode parse_yaml_value(std::string_view text, const std::string& where);

}  // namespace llmtrain
