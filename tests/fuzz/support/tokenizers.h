// Small tokenizers for seeds, and texts to try a loaded one with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "data/tokenizer_data.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {

// A byte-level tokenizer without merges, with the special tokens of common templates, in scratch()/NAME.
inline std::string byte_tokenizer_folder(const std::string& name) {
  const std::string folder = scratch() + "/" + name;
  make_directories(folder);
  Json vocabulary = Json::object(), added = Json::array();
  int id = 0;
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  for (const std::string& byte : alphabet.text) vocabulary[byte] = id++;
  for (const char* token : {"<|begin|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end|>"})
    added.push_back({{"id", id++}, {"content", token}, {"special", true}, {"normalized", false}});
  const Json bytes{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  put(name + "/tokenizer.json", dump_json(Json{{"added_tokens", added}, {"pre_tokenizer", bytes}, {"decoder", bytes},
                                               {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}}));
  put(name + "/tokenizer_config.json", dump_json(Json{{"bos_token", "<|begin|>"}, {"eos_token", "<|im_end|>"}}));
  return folder;
}

// Encodes and decodes a few texts: what was accepted must work.
inline void use_tokenizer(const Tokenizer& tokenizer) {
  Encoder encoder(tokenizer);
  std::vector<int32_t> ids;
  for (const char* text : {"", "ab ab  <s>ba\n c", "Hello, W\xC3\xB6rld! \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x99\x82 12345", " \xE2\x96\x81 \xCC\x81\xFF\xC0 x"}) encoder.encode(text, ids);
  encoder.encode(std::string(500, 'a'), ids);
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocab_size()) finding("the id " + std::to_string(id) + " is outside the vocabulary");
  }
  tokenizer.decode(ids, false);
  tokenizer.decode(ids, true);
  tokenizer.token_of(tokenizer.vocab_size() - 1);
}

}  // namespace llmtrain::fuzz
