// The tokenizer as a whole: loading a folder, tokens by name and id, tokenizer_config.json.
#include "data/tokenizer.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/file.h"
#include "core/flattened_link.h"
#include "core/json.h"
#include "data/tokenizer_data.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxConfig = size_t{4} << 20;  // a JSON document in memory takes many times the memory of its text

// A special token is written as a string or as an AddedToken object.
std::string token_text(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object()) {
    const auto content = value.find("content");
    if (content != value.end() && content->is_string()) return content->get<std::string>();
  }
  throw InputError(where, "a token must be a string or an object with \"content\"");
}

bool flag(const Json& object, const char* key, bool fallback, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return fallback;
  if (!it->is_boolean()) throw InputError(where, std::string("\"") + key + "\" must be true or false");
  return it->get<bool>();
}

AddedToken token_flags(const Json& value, const std::string& where) {
  AddedToken token;
  token.content = token_text(value, where);
  token.special = value.is_string() || flag(value, "special", false, where);
  token.normalized = !token.special;
  if (value.is_object()) {
    token.single_word = flag(value, "single_word", false, where);
    token.lstrip = flag(value, "lstrip", false, where);
    token.rstrip = flag(value, "rstrip", false, where);
    token.normalized = flag(value, "normalized", !token.special, where);
  }
  return token;
}

// added_tokens_decoder: {"128000": {"content": …}, …}, by ascending id.
void read_added_tokens_decoder(TokenizerData& data, const Json& table, const std::string& where) {
  if (!table.is_object()) throw InputError(where, "\"added_tokens_decoder\" must be an object");
  std::map<int64_t, const Json*> by_id;
  for (auto it = table.begin(); it != table.end(); ++it) {
    const std::string& key = it.key();
    if (key.empty() || key.size() > 10 || key.find_first_not_of("0123456789") != std::string::npos) {
      throw InputError(where, "\"added_tokens_decoder\": \"" + key + "\" is no token id");
    }
    by_id[std::stoll(key)] = &*it;
  }
  for (const auto& [id, value] : by_id) add_token(data, token_flags(*value, where + ": added_tokens_decoder"), id, where);
}

// A named special token that the tokenizer does not know yet is added, as AutoTokenizer does.
void read_named_token(TokenizerData& data, const Json& config, const char* key, std::string& text, const std::string& where) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return;
  AddedToken token = token_flags(*it, where + ": " + key);
  text = token.content;
  if (text.empty() || data.added_index.count(text)) return;
  token.special = true;
  if (it->is_string()) token.normalized = false;
  add_token(data, std::move(token), -1, where);
}

std::string chat_template_of(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) throw InputError(where, "\"chat_template\" must be a string or a list of {name, template}");
  std::string only;
  for (const Json& entry : value) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") || !entry["name"].is_string()
        || !entry["template"].is_string()) {
      throw InputError(where, "\"chat_template\": an entry is not {\"name\": …, \"template\": …}");
    }
    if (entry["name"] == "default" || value.size() == 1) only = entry["template"].get<std::string>();
  }
  return only;
}

}  // namespace

void read_tokenizer_config(TokenizerData& data) {
  const std::string path = data.folder + "/tokenizer_config.json", map_path = data.folder + "/special_tokens_map.json";
  Json config = Json::object();
  if (is_regular_file(path)) config = parse_json_file(path, kMaxConfig);
  if (!config.is_object()) throw InputError(path, "an object is expected");
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder != config.end() && !decoder->is_null()) read_added_tokens_decoder(data, *decoder, path);

  std::string unknown;
  const std::pair<const char*, std::string*> names[] = {{"bos_token", &data.bos_token}, {"eos_token", &data.eos_token}, {"unk_token", &unknown},
      {"pad_token", &data.pad_token}};
  for (const auto& [key, text] : names) read_named_token(data, config, key, *text, path);
  std::string ignored;
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto list = config.find(key);
    if (list == config.end() || !list->is_array()) continue;
    for (const Json& token : *list) read_named_token(data, Json{{"token", token}}, "token", ignored, path + ": " + key);
  }
  if (is_regular_file(map_path)) {
    const Json map = parse_json_file(map_path, kMaxConfig);
    if (!map.is_object()) throw InputError(map_path, "an object is expected");
    for (const auto& [key, text] : names) {
      if (text->empty()) read_named_token(data, map, key, *text, map_path);
    }
  }
  if (!unknown.empty()) data.unk_token = unknown;
  // As transformers: the post_processor of tokenizer.json decides (Llama 3 has no add_bos_token), unless the class has a rule of its own for add_bos_token;
  // PreTrainedTokenizerFast has none and does not let `false` take the BOS away.
  const auto kind = config.find("tokenizer_class");
  const bool no_rule = kind != config.end() && *kind == "PreTrainedTokenizerFast";
  const bool bos_first = !data.bos_token.empty() && data.post_first == data.bos_token;
  data.add_bos_token = flag(config, "add_bos_token", bos_first, path) || (no_rule && bos_first);

  const auto chat = config.find("chat_template");
  if (chat != config.end() && !chat->is_null()) data.chat_template = chat_template_of(*chat, path);
  const std::string jinja = data.folder + "/chat_template.jinja";
  if (is_regular_file(jinja)) data.chat_template = read_file(jinja, kMaxConfig);
}

void add_token(TokenizerData& data, AddedToken token, int64_t written_id, const std::string& where) {
  if (token.content.empty()) return;
  const auto known = data.added_index.find(token.content);
  if (known != data.added_index.end()) {
    AddedToken& old = data.added[static_cast<size_t>(known->second)];
    token.id = old.id;
    token.special = token.special || old.special;
    old = token;
  } else {
    token.id = data.vocabulary.find(token.content);
    if (token.id < 0) {  // the next free id: after the model's tokens and the added ones
      token.id = std::max(static_cast<int32_t>(data.vocabulary.count()), data.added_end);
      if (data.vocabulary.has(token.id)) {
        throw InputError(where,
            "the added token \"" + token.content + "\" would get the id " + std::to_string(token.id) + ", which the vocabulary uses (it has holes)");
      }
    }
    data.added_index[token.content] = static_cast<int32_t>(data.added.size());
    data.added_by_id[token.id] = static_cast<int32_t>(data.added.size());
    data.added_end = std::max(data.added_end, token.id + 1);
    data.added.push_back(token);
  }
  if (written_id >= 0 && written_id != token.id) {
    throw InputError(where,
        "the added token \"" + token.content + "\" has the id " + std::to_string(written_id) + ", but it gets the id " + std::to_string(token.id),
        "Ids of added tokens follow the vocabulary without a gap, in the order of the list; Hugging Face tokenizers ignores what is written.");
  }
}

int32_t TokenizerData::id_of(std::string_view token) const {
  const auto it = added_index.find(std::string(token));
  return it != added_index.end() ? added[static_cast<size_t>(it->second)].id : vocabulary.find(token);
}

Tokenizer Tokenizer::load(const std::string& folder) {
  auto data = std::make_shared<TokenizerData>();
  data->folder = folder;
  const std::string json = folder + "/tokenizer.json", model = folder + "/tokenizer.model";
  if (is_regular_file(json)) {
    read_tokenizer_json(follow_flattened_link(json), *data);
  } else if (is_regular_file(model)) {
    read_tokenizer_model(model, folder + "/tokenizer_config.json", *data);
  } else {
    throw InputError(folder, "holds neither tokenizer.json nor tokenizer.model", "Name a Hugging Face model folder that holds its tokenizer.");
  }
  read_tokenizer_config(*data);
  finish_tokenizer(*data);
  Tokenizer tokenizer;
  tokenizer.data_ = std::move(data);
  return tokenizer;
}

int32_t Tokenizer::vocab_size() const {
  return std::max(data_->vocabulary.end(), data_->added_end);
}
int32_t Tokenizer::id_of(std::string_view token) const { return data_->id_of(token); }
std::string Tokenizer::token_of(int32_t id) const {
  const auto it = data_->added_by_id.find(id);
  return it != data_->added_by_id.end() ? data_->added[static_cast<size_t>(it->second)].content : std::string(data_->vocabulary.token(id));
}
bool Tokenizer::is_special(int32_t id) const {
  const auto it = data_->added_by_id.find(id);
  return it != data_->added_by_id.end() && data_->added[static_cast<size_t>(it->second)].special;
}
const std::string& Tokenizer::bos_token() const { return data_->bos_token; }
const std::string& Tokenizer::eos_token() const { return data_->eos_token; }
const std::string& Tokenizer::pad_token() const { return data_->pad_token; }
const std::string& Tokenizer::unk_token() const { return data_->unk_token; }
int32_t Tokenizer::bos_id() const { return data_->bos_token.empty() ? -1 : id_of(data_->bos_token); }
int32_t Tokenizer::eos_id() const { return data_->eos_token.empty() ? -1 : id_of(data_->eos_token); }
int32_t Tokenizer::pad_id() const { return data_->pad_token.empty() ? -1 : id_of(data_->pad_token); }
bool Tokenizer::add_bos_token() const { return data_->add_bos_token; }
const std::string& Tokenizer::chat_template() const { return data_->chat_template; }
const std::string& Tokenizer::folder() const { return data_->folder; }

}  // namespace llmtrain
