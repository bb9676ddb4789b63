// Reads tokenizer.json. The vocabulary and the merges, which are nearly all of the file, are streamed into their tables; everything else is
// parsed as JSON. What would change the ids and is not known here is refused by name.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer_data.h"
#include "data/tokenizer_json_scan.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxFile = size_t{1} << 30, kMaxPart = size_t{1} << 20;

const char* const kAdvice = "Known are byte-level BPE (GPT-2, Qwen, Llama 3, Phi-4) and SentencePiece-style BPE (Llama 2, Mistral, Phi-3).";

[[noreturn]] void refuse(const std::string& file, const std::string& what) { throw InputError(file, what + " is not supported", kAdvice); }

const Json* member(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
std::string text_of(const Json& object, const char* key, const std::string& where) {
  const Json* v = member(object, key);
  if (!v || !v->is_string()) throw InputError(where, std::string("\"") + key + "\" must be a string");
  return v->get<std::string>();
}
bool flag(const Json& object, const char* key, bool fallback, const std::string& where) {
  const Json* v = member(object, key);
  if (!v) return fallback;
  if (!v->is_boolean()) throw InputError(where, std::string("\"") + key + "\" must be true or false");
  return v->get<bool>();
}
std::string type_of(const Json& object, const std::string& where) {
  if (!object.is_object()) throw InputError(where, "an object with a \"type\" is expected");
  return text_of(object, "type", where);
}
const Json& list_of(const Json& object, const char* key, const std::string& where) {
  const Json* v = member(object, key);
  if (!v || !v->is_array()) throw InputError(where, std::string("\"") + key + "\" must be a list");
  return *v;
}
// {"String": "…"} of a Replace; a regular expression is refused.
std::string literal_pattern(const Json& object, const std::string& file, const std::string& where) {
  const Json* pattern = member(object, "pattern");
  if (!pattern || !pattern->is_object()) throw InputError(where, "\"pattern\" must be {\"String\": …}");
  if (const Json* regex = member(*pattern, "Regex")) refuse(file, where.substr(file.size() + 2) + " by the regular expression " + regex->dump());
  return text_of(*pattern, "String", where);
}

void read_normalizer(const Json& value, const std::string& file, TokenizerData& data) {
  const std::string where = file + ": normalizer";
  const std::string type = type_of(value, where);
  NormalizeStep step;
  if (type == "Sequence") {
    for (const Json& part : list_of(value, "normalizers", where)) read_normalizer(part, file, data);
    return;
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.kind = NormalizeStep::Kind::kForm;
    step.form = type == "NFC" ? NormalForm::kNFC : type == "NFD" ? NormalForm::kNFD : type == "NFKC" ? NormalForm::kNFKC : NormalForm::kNFKD;
  } else if (type == "Prepend") {
    step.kind = NormalizeStep::Kind::kPrepend;
    step.content = text_of(value, "prepend", where);
  } else if (type == "Replace") {
    step.kind = NormalizeStep::Kind::kReplace;
    step.pattern = literal_pattern(value, file, where);
    step.content = text_of(value, "content", where);
    if (step.pattern.empty()) throw InputError(where, "a Replace with an empty pattern");
  } else {
    refuse(file, "the normalizer " + type);
  }
  data.normalizer.push_back(std::move(step));
}

void read_metaspace(const Json& value, const std::string& file, PreStep& step) {
  const std::string where = file + ": Metaspace";
  if (text_of(value, "replacement", where) != kMarker) refuse(file, "a Metaspace with a replacement other than U+2581");
  std::string scheme = member(value, "prepend_scheme") ? text_of(value, "prepend_scheme", where) : "always";
  if (!flag(value, "add_prefix_space", true, where)) {
    if (member(value, "prepend_scheme") && scheme != "never") refuse(file, "a Metaspace with add_prefix_space false and prepend_scheme " + scheme);
    scheme = "never";
  }
  if (scheme != "always" && scheme != "first" && scheme != "never") refuse(file, "the prepend_scheme " + scheme);
  step.kind = PreStep::Kind::kMarker;
  step.prepend = scheme == "always" ? PreStep::Prepend::kAlways : scheme == "first" ? PreStep::Prepend::kFirst : PreStep::Prepend::kNever;
  step.cut = flag(value, "split", true, where);
}

void read_pre_tokenizer(const Json& value, const std::string& file, TokenizerData& data) {
  const std::string where = file + ": pre_tokenizer";
  const std::string type = type_of(value, where);
  if (type == "Sequence") {
    for (const Json& part : list_of(value, "pretokenizers", where)) read_pre_tokenizer(part, file, data);
    return;
  }
  if (data.byte_level) refuse(file, "the pre_tokenizer " + type + " after ByteLevel");
  PreStep step;
  if (type == "Split") {
    const Json* pattern = member(value, "pattern");
    const Json* regex = pattern && pattern->is_object() ? member(*pattern, "Regex") : nullptr;
    if (!regex || !regex->is_string()) refuse(file, "the pre_tokenizer Split by " + (pattern ? pattern->dump() : std::string("nothing")));
    const auto known = recognise_split_pattern(regex->get_ref<const std::string&>());
    if (!known) refuse(file, "the pre_tokenizer Split by the regular expression " + regex->get<std::string>());
    const std::string behavior = text_of(value, "behavior", where);
    if (behavior != "Isolated" || flag(value, "invert", false, where)) {
      refuse(file, "the pre_tokenizer Split with behavior " + behavior + " or invert");
    }
    step.pattern = *known;
    data.pre_steps.push_back(step);
  } else if (type == "Digits") {
    step.kind = PreStep::Kind::kDigits;
    step.individual = flag(value, "individual_digits", false, where);
    data.pre_steps.push_back(step);
  } else if (type == "Metaspace") {
    read_metaspace(value, file, step);
    data.pre_steps.push_back(step);
  } else if (type == "ByteLevel") {
    data.byte_level = true;
    if (flag(value, "add_prefix_space", true, where)) {
      step.kind = PreStep::Kind::kPrefixSpace;
      data.pre_steps.push_back(step);
    }
    if (flag(value, "use_regex", true, where)) {
      step.kind = PreStep::Kind::kSplit;
      data.pre_steps.push_back(step);  // the default pattern is GPT-2's
    }
  } else {
    refuse(file, "the pre_tokenizer " + type);
  }
}

// The token that the TemplateProcessing puts before a single text. Nothing else of a post_processor has an effect here, so anything else is passed over.
std::string first_of_post_processor(const Json& value) {
  if (!value.is_object()) return "";
  const Json* type = member(value, "type");
  const Json* parts = member(value, "processors");
  if (type && *type == "Sequence" && parts && parts->is_array()) {
    for (const Json& part : *parts) {
      const std::string token = first_of_post_processor(part);
      if (!token.empty()) return token;
    }
  }
  const Json* single = member(value, "single");
  if (!type || *type != "TemplateProcessing" || !single || !single->is_array() || single->empty() || !single->front().is_object()) return "";
  const Json* special = member(single->front(), "SpecialToken");
  const Json* id = special && special->is_object() ? member(*special, "id") : nullptr;
  return id && id->is_string() ? id->get<std::string>() : "";
}

void check_pre_tokenizers(const TokenizerData& data) {
  for (size_t i = 0; i < data.pre_steps.size(); ++i) {
    if (data.pre_steps[i].kind != PreStep::Kind::kMarker) continue;
    if (data.byte_level) refuse(data.file, "Metaspace before ByteLevel");
    if (i + 1 < data.pre_steps.size()) refuse(data.file, "a pre_tokenizer after Metaspace");
  }
}

size_t count_of(const Json& object, const char* key, const std::string& where) {
  const Json* v = member(object, key);
  if (!v || !v->is_number_unsigned()) throw InputError(where, std::string("\"") + key + "\" must be a whole number");
  return v->get<size_t>();
}

void read_decoder(const Json& value, const std::string& file, TokenizerData& data) {
  const std::string where = file + ": decoder";
  const std::string type = type_of(value, where);
  DecodeStep step;
  if (type == "Sequence") {
    for (const Json& part : list_of(value, "decoders", where)) read_decoder(part, file, data);
    return;
  }
  if (type == "ByteLevel") {
    step.kind = DecodeStep::Kind::kByteLevel;
  } else if (type == "Metaspace") {
    PreStep metaspace;
    read_metaspace(value, file, metaspace);
    step.kind = DecodeStep::Kind::kMetaspace;
    step.prefix = metaspace.prepend != PreStep::Prepend::kNever;
  } else if (type == "Replace") {
    step.kind = DecodeStep::Kind::kReplace;
    step.pattern = literal_pattern(value, file, where);
    step.content = text_of(value, "content", where);
    if (step.pattern.empty()) throw InputError(where, "a Replace with an empty pattern");
  } else if (type == "ByteFallback") {
    step.kind = DecodeStep::Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = DecodeStep::Kind::kFuse;
  } else if (type == "Strip") {
    step.kind = DecodeStep::Kind::kStrip;
    step.content = text_of(value, "content", where);
    if (step.content.empty()) throw InputError(where, "a Strip without content");
    step.start = count_of(value, "start", where);
    step.stop = count_of(value, "stop", where);
  } else {
    refuse(file, "the decoder " + type);
  }
  data.decoder.push_back(std::move(step));
}

void read_added_token(const Json& entry, const std::string& file, TokenizerData& data) {
  const std::string where = file + ": added_tokens";
  if (!entry.is_object()) throw InputError(where, "an entry is no object");
  AddedToken token;
  token.content = text_of(entry, "content", where);
  const Json* id = member(entry, "id");
  if (!id || !id->is_number_unsigned()) throw InputError(where, "the id of \"" + token.content + "\" must be a whole number, 0 or more");
  token.single_word = flag(entry, "single_word", false, where);
  token.lstrip = flag(entry, "lstrip", false, where);
  token.rstrip = flag(entry, "rstrip", false, where);
  token.special = flag(entry, "special", false, where);
  token.normalized = flag(entry, "normalized", !token.special, where);
  const uint64_t written = id->get<uint64_t>();
  add_token(data, std::move(token), static_cast<int64_t>(std::min<uint64_t>(written, INT32_MAX)), where);
}

// A part that becomes JSON in memory: kept small, because a document takes many times the memory of its text.
Json small_part(std::string_view text, const std::string& where) {
  if (text.size() > kMaxPart) throw InputError(where, "larger than 1 MiB");
  return parse_json(text, where);
}

// One entry after the other: there may be thousands.
void read_added_tokens(std::string_view text, size_t at, const std::string& file, TokenizerData& data) {
  if (text.empty() || text == "null") return;
  JsonScanner scan(text, file, at);
  scan.expect('[');
  if (scan.take(']')) return;
  do {
    read_added_token(small_part(scan.skip_value(), file + ": added_tokens"), file, data);
  } while (scan.take(','));
  scan.expect(']');
  scan.end();
}

// {"token": id, …}
void read_vocabulary(JsonScanner& scan, const std::string& file, size_t file_bytes, TokenizerData& data) {
  scan.expect('{');
  if (scan.take('}')) return;
  std::string token;
  do {
    token = scan.string();
    scan.expect(':');
    const int64_t id = scan.integer();
    // Every entry takes at least six bytes of the file: a table as long as the file is more than any real one needs.
    if (id < 0 || id > INT32_MAX - 1 || static_cast<uint64_t>(id) > file_bytes) {
      throw InputError(file, "the id " + std::to_string(id) + " of the token \"" + token + "\" is out of range");
    }
    if (!data.vocabulary.add(token, static_cast<int32_t>(id))) {
      const bool twice = data.vocabulary.find(token) >= 0;
      throw InputError(file, "in the vocabulary " + (twice ? "the token \"" + token + "\"" : "the id " + std::to_string(id)) + " stands twice");
    }
  } while (scan.take(','));
  scan.expect('}');
  scan.end();
}

// ["a b", …] or [["a", "b"], …]
void read_merges(JsonScanner& scan, const std::string& file, TokenizerData& data) {
  scan.expect('[');
  if (scan.take(']')) return;
  std::string joined, left, right;
  uint32_t rank = 0;
  const Vocabulary& vocabulary = data.vocabulary;
  do {
    size_t cut = 0;
    if (scan.take('[')) {
      joined = scan.string();
      cut = joined.size();
      scan.expect(',');
      joined += scan.string();
      scan.expect(']');
    } else {
      joined = scan.string();
      cut = joined.find(' ');
      if (cut == std::string::npos || joined.find(' ', cut + 1) != std::string::npos) {
        throw InputError(file, "merge " + std::to_string(rank) + ", \"" + joined + "\", is not two tokens with one space between them");
      }
      joined.erase(cut, 1);
    }
    const std::string_view all(joined);
    const int32_t a = vocabulary.find(all.substr(0, cut)), b = vocabulary.find(all.substr(cut)), ab = vocabulary.find(all);
    if (a < 0 || b < 0 || ab < 0) {
      const std::string_view missing = a < 0 ? all.substr(0, cut) : b < 0 ? all.substr(cut) : all;
      throw InputError(file, "merge " + std::to_string(rank) + " needs the token \"" + std::string(missing) + "\", which is not in the vocabulary");
    }
    data.merges.add(a, b, ab, rank++);
  } while (scan.take(','));
  scan.expect(']');
  scan.end();
}

std::string optional_text(const Json& object, const char* key, const std::string& where) {
  return member(object, key) ? text_of(object, key, where) : "";
}

struct ModelText {
  std::string_view vocabulary, merges;
  size_t vocabulary_at = 0, merges_at = 0;
  Json rest = Json::object();
};

// Cuts the two tables out of the model; its other members become JSON.
ModelText cut_model(JsonScanner& scan, const std::string& file) {
  ModelText model;
  std::set<std::string> keys;
  scan.expect('{');
  if (scan.take('}')) return model;
  do {
    const std::string key(scan.string());
    if (!keys.insert(key).second) throw InputError(file, "the key \"model." + key + "\" stands twice");
    scan.expect(':');
    scan.peek();
    const size_t at = scan.offset();
    const std::string_view value = scan.skip_value();
    if (key == "vocab") {
      model.vocabulary = value;
      model.vocabulary_at = at;
    } else if (key == "merges") {
      model.merges = value;
      model.merges_at = at;
    } else {
      model.rest[key] = small_part(value, file + ": model." + key);
    }
  } while (scan.take(','));
  scan.expect('}');
  return model;
}

void read_model(const ModelText& model, size_t file_bytes, TokenizerData& data) {
  const std::string& file = data.file;
  const std::string where = file + ": model";
  const std::string type = member(model.rest, "type") ? text_of(model.rest, "type", where) : model.merges.empty() ? "without merges" : "BPE";
  if (type != "BPE") refuse(file, "the tokenizer model " + type);
  if (const Json* dropout = member(model.rest, "dropout"); dropout && *dropout != 0.0) refuse(file, "BPE with dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!optional_text(model.rest, key, where).empty()) refuse(file, std::string("BPE with ") + key);
  }
  if (model.vocabulary.empty() || model.vocabulary[0] != '{') throw InputError(file, "model.vocab is missing or no object");
  if (model.merges.empty() || model.merges[0] != '[') throw InputError(file, "model.merges is missing or no list");
  data.fuse_unknown = flag(model.rest, "fuse_unk", false, where);
  data.byte_fallback = flag(model.rest, "byte_fallback", false, where);
  data.ignore_merges = flag(model.rest, "ignore_merges", false, where);

  // A line of a vocabulary has at least 10 bytes, a line of merges 10: enough to size the tables within a factor of a few.
  data.vocabulary.reserve(model.vocabulary.size() / 24, model.vocabulary.size() / 2);
  JsonScanner vocabulary(model.vocabulary, file, model.vocabulary_at);
  read_vocabulary(vocabulary, file, file_bytes, data);
  data.merges.reserve(model.merges.size() / 48);
  JsonScanner merges(model.merges, file, model.merges_at);
  read_merges(merges, file, data);

  const std::string unknown = optional_text(model.rest, "unk_token", where);
  if (!unknown.empty()) data.unknown_id = data.vocabulary.find(unknown);
  data.unk_token = unknown;
}

}  // namespace

void read_tokenizer_json(const std::string& path, TokenizerData& data) {
  data.file = path;
  const MappedFile file(path);
  if (file.size() > kMaxFile) throw InputError(path, "larger than 1 GiB");
  if (!utf8_is_valid(file.view())) throw InputError(path, "not UTF-8 text");
  JsonScanner scan(file.view(), path);
  std::set<std::string> keys;
  Json normalizer, pre_tokenizer, decoder;
  std::string_view added;
  size_t added_at = 0;
  ModelText model;
  bool has_model = false;
  scan.expect('{');
  if (!scan.take('}')) {
    do {
      const std::string key(scan.string());
      if (!keys.insert(key).second) throw InputError(path, "the key \"" + key + "\" stands twice");
      scan.expect(':');
      if (key == "model" && scan.peek() == '{') {
        model = cut_model(scan, path);
        has_model = true;
        continue;
      }
      scan.peek();
      const size_t at = scan.offset();
      const std::string_view text = scan.skip_value();
      if (key == "added_tokens") {
        added = text;
        added_at = at;
        continue;
      }
      Json value = small_part(text, path + ": " + key);
      if (key == "normalizer") normalizer = std::move(value);
      else if (key == "pre_tokenizer") pre_tokenizer = std::move(value);
      else if (key == "decoder") decoder = std::move(value);
      else if (key == "post_processor") data.post_first = first_of_post_processor(value);
    } while (scan.take(','));
    scan.expect('}');
  }
  scan.end();
  if (!has_model) throw InputError(path, "has no \"model\"");
  read_model(model, file.size(), data);
  if (!normalizer.is_null()) read_normalizer(normalizer, path, data);
  if (!pre_tokenizer.is_null()) read_pre_tokenizer(pre_tokenizer, path, data);
  check_pre_tokenizers(data);
  if (!decoder.is_null()) read_decoder(decoder, path, data);
  data.has_decoder = !decoder.is_null();
  read_added_tokens(added, added_at, path, data);
}

}  // namespace llmtrain
