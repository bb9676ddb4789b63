// The converters (convert.h).
#include "data/convert.h"

#include <simdjson.h>

#include "data/row_source.h"
#include "data/tools.h"

namespace llmtrain {
namespace {

using Name = DatasetEntry::Name;
using simdjson::dom::element;

constexpr const char* kShortSystem = "detailed thinking off";

Field column(const Row& row, const Name& name) { return name ? row.field(*name) : Field{}; }

// Absent, or what Python takes for false: null, "", [], {}, 0, false.
bool is_false(const Field& f) {
  switch (f.kind) {
    case Field::missing:
    case Field::null: return true;
    case Field::boolean: return !f.flag;
    case Field::string: return f.text.empty();
    case Field::other: break;
  }
  if (f.element.is_array()) return simdjson::dom::array(f.element).size() == 0;
  if (f.element.is_object()) return simdjson::dom::object(f.element).size() == 0;
  return (f.element.is_int64() || f.element.is_double()) && double(f.element) == 0;
}

// A column that is text or absent; what Python takes for false is "".
std::string optional_text(const Row& row, const Name& name, const char* what) {
  const Field f = column(row, name);
  if (f.is_string()) return std::string(f.text);
  if (is_false(f)) return "";
  throw RowError(std::string(what) + " is not a string");
}

// The tool list: text as it stands, a list or object as json.dumps writes it.
std::string tools_text(const Row& row, const Name& name) {
  const Field f = column(row, name);
  if (f.kind == Field::other && (f.element.is_array() || f.element.is_object())) return python_json(simdjson::minify(f.element));
  return optional_text(row, name, "the tools column");
}

// Rows with pictures, films or sound are no rows of text.
void refuse_media(const Row& row, const DatasetEntry& d) {
  for (const Name* name : {&d.images, &d.videos, &d.audios}) {
    const Field f = column(row, *name);
    if (!f.present() || f.kind == Field::null) continue;
    if (f.kind == Field::other && f.element.is_array() && simdjson::dom::array(f.element).size() == 0) continue;
    throw RowError("the row has images, videos or sound, and the model reads text only");
  }
}

// A KTO row has an empty answer beside its own (on the side that its tag says), which neither sft nor dpo can use.
bool is_kto(const Row& row, const DatasetEntry& d) { return column(row, d.kto_tag).kind == Field::boolean; }

void convert_alpaca(const DatasetEntry& d, const Row& row, Example& e) {
  if (const Field history = column(row, d.history); !is_false(history)) {
    if (history.kind != Field::other || !history.element.is_array()) throw RowError("history is not a list of pairs of texts");
    for (const element turn : simdjson::dom::array(history.element)) {
      if (!turn.is_array() || simdjson::dom::array(turn).size() != 2) throw RowError("a history turn is not a pair of texts");
      Role role = Role::user;
      for (const element text : simdjson::dom::array(turn)) {
        if (!text.is_string()) throw RowError("a history turn is not a pair of texts");
        e.prompt.push_back({role, std::string(std::string_view(text))});
        role = Role::assistant;
      }
    }
  }
  std::string query = optional_text(row, d.prompt, "the prompt column");
  const std::string more = optional_text(row, d.query, "the query column");
  if (!query.empty() && !more.empty()) query += '\n';
  query += more;
  e.prompt.push_back({Role::user, std::move(query)});

  const Field chosen = column(row, d.chosen), rejected = column(row, d.rejected), response = column(row, d.response);
  if (is_kto(row, d)) throw RowError("a KTO row, which this stage cannot use");
  if (d.ranking && chosen.is_string() && rejected.is_string()) {
    e.response = {{Role::assistant, std::string(chosen.text)}, {Role::assistant, std::string(rejected.text)}};
  } else if (d.response && response.is_string()) {
    e.response = {{Role::assistant, std::string(response.text)}};
  }
  e.system = optional_text(row, d.system, "the system column");
  e.tools = tools_text(row, d.tools);
}

// Roles by tag. Where two tags are the same word, the later of user, assistant, observation, function, system wins, as in a Python dict.
struct TagMap {
  explicit TagMap(const DatasetEntry& entry) : d(entry) {}
  const DatasetEntry& d;
  bool role(const Name& tag, Role& out) const {
    const std::pair<const Name*, Role> order[] = {{&d.system_tag, Role::system},
                                                  {&d.function_tag, Role::function},
                                                  {&d.observation_tag, Role::observation},
                                                  {&d.assistant_tag, Role::assistant},
                                                  {&d.user_tag, Role::user}};
    for (const auto& [name, role] : order) {
      if (*name == tag) {
        out = role;
        return true;
      }
    }
    return false;
  }
};

struct RawMessage {
  std::string_view role;
  Field content;
  simdjson::dom::object object;
};

RawMessage raw_message(const DatasetEntry& d, const element& value) {
  if (!value.is_object()) throw RowError("a message is not an object");
  RawMessage m;
  m.object = simdjson::dom::object(value);
  bool role = false, content = false;
  for (const simdjson::dom::key_value_pair member : m.object) {
    if (member.key == *d.role_tag) {
      if (!member.value.is_string()) throw RowError("the role of a message is not a string");
      m.role = std::string_view(member.value);
      role = true;
    }
    if (member.key == *d.content_tag) {
      m.content = field_of(member.value);
      content = true;
    }
  }
  if (!role) throw RowError("a message without a role (\"" + *d.role_tag + "\")");
  if (!content) m.content = Field{};
  return m;
}

std::string content_text(const RawMessage& m) {
  if (!m.content.is_string()) throw RowError(m.content.present() ? "the content of a message is not a string" : "a message without content");
  return std::string(m.content.text);
}

// The messages column; a leading system message goes into e.system, which otherwise comes from the system column.
std::vector<RawMessage> raw_messages(const DatasetEntry& d, const Row& row, Example& e) {
  const Field f = column(row, d.messages);
  if (!f.present()) throw RowError("the messages column (\"" + *d.messages + "\") is missing");
  if (f.kind != Field::other || !f.element.is_array()) throw RowError("the messages column is not a list");
  std::vector<RawMessage> messages;
  for (const element m : simdjson::dom::array(f.element)) messages.push_back(raw_message(d, m));
  if (d.system_tag && !messages.empty() && messages[0].role == *d.system_tag) {
    if (messages[0].content.kind != Field::null) e.system = content_text(messages[0]);
    messages.erase(messages.begin());
  } else {
    e.system = optional_text(row, d.system, "the system column");
  }
  return messages;
}

void check_count(const DatasetEntry& d, size_t messages) {
  if (messages == 0) throw RowError("no messages");
  if (!d.ranking && messages % 2 != 0) throw RowError("an odd number of messages (the last question has no answer)");
  if (d.ranking && messages % 2 == 0) throw RowError("an even number of messages (a ranking needs a question at the end)");
}

Message answer_of(const DatasetEntry& d, const Field& field) {
  const RawMessage m = raw_message(d, field.element);
  Message answer;
  const std::string tag(m.role);
  if (!TagMap(d).role(tag, answer.role) || (answer.role != Role::assistant && answer.role != Role::function)) {
    throw RowError("the chosen or rejected message has a role that does not answer");
  }
  answer.content = content_text(m);
  return answer;
}

// The turns become prompt and answers.
void take_answers(const DatasetEntry& d, const Row& row, std::vector<Message>& turns, Example& e) {
  check_count(d, turns.size());
  if (is_kto(row, d)) throw RowError("a KTO row, which this stage cannot use");
  if (d.ranking) {
    const Field chosen = column(row, d.chosen), rejected = column(row, d.rejected);
    const auto is_message = [](const Field& f) { return f.kind == Field::other && f.element.is_object(); };
    if (!is_message(chosen) || !is_message(rejected)) throw RowError("chosen or rejected is not a message");
    e.prompt = std::move(turns);
    e.response = {answer_of(d, chosen), answer_of(d, rejected)};
    return;
  }
  e.response = {std::move(turns.back())};
  turns.pop_back();
  e.prompt = std::move(turns);
}

void convert_sharegpt(const DatasetEntry& d, const Row& row, Example& e) {
  std::vector<Message> turns;
  for (const RawMessage& m : raw_messages(d, row, e)) {
    const bool asks = turns.size() % 2 == 0;
    const Name tag = std::string(m.role);
    if (asks ? tag != d.user_tag && tag != d.observation_tag : tag != d.assistant_tag && tag != d.function_tag) {
      throw RowError(asks ? "a role that does not ask stands where a question is expected"
                          : "a role that does not answer stands where an answer is expected");
    }
    Message turn;
    TagMap(d).role(tag, turn.role);
    turn.content = content_text(m);
    turns.push_back(std::move(turn));
  }
  take_answers(d, row, turns, e);
  e.tools = tools_text(row, d.tools);
}

// The functions of "tool_calls" as json.dumps writes their list; "" where there are none.
std::string tool_calls(const RawMessage& m) {
  for (const simdjson::dom::key_value_pair member : m.object) {
    if (member.key != "tool_calls" || !member.value.is_array() || simdjson::dom::array(member.value).size() == 0) continue;
    std::string list = "[";
    for (const element call : simdjson::dom::array(member.value)) {
      const auto function = call["function"];
      if (function.error()) throw RowError("a tool call without \"function\"");
      list += (list.size() > 1 ? "," : "") + std::string(simdjson::minify(function.value_unsafe()));
    }
    return python_json(list + "]");
  }
  return "";
}

void convert_openai(const DatasetEntry& d, const Row& row, Example& e) {
  std::vector<Message> turns;
  std::string observations;
  bool observed = false;
  for (const RawMessage& m : raw_messages(d, row, e)) {
    Name tag = std::string(m.role);
    std::string calls;
    if (tag == d.assistant_tag || tag == d.function_tag) calls = tool_calls(m);
    if (calls.empty() && tag == d.observation_tag) {
      if (observed) observations += "\n</tool_response>\n<tool_response>\n";
      observations += content_text(m);
      observed = true;
      continue;
    }
    if (observed) {
      turns.push_back({Role::observation, std::move(observations)});
      observations.clear();
      observed = false;
    }
    Message turn;
    if (!calls.empty()) {
      turn = {Role::function, std::move(calls)};
    } else if (TagMap(d).role(tag, turn.role)) {
      turn.content = content_text(m);
    } else {
      throw RowError("a message has an unknown role");
    }
    turns.push_back(std::move(turn));
  }
  for (size_t i = 0; i < turns.size(); ++i) {
    const Role r = turns[i].role;
    const bool asks = r == Role::user || r == Role::observation, answers = r == Role::assistant || r == Role::function;
    if (i % 2 == 0 ? !asks : !answers) {
      throw RowError(i % 2 == 0 ? "a role that does not ask stands where a question is expected"
                                : "a role that does not answer stands where an answer is expected");
    }
  }
  take_answers(d, row, turns, e);
  e.tools = tools_text(row, d.tools);
  // LLaMA-Factory's openai converter adds this to every row without tools.
  if (!e.tools.empty()) {
    if (!e.system.empty()) e.system += "\n";
  } else if (e.system.empty()) {
    e.system = kShortSystem;
  } else if (e.system.find("detailed thinking on") == std::string::npos && e.system.find(kShortSystem) == std::string::npos) {
    e.system += std::string("\n") + kShortSystem;
  }
}

}  // namespace

void convert_row(const DatasetEntry& d, Stage stage, const Row& row, Example& e) {
  e.prompt.clear();
  e.response.clear();
  e.system.clear();
  e.tools.clear();
  refuse_media(row, d);
  switch (d.formatting) {
    case Formatting::alpaca: convert_alpaca(d, row, e); break;
    case Formatting::sharegpt: convert_sharegpt(d, row, e); break;
    case Formatting::openai: convert_openai(d, row, e); break;
  }
  if (stage == Stage::sft && e.response.size() != 1) throw RowError("no answer");
  if (stage == Stage::dpo && e.response.size() != 2) throw RowError("chosen or rejected is missing");
  if (stage != Stage::pt && e.prompt.size() % 2 != 1) throw RowError("the turns do not alternate");
}

std::vector<std::string> required_columns(const DatasetEntry& d, Stage stage) {
  std::vector<std::string> names = {d.formatting == Formatting::alpaca ? *d.prompt : *d.messages};
  if (d.ranking) {
    names.push_back(*d.chosen);
    names.push_back(*d.rejected);
  } else if (stage == Stage::sft && d.formatting == Formatting::alpaca && d.response) {
    names.push_back(*d.response);
  }
  return names;
}

std::vector<std::string> optional_columns(const DatasetEntry& d) {
  std::vector<std::string> names;
  if (!d.lists_columns) return names;
  if (d.formatting == Formatting::alpaca) {
    for (const Name* n : {&d.query, &d.history}) {
      if (*n) names.push_back(**n);
    }
  }
  for (const Name* n : {&d.system, &d.tools}) {
    if (*n) names.push_back(**n);
  }
  return names;
}

}  // namespace llmtrain
