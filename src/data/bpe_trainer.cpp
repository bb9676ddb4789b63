// Learns a byte-level BPE tokenizer (Sennrich et al. 2016, arXiv:1508.07909): again and again the most frequent pair of neighbours inside
// words becomes a token. Of equally frequent pairs the one with the smaller ids wins, so the result depends on the text alone.
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "data/tokenizer_data.h"

namespace llmtrain {
namespace {

constexpr const char* kSplitRegex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr size_t kLongestWord = 256;  // bytes

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

class Trainer {
 public:
  Trainer(std::string_view text, int32_t tokens);
  // Until there are `tokens` of them or no pair is left.
  void train();
  const std::vector<std::string>& tokens() const { return tokens_; }  // bytes
  const std::vector<std::pair<int32_t, int32_t>>& merges() const { return merges_; }

 private:
  struct Occurrences {
    int64_t count = 0;
    std::vector<uint32_t> words;  // words that held the pair at some time, some of them twice
  };
  struct Candidate {
    int64_t count;
    uint64_t pair;
    // Of equals the smaller ids are on top.
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : pair > other.pair; }
  };
  static uint64_t pair_of(int32_t left, int32_t right) { return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right); }
  void count_words(std::string_view text);
  void apply(uint64_t pair, int32_t merged);
  bool rewrite(Word& word, int32_t left, int32_t right, int32_t merged);

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> id_of_;
  std::vector<std::pair<int32_t, int32_t>> merges_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Occurrences> pairs_;
  std::priority_queue<Candidate> queue_;
  size_t wanted_;
};

Trainer::Trainer(std::string_view text, int32_t tokens) : wanted_(static_cast<size_t>(tokens)) {
  // Bytes in the order of the code points that stand for them, as GPT-2 numbers them.
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  for (const int16_t byte : alphabet.byte_of) {
    if (byte < 0) continue;
    tokens_.emplace_back(1, static_cast<char>(byte));
    id_of_.emplace(tokens_.back(), static_cast<int32_t>(tokens_.size() - 1));
  }
  count_words(text);
  for (uint32_t i = 0; i < words_.size(); ++i) {
    const Word& word = words_[i];
    for (size_t k = 0; k + 1 < word.symbols.size(); ++k) {
      Occurrences& pair = pairs_[pair_of(word.symbols[k], word.symbols[k + 1])];
      pair.count += word.count;
      if (pair.words.empty() || pair.words.back() != i) pair.words.push_back(i);
    }
  }
  for (const auto& [pair, occurrences] : pairs_) queue_.push({occurrences.count, pair});
}

void Trainer::count_words(std::string_view text) {
  const WordScanner scanner(UnicodeClasses::get(), *recognise_split_pattern(kSplitRegex));
  std::unordered_map<std::string_view, size_t> index;
  for (size_t at = 0; at < text.size();) {
    // Each merge walks the words that it changes: an endless word (a line of base64) is counted in parts.
    const size_t end = std::min(scanner.next(text, at), at + kLongestWord);
    const auto [entry, fresh] = index.try_emplace(text.substr(at, end - at), words_.size());
    if (fresh) {
      words_.emplace_back();
      for (const char c : entry->first) words_.back().symbols.push_back(id_of_.at(std::string(1, c)));
    }
    ++words_[entry->second].count;
    at = end;
  }
}

void Trainer::train() {
  while (tokens_.size() < wanted_ && !queue_.empty()) {
    const Candidate best = queue_.top();
    queue_.pop();
    const int64_t count = pairs_[best.pair].count;
    if (count != best.count) {  // an older count
      if (count > 0) queue_.push({count, best.pair});
      continue;
    }
    if (count <= 0) continue;
    const auto left = static_cast<int32_t>(best.pair >> 32), right = static_cast<int32_t>(best.pair & 0xFFFFFFFFu);
    const std::string token = tokens_[static_cast<size_t>(left)] + tokens_[static_cast<size_t>(right)];
    const auto [entry, fresh] = id_of_.try_emplace(token, static_cast<int32_t>(tokens_.size()));  // two ways may lead to one token
    if (fresh) tokens_.push_back(token);
    merges_.emplace_back(left, right);
    apply(best.pair, entry->second);
  }
}

// Merges the pair in every word that holds it and keeps the counts.
void Trainer::apply(uint64_t pair, int32_t merged) {
  std::vector<uint32_t> where = std::move(pairs_[pair].words);
  std::sort(where.begin(), where.end());
  where.erase(std::unique(where.begin(), where.end()), where.end());
  std::vector<uint64_t> touched;
  std::vector<int32_t> before;
  for (const uint32_t i : where) {
    Word& word = words_[i];
    before = word.symbols;
    if (!rewrite(word, static_cast<int32_t>(pair >> 32), static_cast<int32_t>(pair & 0xFFFFFFFFu), merged)) continue;
    for (size_t k = 0; k + 1 < before.size(); ++k) pairs_[pair_of(before[k], before[k + 1])].count -= word.count;
    for (size_t k = 0; k + 1 < word.symbols.size(); ++k) {
      const uint64_t now = pair_of(word.symbols[k], word.symbols[k + 1]);
      Occurrences& occurrences = pairs_[now];
      occurrences.count += word.count;
      if (word.symbols[k] != merged && word.symbols[k + 1] != merged) continue;
      if (occurrences.words.empty() || occurrences.words.back() != i) occurrences.words.push_back(i);
      touched.push_back(now);
    }
  }
  pairs_.erase(pair);
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  for (const uint64_t p : touched) queue_.push({pairs_[p].count, p});
}

bool Trainer::rewrite(Word& word, int32_t left, int32_t right, int32_t merged) {
  auto& s = word.symbols;
  size_t put = 0;
  for (size_t k = 0; k < s.size(); ++put) {
    const bool here = k + 1 < s.size() && s[k] == left && s[k + 1] == right;
    s[put] = here ? merged : s[k];
    k += here ? 2 : 1;
  }
  const bool changed = put != s.size();
  s.resize(put);
  return changed;
}

std::vector<std::string> special_tokens(const BpeTrainingOptions& options) {
  std::vector<std::string> all = {options.bos_token, options.eos_token};
  all.insert(all.end(), options.more_special_tokens.begin(), options.more_special_tokens.end());
  std::vector<std::string> distinct;
  for (const std::string& token : all) {
    if (token.empty() || !utf8_is_valid(token)) throw InputError("special tokens", "a special token is empty or no UTF-8");
    if (std::find(distinct.begin(), distinct.end(), token) == distinct.end()) distinct.push_back(token);
  }
  return distinct;
}

std::string tokenizer_json(const Trainer& trainer, const std::vector<std::string>& specials) {
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  std::vector<std::string> texts;
  for (const std::string& token : trainer.tokens()) {
    texts.emplace_back();
    alphabet.append_text(token, texts.back());
  }
  for (const std::string& special : specials) {
    if (std::find(texts.begin(), texts.end(), special) != texts.end()) {
      throw InputError("special tokens", "\"" + special + "\" is a token of the text already");
    }
  }
  Json vocabulary = Json::object(), merges = Json::array(), added = Json::array();
  // push_back into the ordered map's vector: its operator[] would search all keys each time.
  auto& entries = vocabulary.get_ref<Json::object_t&>();
  for (size_t id = 0; id < texts.size(); ++id) {
    static_cast<std::vector<Json::object_t::value_type, Json::object_t::allocator_type>&>(entries).emplace_back(texts[id], static_cast<int64_t>(id));
  }
  for (const auto& [left, right] : trainer.merges()) {
    merges.push_back(Json::array({texts[static_cast<size_t>(left)], texts[static_cast<size_t>(right)]}));
  }
  for (size_t k = 0; k < specials.size(); ++k) {
    added.push_back(Json{{"id", texts.size() + k}, {"content", specials[k]}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
        {"normalized", false}, {"special", true}});
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", kSplitRegex}}}, {"behavior", "Isolated"}, {"invert", false}};
  Json model = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr}, {"fuse_unk", false},
                {"byte_fallback", false}, {"ignore_merges", false}};
  model["vocab"] = std::move(vocabulary);
  model["merges"] = std::move(merges);
  Json file = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  file["added_tokens"] = std::move(added);
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}};
  file["post_processor"] = byte_level;
  file["decoder"] = byte_level;
  file["model"] = std::move(model);
  return dump_json(file) + "\n";
}

}  // namespace

void train_byte_level_bpe(std::string_view text, const BpeTrainingOptions& options, const std::string& folder) {
  const std::vector<std::string> specials = special_tokens(options);
  const int64_t least = 256 + static_cast<int64_t>(specials.size());
  if (options.vocab_size < least) {
    const std::string need = "256 bytes and " + std::to_string(specials.size()) + " special tokens need " + std::to_string(least);
    throw InputError("vocab_size", std::to_string(options.vocab_size) + " is too small: " + need);
  }
  const std::string repaired = utf8_is_valid(text) ? std::string() : utf8_repaired(text);
  Trainer trainer(repaired.empty() ? text : std::string_view(repaired), options.vocab_size - static_cast<int32_t>(specials.size()));
  trainer.train();

  Json config = {{"add_bos_token", false}, {"bos_token", options.bos_token}, {"eos_token", options.eos_token},
                 {"clean_up_tokenization_spaces", false},
                 {"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (!options.chat_template.empty()) config["chat_template"] = options.chat_template;
  make_directories(folder);
  write_file_atomically(folder + "/tokenizer.json", tokenizer_json(trainer, specials));
  write_file_atomically(folder + "/tokenizer_config.json", dump_json(config, 2) + "\n");
}

}  // namespace llmtrain
