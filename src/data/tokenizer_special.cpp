// Tokenizer::with_special_tokens (tokenizer.h).
#include "data/tokenizer.h"
#include "data/tokenizer_data.h"

namespace llmtrain {

Tokenizer Tokenizer::with_special_tokens(const std::vector<std::string>& tokens) const {
  const auto is_plain = [](const AddedToken& t) { return !t.single_word && !t.lstrip && !t.rstrip && !t.normalized && t.special; };
  bool changes = false;
  for (const std::string& token : tokens) {
    const auto known = data_->added_index.find(token);
    const bool is_added = known != data_->added_index.end();
    changes = changes || (is_added ? !is_plain(data_->added[static_cast<size_t>(known->second)]) : data_->vocabulary.find(token) >= 0);
  }
  if (!changes) return *this;
  auto data = std::make_shared<TokenizerData>(*data_);
  for (const std::string& content : tokens) {
    if (data->id_of(content) < 0) continue;
    AddedToken token;
    token.content = content;
    token.normalized = false;
    token.special = true;
    add_token(*data, std::move(token), -1, data->file);
  }
  build_matchers(*data);
  Tokenizer copy;
  copy.data_ = std::move(data);
  return copy;
}

}  // namespace llmtrain
