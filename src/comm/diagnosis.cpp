#include "comm/diagnosis.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {
namespace {

// How far a rank has come in one communicator, and what it waits in there.
struct Place {
  int64_t finished = 0;   // collectives it has finished
  int64_t waiting = 0;    // number of the one under way; 0: none
  int64_t bytes = 0;      // of it
  std::string what;
};

// Dumps may be damaged (a node that died while it wrote) or of another program: every member is looked at before it is used.
const Json* member(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it == object.end() ? nullptr : &*it;
}
int64_t number(const Json& object, const char* key, int64_t fallback) {
  const Json* v = member(object, key);
  if (!v || !v->is_number_integer()) return fallback;
  return v->is_number_unsigned() && v->get<uint64_t>() > INT64_MAX ? fallback : v->get<int64_t>();
}
std::string word(const Json& object, const char* key, const char* fallback) {
  const Json* v = member(object, key);
  return v && v->is_string() ? v->get<std::string>() : fallback;
}

Place place_in(const Json& communicator) {
  Place p;
  const Json* collectives = member(communicator, "collectives");
  if (!collectives || !collectives->is_array()) return p;
  for (const Json& c : *collectives) {
    const int64_t sequence = number(c, "sequence", 0);
    const std::string state = word(c, "state", "");
    if (state == "done") {
      p.finished = std::max(p.finished, sequence);
    } else if (state == "running" && (p.waiting == 0 || sequence < p.waiting)) {
      p.waiting = sequence;
      p.bytes = number(c, "bytes", 0);
      p.what = word(c, "operation", "?") + " '" + word(c, "label", "") + "'";
    }
  }
  return p;
}

constexpr int64_t kMostRanks = 1 << 20;

// A dump's rank and the size of its job; InputError where it says nothing sensible.
std::pair<int, int> rank_and_size(const Json& dump) {
  const int64_t size = number(dump, "size", 1), rank = number(dump, "rank", -1);
  if (size < 1 || size > kMostRanks) throw InputError("diagnose", "a dump says that its job has " + std::to_string(size) + " ranks");
  if (rank < 0 || rank >= size) throw InputError("diagnose", "a dump says that it is of rank " + std::to_string(rank) + " of " + std::to_string(size));
  return {static_cast<int>(rank), static_cast<int>(size)};
}

double seconds_of(const Json& dump) {
  const Json* v = member(dump, "time");
  return v && v->is_number() ? v->get<double>() : 0;
}

using Dumps = std::vector<const Json*>;

// By start of a job, the newest first: one that was started again may have left dumps of ranks that did not write one this time, and a person may name the
// dumps of several. Of a rank that wrote twice, the later one.
std::vector<Dumps> by_start(const std::vector<Json>& dumps) {
  std::map<std::string, std::map<std::pair<int, int>, const Json*>> starts;
  for (const Json& dump : dumps) {
    const std::string job = word(dump, "job", "");
    const Json*& known = starts[job][rank_and_size(dump)];
    if (known && job.empty() && *known != dump) {
      throw InputError("diagnose", "two different dumps of rank " + std::to_string(rank_and_size(dump).first) + " that do not say of which job they are", "name the dumps of one job");
    }
    if (!known || seconds_of(dump) > seconds_of(*known)) known = &dump;
  }
  std::vector<std::pair<double, Dumps>> ordered;
  for (const auto& [job, ranks] : starts) {
    ordered.emplace_back(0, Dumps{});
    for (const auto& [rank, dump] : ranks) {
      ordered.back().first = std::max(ordered.back().first, seconds_of(*dump));
      ordered.back().second.push_back(dump);
    }
  }
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Dumps> result;
  for (auto& [time, start] : ordered) result.push_back(std::move(start));
  return result;
}

using Places = std::map<std::string, std::map<int, Place>>;  // by communicator, by rank

// Ranks that wait in the same number of a communicator wait for each other: "" where it is the same collective on all of them.
std::string difference(const std::map<int, Place>& ranks, const std::vector<int>& waiting) {
  const Place& first = ranks.at(waiting.front());
  for (const int rank : waiting) {
    const Place& other = ranks.at(rank);
    if (other.what == first.what && other.bytes == first.bytes) continue;
    const auto named = [](int r, const Place& p) { return "rank " + std::to_string(r) + " is in " + p.what + " of " + std::to_string(p.bytes) + " bytes"; };
    return named(waiting.front(), first) + ", " + named(rank, other);
  }
  return "";
}

// The collective that ranks wait in without all others: of several the one that most wait in. Where there is none, one that some are still in when all others
// have finished it: they hang inside it.
void find_laggards(const Places& places, Diagnosis& d) {
  size_t most = 0;
  std::vector<int> inside;
  for (const auto& [name, ranks] : places) {
    std::map<int64_t, std::vector<int>> waiting;
    for (const auto& [rank, p] : ranks) {
      if (p.waiting > 0) waiting[p.waiting].push_back(rank);
    }
    for (const auto& [sequence, who] : waiting) {
      if (d.differing.empty()) d.differing = difference(ranks, who);
      std::vector<int> missing;
      for (const auto& [rank, p] : ranks) {
        if (p.finished < sequence && p.waiting != sequence) missing.push_back(rank);
      }
      const std::string what = ranks.at(who.front()).what + " (number " + std::to_string(sequence) + " of communicator '" + name + "')";
      if (!missing.empty() && who.size() > most) {
        most = who.size();
        d.collective = what;
        d.laggards = missing;
      } else if (missing.empty() && who.size() < ranks.size()) {
        inside = who;
        if (d.collective.empty()) d.collective = what;
      } else if (d.collective.empty()) {
        d.collective = what;
      }
    }
  }
  if (d.laggards.empty()) d.laggards = inside;
}

// What a rank says about why it or another one ended.
void read_reason(const Json& dump, int rank, Diagnosis& d) {
  const Json* heard = member(dump, "heard");
  const bool own = !heard || !heard->is_boolean() || !heard->get<bool>();
  if (const Json* error = member(dump, "error"); error && error->is_string() && own) {
    d.failed.push_back(rank);
    if (d.error.empty()) d.error = error->get<std::string>();
  }
  const Json* stopped = member(dump, "stopped");
  if (!stopped || !stopped->is_array()) return;
  for (const Json& r : *stopped) {
    if (!r.is_number_integer() || r.get<int64_t>() < 0 || r.get<int64_t>() >= d.size) continue;
    const int number = static_cast<int>(r.get<int64_t>());
    if (std::find(d.stopped.begin(), d.stopped.end(), number) == d.stopped.end()) d.stopped.push_back(number);
  }
}

// Of ranks that have not joined: one that waits in no collective at all holds the others up; one that waits in another is a victim itself.
std::vector<int> not_waiting(const std::vector<int>& ranks, const Places& places) {
  std::vector<int> idle;
  for (const int rank : ranks) {
    const bool waits = std::any_of(places.begin(), places.end(), [rank](const auto& c) { return c.second.contains(rank) && c.second.at(rank).waiting > 0; });
    if (!waits) idle.push_back(rank);
  }
  return idle.empty() ? ranks : idle;
}

}  // namespace

std::vector<Json> read_dumps(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    if (!is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("rank-") && name.ends_with(".json")) files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Json> dumps;
  for (const std::string& file : files) {
    Json dump = parse_json_file(file, size_t{64} << 20);
    if (!dump.is_object() || !dump.contains("rank") || !dump.contains("communicators") || !dump["communicators"].is_array()) throw InputError(file, "this is not a dump of a watchdog");
    dumps.push_back(std::move(dump));
  }
  if (dumps.empty()) throw InputError(paths.empty() ? "diagnose" : paths.front(), "no dumps (rank-*.json) here");
  return dumps;
}

namespace {
Diagnosis diagnose_start(const Dumps& dumps) {
  Diagnosis d;
  d.job = word(*dumps.front(), "job", "");
  d.size = rank_and_size(*dumps.front()).second;
  d.hosts.resize(static_cast<size_t>(d.size));
  Places places;
  std::vector<bool> present(static_cast<size_t>(d.size), false);
  for (const Json* each : dumps) {
    const Json& dump = *each;
    const auto [rank, size] = rank_and_size(dump);
    if (size != d.size) throw InputError("diagnose", "these dumps are of different jobs: of " + std::to_string(d.size) + " and of " + std::to_string(size) + " ranks");
    d.time = std::max(d.time, seconds_of(dump));
    present[static_cast<size_t>(rank)] = true;
    d.hosts[static_cast<size_t>(rank)] = word(dump, "host", "");
    read_reason(dump, rank, d);
    for (const Json& c : dump["communicators"]) places[word(c, "communicator", "?")][rank] = place_in(c);
  }
  for (int r = 0; r < d.size; ++r) {
    if (!present[static_cast<size_t>(r)]) d.without_dump.push_back(r);
  }
  find_laggards(places, d);
  d.laggards = not_waiting(d.laggards, places);
  return d;
}
}  // namespace

Diagnosis diagnose(const std::vector<Json>& dumps) {
  if (dumps.empty()) throw InputError("diagnose", "there are no dumps");
  return diagnose_start(by_start(dumps).front());
}

std::vector<Diagnosis> diagnose_all(const std::vector<Json>& dumps) {
  std::vector<Diagnosis> all;
  for (const Dumps& start : by_start(dumps)) all.push_back(diagnose_start(start));
  return all;
}

std::vector<int> Diagnosis::guilty() const {
  for (const auto* list : {&stopped, &failed, &without_dump}) {
    if (!list->empty()) return *list;
  }
  return laggards;
}

std::string Diagnosis::text() const {
  const auto named = [&](const std::vector<int>& ranks) {
    constexpr size_t kNamed = 32;
    std::string s;
    for (size_t i = 0; i < ranks.size(); ++i) {
      if (i == kNamed) return s + " and " + std::to_string(ranks.size() - kNamed) + " more";
      const int r = ranks[i];
      const std::string& host = hosts[static_cast<size_t>(r)];
      s += (s.empty() ? "" : ", ") + std::to_string(r) + (host.empty() ? "" : " (" + host + ")");
    }
    return s;
  };
  std::string s;
  if (!collective.empty()) s += "waited in: " + collective + "\n";
  if (!stopped.empty()) s += "stopped (SIGSTOP or the like): rank " + named(stopped) + "\n";
  if (!failed.empty()) s += "failed: rank " + named(failed) + ": " + error + "\n";
  if (!without_dump.empty() && stopped.empty() && failed.empty())
    s += "no dump from rank " + named(without_dump) + ": stopped, dead, or its node cannot write here\n";
  if (!differing.empty()) s += "the ranks do different things there: " + differing + "\n";
  if (!laggards.empty()) s += "not joined by rank " + named(laggards) + "\n";
  if (guilty().empty() && !differing.empty()) {
    s += "no rank has come less far: the program, or what it was started with, is not the same on all ranks\n";
  } else if (guilty().empty()) {
    s += "every rank has joined what the others wait in: the network or a device, not a rank\n";
  } else {
    s += "the laggard: rank " + named(guilty()) + "\n";
  }
  return s;
}

}  // namespace llmtrain
