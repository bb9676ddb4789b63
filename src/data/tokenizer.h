// Tokenizers as Hugging Face folders hold them: byte-level BPE (GPT-2, Qwen, Llama 3) and SentencePiece-style BPE with byte fallback
// (Llama 2, Mistral, Phi-3), read from tokenizer.json, or from tokenizer.model where there is no tokenizer.json.
// Ids equal those of Hugging Face `tokenizers` with add_special_tokens=false. Anything in a tokenizer.json that would change the ids and
// is not known here is refused by name (InputError).
//
// Thread rules: a loaded Tokenizer is immutable; encode() may be called from many threads, each with an Encoder of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmtrain {

struct TokenizerData;  // tables; private to the implementation

class Tokenizer {
 public:
  // `folder` holds tokenizer.json (preferred) or tokenizer.model, and perhaps tokenizer_config.json, special_tokens_map.json,
  // chat_template.jinja. InputError naming the file and the fault.
  static Tokenizer load(const std::string& folder);
  // The same with `tokens` registered as special tokens by their text alone: their flags (lstrip, rstrip, single_word, normalized) become false, as
  // Hugging Face's add_special_tokens does with strings. Templates do so with the tokens that they end answers with. Unknown tokens are passed over.
  Tokenizer with_special_tokens(const std::vector<std::string>& tokens) const;

  int32_t vocab_size() const;                                // largest id + 1, added tokens included
  int32_t id_of(std::string_view token) const;               // -1 if there is no such token
  std::string token_of(int32_t id) const;                    // as written in tokenizer.json; "" for an unused id
  bool is_special(int32_t id) const;

  // From tokenizer_config.json (or special_tokens_map.json): "" / -1 where absent.
  const std::string& bos_token() const;
  const std::string& eos_token() const;
  const std::string& pad_token() const;
  const std::string& unk_token() const;
  int32_t bos_id() const;
  int32_t eos_id() const;
  int32_t pad_id() const;
  bool add_bos_token() const;  // whether a text as it stands (no template) begins with BOS in transformers
  const std::string& chat_template() const;                  // Jinja text, "" where absent
  const std::string& folder() const;

  // Text of ids. Byte-level and byte-fallback pieces are joined before UTF-8 is checked; broken UTF-8 becomes U+FFFD, as in HF.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  const TokenizerData& data() const { return *data_; }

 private:
  friend class Encoder;  // shares data_
  std::shared_ptr<const TokenizerData> data_;
};

// Encodes text; keeps a cache of words, so one Encoder a thread and use it for many texts.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  ~Encoder();
  Encoder(Encoder&&) noexcept;
  // Appends the ids of `text` (UTF-8; invalid bytes are treated as U+FFFD). Strings of special / added tokens inside the text become those
  // tokens. No bos, no eos is added. Linear in the length of the text.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Learns a byte-level BPE tokenizer from text (UTF-8) and writes tokenizer.json and tokenizer_config.json into `folder`, in the form that
// Hugging Face's AutoTokenizer loads (GPT-2 style byte-level, split pattern of Llama 3). `special_tokens` get the ids after the merges; the
// vocabulary has exactly `vocab_size` entries or fewer if the text has no more pairs to merge. InputError when vocab_size < 256 + specials.
struct BpeTrainingOptions {
  int32_t vocab_size = 8192;
  std::string bos_token = "<|begin_of_text|>";
  std::string eos_token = "<|end_of_text|>";
  std::vector<std::string> more_special_tokens;  // e.g. the markers of the chat template
  std::string chat_template;                     // Jinja, written into tokenizer_config.json when not empty
};
void train_byte_level_bpe(std::string_view text, const BpeTrainingOptions& options, const std::string& folder);

}  // namespace llmtrain
