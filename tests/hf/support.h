// Helpers of the hf room's tests: files made byte by byte, and ranks as threads.
#pragma once

#include <barrier>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/rank_group.h"

namespace llmtrain::testing_support {

inline void write_text(const std::string& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out << content;
  if (!out.good()) throw std::runtime_error("write " + path);
}

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A safetensors file: length, header, data.
inline std::string safetensors(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[static_cast<size_t>(i)] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + data;
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The InputError's text, or "" where `work` throws none. Other exceptions pass.
inline std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

// Ranks as threads of this process.
class ThreadRanks {
 public:
  explicit ThreadRanks(int ranks) : ranks_(ranks), barrier_(ranks) {}
  // Runs `work` on every rank; the first rank's exception is thrown here after all have ended.
  void run(const std::function<void(RankGroup&)>& work) {
    std::vector<std::exception_ptr> errors(static_cast<size_t>(ranks_));
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks_; ++r) {
      threads.emplace_back([&, r] {
        Group group(*this, r);
        try {
          work(group);
        } catch (...) {
          errors[static_cast<size_t>(r)] = std::current_exception();
        }
      });
    }
    for (std::thread& t : threads) t.join();
    for (const auto& e : errors) {
      if (e) std::rethrow_exception(e);
    }
  }

 private:
  class Group : public RankGroup {
   public:
    Group(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return all_.ranks_; }
    void barrier() override { all_.barrier_.arrive_and_wait(); }
    void all_gather(const void* mine, void* all, size_t bytes_each) override {
      exchange(
          bytes_each * static_cast<size_t>(size()),
          [&](char* shared) { std::memcpy(shared + bytes_each * static_cast<size_t>(rank_), mine, bytes_each); },
          [&](const char* shared) { std::memcpy(all, shared, bytes_each * static_cast<size_t>(size())); });
    }
    void broadcast(void* data, size_t bytes, int root) override {
      exchange(
          bytes,
          [&](char* shared) {
            if (rank_ == root) std::memcpy(shared, data, bytes);
          },
          [&](const char* shared) { std::memcpy(data, shared, bytes); });
    }

   private:
    template <class Put, class Get>
    void exchange(size_t bytes, Put put, Get get) {
      if (rank_ == 0) all_.shared_.assign(bytes + 1, 0);
      barrier();
      put(all_.shared_.data());
      barrier();
      get(all_.shared_.data());
      barrier();
    }
    ThreadRanks& all_;
    int rank_;
  };
  int ranks_;
  std::barrier<> barrier_;
  std::vector<char> shared_;
};

}  // namespace llmtrain::testing_support
