// Building a token store together (store_build.h).
#include "data/store_build.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr size_t kChunk = size_t{8} << 20;

// A name that no other run uses at the same time; the same on every rank.
uint64_t shared_nonce(RankGroup& group) {
  uint64_t nonce = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) ^ (static_cast<uint64_t>(::getpid()) << 32) ^
                   static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  group.broadcast(&nonce, sizeof nonce, 0);
  return nonce;
}

std::string hex(uint64_t v) {
  char buffer[20];
  std::snprintf(buffer, sizeof buffer, "%016llx", static_cast<unsigned long long>(v));
  return buffer;
}

void remove_folder(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

}  // namespace

std::vector<std::string> gather_strings(RankGroup& group, const std::string& mine) {
  std::vector<std::string> all;
  for (int r = 0; r < group.size(); ++r) all.push_back(broadcast_string(group, mine, r));
  return all;
}

StoreBuilder::StoreBuilder(RankGroup& group, std::string folder, bool replace) : group_(group), folder_(std::move(folder)), replace_(replace) {
  temporary_ = folder_ + ".tmp-" + hex(shared_nonce(group));
  run_on_all_or_fail(group_, [&] { make_directories(temporary_); });
}

StoreBuilder::~StoreBuilder() {
  if (!done_) remove_folder(temporary_);
}

std::string StoreBuilder::part_name(int rank) const {
  char name[32];
  std::snprintf(name, sizeof name, "part-%05d.tokens", rank);
  return name;
}

std::string StoreBuilder::part_path() const { return temporary_ + "/" + part_name(group_.rank()); }

std::vector<char> StoreBuilder::visible_parts() const {
  std::vector<char> seen(static_cast<size_t>(group_.size()));
  for (int r = 0; r < group_.size(); ++r) seen[static_cast<size_t>(r)] = is_regular_file(temporary_ + "/" + part_name(r));
  return seen;
}

// Sends each part that some leader does not see. Every rank takes part in every broadcast; an error is kept until the end, so that nobody waits.
void StoreBuilder::deliver(const std::vector<char>& all_visible, const std::vector<uint64_t>& bytes) {
  const int n = group_.size();
  const auto sees = [&](int rank, int part) {
    return all_visible[static_cast<size_t>(rank) * static_cast<size_t>(n) + static_cast<size_t>(part)] != 0;
  };
  const auto leader_of = [&](int rank) {
    int lowest = 0;
    while (!sees(rank, lowest)) ++lowest;  // a rank sees its own part
    return lowest;
  };
  leader_ = leader_of(group_.rank()) == group_.rank();
  std::exception_ptr error;
  const auto keep_error = [&error](auto&& work) {
    try {
      if (!error) work();
    } catch (...) {
      error = std::current_exception();
    }
  };
  std::vector<char> chunk;
  for (int part = 0; part < n; ++part) {
    bool needed = false;
    for (int r = 0; r < n; ++r) needed = needed || (leader_of(r) == r && !sees(r, part));
    if (!needed) continue;
    const bool sends = part == group_.rank(), receives = leader_ && !sees(group_.rank(), part);
    const std::string path = temporary_ + "/" + part_name(part), copy = path + ".copy-" + std::to_string(group_.rank());
    std::optional<File> file;
    if (sends) keep_error([&] { file = File::open_for_reading(path); });
    if (receives) keep_error([&] { file = File::create(copy); });
    const uint64_t total = bytes[static_cast<size_t>(part)];
    for (uint64_t at = 0; at < total; at += kChunk) {
      chunk.resize(std::min<uint64_t>(kChunk, total - at));
      if (sends && file) keep_error([&] { file->read_at(chunk.data(), chunk.size(), at); });
      group_.broadcast(chunk.data(), chunk.size(), part);
      if (receives && file) keep_error([&] { file->write_at(chunk.data(), chunk.size(), at); });
    }
    if (receives && file) {
      keep_error([&] {
        file->sync();
        file->close();
        if (::rename(copy.c_str(), path.c_str()) != 0) throw_errno("rename", copy + " -> " + path, errno);
      });
    }
  }
  run_on_all_or_fail(group_, [&] {
    if (error) std::rethrow_exception(error);
  });
}

// One leader per file system renames. Two leaders on one (a file system that shows names late) do no harm: the second finds the work done.
void StoreBuilder::publish(const StoreInfo& info, const std::vector<uint64_t>& bytes) {
  run_on_all_or_fail(group_, [&] {
    if (!leader_) return;
    std::vector<std::string> parts;
    for (int r = 0; r < group_.size(); ++r) parts.push_back(part_name(r));
    write_file_atomically(temporary_ + "/manifest.json", dump_json(manifest_json(info, parts, bytes), 1) + "\n");
  });
  run_on_all_or_fail(group_, [&] {
    if (!leader_) return;
    if (::rename(temporary_.c_str(), folder_.c_str()) == 0) return;
    const int e = errno;
    const auto same_store_there = [&] {
      try {
        return TokenStore::open(folder_, false).info().key == info.key;
      } catch (const InputError&) {
        return false;
      }
    };
    if (!is_directory(temporary_) && same_store_there()) return;
    if (e != EEXIST && e != ENOTEMPTY) throw_errno("rename", temporary_ + " -> " + folder_, e);
    if (!replace_ && same_store_there()) {
      remove_folder(temporary_);
      return;
    }
    const std::string old = temporary_ + ".old";
    if (::rename(folder_.c_str(), old.c_str()) != 0) throw_errno("rename", folder_ + " -> " + old, errno);
    if (::rename(temporary_.c_str(), folder_.c_str()) != 0) throw_errno("rename", temporary_ + " -> " + folder_, errno);
    remove_folder(old);
  });
}

void StoreBuilder::commit(const StoreInfo& info, uint64_t bytes) {
  const auto n = static_cast<size_t>(group_.size());
  std::vector<uint64_t> all_bytes(n);
  group_.all_gather(&bytes, all_bytes.data(), sizeof bytes);  // also the barrier after which all parts exist
  const std::vector<char> seen = visible_parts();
  std::vector<char> all_seen(n * n);
  group_.all_gather(seen.data(), all_seen.data(), n);
  deliver(all_seen, all_bytes);
  publish(info, all_bytes);
  done_ = true;
}

TokenStore open_committed(const std::string& folder, int world) {
  for (int attempt = 0;; ++attempt) {
    try {
      return TokenStore::open(folder, false);
    } catch (const InputError&) {
      if (world == 1 || attempt >= 100) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

std::optional<TokenStore> open_if_everywhere(RankGroup& group, const std::string& folder, const std::string& key, std::string& reason) {
  std::optional<TokenStore> store;
  reason.clear();
  if (is_directory(folder)) {
    try {
      store = TokenStore::open(folder, true);
      if (!key.empty() && store->info().key != key) {
        reason = folder + ": made from other data or options";
        store.reset();
      }
    } catch (const std::exception& e) {
      reason = e.what();
    }
  }
  const char mine = store.has_value();
  std::vector<char> all(static_cast<size_t>(group.size()));
  group.all_gather(&mine, all.data(), 1);
  if (std::find(all.begin(), all.end(), 0) != all.end()) return std::nullopt;
  return store;
}

}  // namespace llmtrain
