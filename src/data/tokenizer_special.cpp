// Tokenizer::with_special_tokens (tokenizer.h).
#include "data/tokenizer.h"
#include "data/tokenizer_data.h"

namespace llmtrain {

Tokenizer Tokenizer::with_special_tokens(const std::vector<std::string>& tokens) const {
  const auto is_plain = [](const AddedToken& t) { return !t.single_word && !t.lstrip && !t.rstrip && !t.normalized && t.special; };
  bool changes = false;
  for (const std::string& token : tokens) {
    const auto known = data_->added_index.find(token);
    changes = changes || (known != data_->added_index.end() ? !is_plain(data_->added[static_cast<size_t>(known->second)]) : data_->vocabulary.find(token) >= 0);
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
  data->raw_matcher = StringMatcher();
  data->normalized_matcher = StringMatcher();
  std::string normalized;
  for (size_t i = 0; i < data->added.size(); ++i) {
    const AddedToken& token = data->added[i];
    if (!token.normalized) {
      data->raw_matcher.add(token.content, static_cast<int32_t>(i));
      continue;
    }
    normalize_text(*data, token.content, normalized);
    data->normalized_matcher.add(normalized, static_cast<int32_t>(i));
  }
  Tokenizer copy;
  copy.data_ = std::move(data);
  return copy;
}

}  // namespace llmtrain
