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
  std::string what;
};

Place place_in(const Json& communicator) {
  Place p;
  for (const Json& c : communicator.value("collectives", Json::array())) {
    const auto sequence = c.value("sequence", int64_t{0});
    const std::string state = c.value("state", std::string());
    if (state == "done") {
      p.finished = std::max(p.finished, sequence);
    } else if (state == "running" && (p.waiting == 0 || sequence < p.waiting)) {
      p.waiting = sequence;
      p.what = c.value("operation", std::string("?")) + " '" + c.value("label", std::string()) + "'";
    }
  }
  return p;
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
    if (!dump.is_object() || !dump.contains("rank") || !dump.contains("communicators")) throw InputError(file, "this is not a dump of a watchdog");
    dumps.push_back(std::move(dump));
  }
  if (dumps.empty()) throw InputError(paths.empty() ? "diagnose" : paths.front(), "no dumps (rank-*.json) here");
  return dumps;
}

Diagnosis diagnose(const std::vector<Json>& dumps) {
  Diagnosis d;
  d.size = dumps.front().value("size", 1);
  d.hosts.resize(static_cast<size_t>(d.size));
  std::map<std::string, std::map<int, Place>> places;  // by communicator, by rank
  std::vector<bool> present(static_cast<size_t>(d.size), false);
  for (const Json& dump : dumps) {
    const int rank = dump.value("rank", -1);
    if (rank < 0 || rank >= d.size || dump.value("size", 1) != d.size)
      throw InputError("diagnose", "these dumps are of different jobs (rank or size do not fit)");
    present[static_cast<size_t>(rank)] = true;
    d.hosts[static_cast<size_t>(rank)] = dump.value("host", std::string());
    for (const Json& c : dump["communicators"]) places[c.value("communicator", std::string("?"))][rank] = place_in(c);
  }
  for (int r = 0; r < d.size; ++r) {
    if (!present[static_cast<size_t>(r)]) d.without_dump.push_back(r);
  }
  // The collective that most ranks wait in; of equals the first.
  size_t most = 0;
  for (const auto& [name, ranks] : places) {
    std::map<int64_t, std::vector<int>> waiting;
    for (const auto& [rank, p] : ranks) {
      if (p.waiting > 0) waiting[p.waiting].push_back(rank);
    }
    for (const auto& [sequence, who] : waiting) {
      if (who.size() <= most) continue;
      most = who.size();
      d.collective = ranks.at(who.front()).what + " (number " + std::to_string(sequence) + " of communicator '" + name + "')";
      d.laggards.clear();
      for (const auto& [rank, p] : ranks) {
        if (p.finished < sequence && p.waiting != sequence) d.laggards.push_back(rank);
      }
    }
  }
  return d;
}

std::string Diagnosis::text() const {
  const auto named = [&](const std::vector<int>& ranks) {
    std::string s;
    for (int r : ranks) {
      const std::string& host = hosts[static_cast<size_t>(r)];
      s += (s.empty() ? "" : ", ") + std::to_string(r) + (host.empty() ? "" : " (" + host + ")");
    }
    return s;
  };
  std::string s;
  if (!collective.empty()) s += "waited in: " + collective + "\n";
  if (!without_dump.empty()) s += "no dump from rank " + named(without_dump) + ": stopped, dead, or its node cannot write here\n";
  if (!laggards.empty()) s += "not joined by rank " + named(laggards) + "\n";
  if (without_dump.empty() && laggards.empty()) s += "every rank has joined what the others wait in: the network or a device, not a rank\n";
  const std::vector<int>& guilty = without_dump.empty() ? laggards : without_dump;
  if (!guilty.empty()) s += "the laggard: rank " + named(guilty) + "\n";
  return s;
}

}  // namespace llmtrain
