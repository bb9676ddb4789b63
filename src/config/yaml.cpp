#include "config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <set>
#include <sstream>

#include "config/value.h"
#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& where) : where_(where) {}
  YamlNode root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(mark, YamlNode{});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { fail(mark, "an alias (*name) is not accepted", "write the value out"); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& text) override {
    refuse_anchor(mark, anchor);
    YamlNode node;
    node.quoted = tag == "!" || tag == "tag:yaml.org,2002:str";
    if (!node.quoted) refuse_tag(mark, tag);
    if (in_key_position()) {
      take_key(mark, text);
      return;
    }
    node.kind = !node.quoted && is_null_word(text) ? YamlNode::Kind::null : YamlNode::Kind::scalar;
    node.text = text;
    add(mark, std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlNode node;
    std::string key;
    bool has_key = false;
    std::set<std::string> keys;
  };

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what, const std::string& advice = "") const {
    throw InputError(where_ + ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1), what, advice);
  }
  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) fail(mark, "an anchor (&name) is not accepted", "write the value out where it is needed");
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    static constexpr std::string_view kPlain = "tag:yaml.org,2002:";
    if (tag.empty() || tag == "?") return;
    for (const char* known : {"int", "float", "bool", "null", "map", "seq"})
      if (tag == std::string(kPlain) + known) return;
    fail(mark, "the tag '" + tag + "' is not accepted", "leave the tag out");
  }
  bool in_key_position() const { return !levels_.empty() && levels_.back().node.kind == YamlNode::Kind::map && !levels_.back().has_key; }
  void take_key(const YAML::Mark& mark, const std::string& key) {
    Level& level = levels_.back();
    if (!level.keys.insert(key).second) fail(mark, "the key '" + key + "' stands twice", "remove one of the two lines");
    level.key = key;
    level.has_key = true;
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag == "!" ? "" : tag);
    if (in_key_position()) fail(mark, "a list or map cannot be a key");
    if (levels_.size() >= kYamlMaxDepth) fail(mark, "nested deeper than " + std::to_string(kYamlMaxDepth) + " levels");
    levels_.emplace_back();
    levels_.back().node.kind = kind;
    levels_.back().node.line = mark.line + 1;
  }
  void close() {
    YamlNode node = std::move(levels_.back().node);
    levels_.pop_back();
    put(std::move(node));
  }
  void add(const YAML::Mark& mark, YamlNode node) {
    if (in_key_position()) fail(mark, "a key is missing before ':'");
    node.line = mark.line + 1;
    put(std::move(node));
  }
  void put(YamlNode node) {
    if (levels_.empty()) {
      root = std::move(node);
      return;
    }
    Level& level = levels_.back();
    if (level.node.kind == YamlNode::Kind::list) {
      level.node.items.push_back(std::move(node));
    } else {
      level.node.entries.emplace_back(std::move(level.key), std::move(node));
      level.has_key = false;
    }
  }

  std::string where_;
  std::vector<Level> levels_;
};

// Broken UTF-8 would be replaced silently by the scanner.
void check_text(std::string_view text, const std::string& where) {
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    bool good = n > 0 && i + n <= text.size() && c != 0;
    for (size_t k = 1; good && k < n; ++k) good = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (!good) throw InputError(where + ":" + std::to_string(line), "not UTF-8 text (byte " + std::to_string(i) + ")");
    line += c == '\n';
    i += n;
  }
}

YamlNode parse_document(std::string_view text, const std::string& where) {
  if (text.size() > kYamlMaxBytes) throw InputError(where, "larger than 1 MiB, which no configuration is");
  check_text(text, where);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    TreeBuilder builder(where);
    parser.HandleNextDocument(builder);
    TreeBuilder second(where);
    if (parser.HandleNextDocument(second)) throw InputError(where, "holds more than one YAML document ('---')", "keep one");
    return std::move(builder.root);
  } catch (const YAML::ParserException& e) {
    throw InputError(where + ":" + std::to_string(e.mark.line + 1) + ":" + std::to_string(e.mark.column + 1), "broken YAML: " + e.msg);
  } catch (const YAML::Exception& e) {
    throw InputError(where, "broken YAML: " + e.msg);
  }
}

}  // namespace

YamlNode parse_yaml(std::string_view text, const std::string& where) {
  YamlNode root = parse_document(text, where);
  if (root.kind == YamlNode::Kind::null) throw InputError(where, "is empty", "a configuration is a list of 'key: value' lines");
  if (root.kind != YamlNode::Kind::map)
    throw InputError(where + ":" + std::to_string(root.line), "is not a map", "a configuration is a list of 'key: value' lines");
  return root;
}

YamlNode parse_yaml_file(const std::string& path) { return parse_yaml(read_file(path, kYamlMaxBytes), path); }

YamlNode parse_yaml_value(std::string_view text, const std::string& where) {
  YamlNode node;
  const bool structured = !text.empty() && (text[0] == '[' || text[0] == '{' || text[0] == '"' || text[0] == '\'');
  if (structured) return parse_document(text, where);
  check_text(text, where);
  if (is_null_word(text)) return node;
  node.kind = YamlNode::Kind::scalar;
  node.text = text;
  return node;
}

}  // namespace llmtrain
