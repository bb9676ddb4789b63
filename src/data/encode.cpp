// Encoding rows (encode.h).
#include "data/encode.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "data/tools.h"

namespace llmtrain {

void Sequence::clear() {
  ids.clear();
  trained.clear();
  restarts.clear();
}

void Sequence::append(const std::vector<int32_t>& more, size_t count, bool with_loss) {
  const auto begin = static_cast<uint32_t>(ids.size());
  ids.insert(ids.end(), more.begin(), more.begin() + static_cast<std::ptrdiff_t>(count));
  if (!with_loss || count == 0) return;
  const auto end = static_cast<uint32_t>(ids.size());
  if (!trained.empty() && trained.back().end == begin) {
    trained.back().end = end;
  } else {
    trained.push_back({begin, end});
  }
}

std::pair<int64_t, int64_t> kept_lengths(int64_t source, int64_t target, int64_t budget) {
  int64_t most;
  if (target * 2 < budget) {
    most = budget;
  } else if (source * 2 < budget) {
    most = budget - source;
  } else {
    const int64_t both = source + target;
    most = both == 0 ? 0 : static_cast<int64_t>(static_cast<double>(budget) * (static_cast<double>(target) / static_cast<double>(both)));
  }
  const int64_t kept_target = std::min(most, target);
  return {std::min(std::max<int64_t>(budget - kept_target, 0), source), kept_target};
}

std::vector<std::vector<size_t>> knapsack_packs(const std::vector<size_t>& lengths, size_t capacity) {
  std::map<size_t, std::vector<size_t>> remaining;  // length -> samples in order
  for (size_t i = 0; i < lengths.size(); ++i) remaining[lengths[i]].push_back(i);
  std::vector<std::vector<size_t>> packs;
  while (!remaining.empty()) {
    std::vector<size_t> pack;
    size_t room = capacity;
    while (true) {
      auto it = remaining.upper_bound(room);
      if (it == remaining.begin()) break;
      --it;
      room -= it->first;
      pack.push_back(it->second.back());
      it->second.pop_back();
      if (it->second.empty()) remaining.erase(it);
    }
    LLMTRAIN_ASSERT(!pack.empty(), "a sample longer than a pack");
    packs.push_back(std::move(pack));
  }
  return packs;
}

RowEncoder::RowEncoder(const Tokenizer& tokenizer, const Template& tmpl, const SpecialTokens& tokens, const DataOptions& options,
                       const std::string& date)
    : tmpl_(tmpl), tokens_(tokens), options_(options), date_(date), cutoff_(effective_cutoff(options)), encoder_(tokenizer) {
  // Llama 3 marks the end of a text with another token than the end of an answer.
  eos_text_ = tmpl.name == "llama3" ? "<|end_of_text|>" : tokens.eos;
  if (tmpl.kind == TemplateKind::reasoning) encoder_.encode(tmpl.thought_begin + tmpl.thought_end, empty_thought_);
}

void RowEncoder::encode(const std::vector<Element>& elements, Ids& ids) {
  for (const Element& e : elements) {
    if (e.token >= 0) {
      ids.push_back(e.token);
    } else {
      encoder_.encode(e.text, ids);
    }
  }
}

bool RowEncoder::needs_empty_thought(const Message& answer) const {
  return tmpl_.kind == TemplateKind::reasoning && lacks_thoughts(tmpl_, answer.content);
}

// All messages of a row, without the thoughts that a reasoning template takes out: of all answers where thinking is off, of all but the last where
// `discard_history`.
std::vector<Message> RowEncoder::with_thoughts_removed(const Example& example, const Message& answer, bool discard_history) const {
  std::vector<Message> messages = example.prompt;
  messages.push_back(answer);
  if (tmpl_.kind != TemplateKind::reasoning) return messages;
  const bool off = options_.enable_thinking.has_value() && !*options_.enable_thinking;
  for (size_t i = 1; i < messages.size(); i += 2) {
    const bool last = i + 1 == messages.size();
    if (last ? off : discard_history || off) messages[i].content = remove_thoughts(tmpl_, messages[i].content);
  }
  return messages;
}

bool RowEncoder::supervised(const Example& example, Sequence& out) {
  out.clear();
  const bool last_first = options_.mask_history;
  const std::vector<Message> messages = with_thoughts_removed(example, example.response[0], last_first);
  const auto rendered = render_messages(tmpl_, tokens_, messages, example.system, example.tools, date_);
  const size_t turns = messages.size() / 2;
  struct Turn {
    Ids source, target;
    size_t source_kept, target_kept;
  };
  std::vector<Turn> kept;
  kept.reserve(turns);
  int64_t total = 0;
  bool cut = false;
  for (size_t n = 0; n < turns; ++n) {
    if (total >= cutoff_) {
      cut = true;
      break;
    }
    const size_t turn = last_first ? turns - 1 - n : n;
    Turn t;
    encode(rendered[2 * turn], t.source);
    const bool thought = needs_empty_thought(messages[2 * turn + 1]) && (!last_first || n == 0);
    const bool thought_with_loss = options_.enable_thinking.value_or(false);
    if (thought)
      (thought_with_loss ? t.target : t.source).insert((thought_with_loss ? t.target : t.source).end(), empty_thought_.begin(), empty_thought_.end());
    encode(rendered[2 * turn + 1], t.target);
    const auto source = static_cast<int64_t>(t.source.size()), target = static_cast<int64_t>(t.target.size());
    const auto [s, a] = kept_lengths(source, target, cutoff_ - total);
    cut = cut || s < source || a < target;
    total += s + a;
    t.source_kept = static_cast<size_t>(s);
    t.target_kept = static_cast<size_t>(a);
    kept.push_back(std::move(t));
  }
  if (last_first) std::reverse(kept.begin(), kept.end());
  for (size_t i = 0; i < kept.size(); ++i) {
    out.append(kept[i].source, kept[i].source_kept, options_.train_on_prompt);
    out.append(kept[i].target, kept[i].target_kept, !last_first || i + 1 == kept.size());
  }
  return cut;
}

void RowEncoder::prompt_and_answer(const Example& example, const Message& answer, Ids& prompt, Ids& reply) {
  const std::vector<Message> messages = with_thoughts_removed(example, answer, true);
  const auto rendered = render_messages(tmpl_, tokens_, messages, example.system, example.tools, date_);
  for (size_t i = 0; i + 1 < rendered.size(); ++i) encode(rendered[i], prompt);
  if (needs_empty_thought(messages.back())) {
    Ids& to = options_.enable_thinking.value_or(false) ? reply : prompt;
    to.insert(to.end(), empty_thought_.begin(), empty_thought_.end());
  }
  encode(rendered.back(), reply);
}

bool RowEncoder::ranking(const Example& example, Sequence& chosen, Sequence& rejected) {
  Ids prompt, unused, better, worse;
  prompt_and_answer(example, example.response[0], prompt, better);
  prompt_and_answer(example, example.response[1], unused, worse);
  const auto source = static_cast<int64_t>(prompt.size()), target = static_cast<int64_t>(std::max(better.size(), worse.size()));
  const auto [s, a] = kept_lengths(source, target, cutoff_);
  const auto make = [&](const Ids& answer, Sequence& out, size_t prompt_kept, size_t answer_kept) {
    out.clear();
    out.append(prompt, prompt_kept, false);
    out.append(answer, std::min(answer_kept, answer.size()), true);
  };
  make(better, chosen, static_cast<size_t>(s), static_cast<size_t>(a));
  make(worse, rejected, static_cast<size_t>(s), static_cast<size_t>(a));
  return s < source || a < target;
}

void RowEncoder::append_pretraining(const int32_t* ids, size_t count, Sequence& out) const {
  for (size_t i = 0; i < count; ++i) {
    const auto at = static_cast<uint32_t>(out.ids.size());
    out.ids.push_back(ids[i]);
    if (ids[i] == tokens_.pad_id) continue;
    if (!out.trained.empty() && out.trained.back().end == at) {
      out.trained.back().end = at + 1;
    } else {
      out.trained.push_back({at, at + 1});
    }
  }
}

bool RowEncoder::pretraining(const Example& example, int64_t limit, Sequence& out) {
  out.clear();
  if (example.prompt.empty()) throw RowError("no text");
  Ids ids;
  encoder_.encode(example.prompt[0].content + eos_text_, ids);
  const size_t kept = limit > 0 ? std::min(ids.size(), static_cast<size_t>(limit)) : ids.size();
  append_pretraining(ids.data(), kept, out);
  return kept < ids.size();
}

}  // namespace llmtrain
