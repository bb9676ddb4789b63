// For the tests of the data room: a small byte-level tokenizer, dataset folders, ranks as threads.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/rank_group.h"
#include "data/prepare.h"
#include "support/shared.h"

namespace llmtrain::testing_support {

// Bytes and a few special tokens; bos <|begin|>, eos <|im_end|>.
inline Tokenizer byte_tokenizer(const std::string& folder) {
  make_directories(folder);
  BpeTrainingOptions options;
  options.vocab_size = 300;
  options.bos_token = "<|begin|>";
  options.eos_token = "<|im_end|>";
  options.more_special_tokens = {"<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end|>"};
  train_byte_level_bpe("the quick brown fox jumps over the lazy dog and the other fox", options, folder);
  return Tokenizer::load(folder);
}

inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
}

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// N ranks as threads of this process.
class ThreadRanks {
 public:
  explicit ThreadRanks(int n) : n_(n), barrier_(n) {}
  class Rank : public RankGroup {
   public:
    Rank(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return all_.n_; }
    void barrier() override { all_.barrier_.arrive_and_wait(); }
    void all_gather(const void* mine, void* out, size_t bytes) override {
      if (rank_ == 0) all_.shared_.assign(bytes * static_cast<size_t>(all_.n_), 0);
      barrier();
      std::memcpy(all_.shared_.data() + bytes * static_cast<size_t>(rank_), mine, bytes);
      barrier();
      std::memcpy(out, all_.shared_.data(), all_.shared_.size());
      barrier();
    }
    void broadcast(void* data, size_t bytes, int root) override {
      if (rank_ == root) all_.shared_.assign(static_cast<char*>(data), static_cast<char*>(data) + bytes);
      barrier();
      if (rank_ != root) std::memcpy(data, all_.shared_.data(), bytes);
      barrier();
    }

   private:
    ThreadRanks& all_;
    int rank_;
  };
  void run(const std::function<void(RankGroup&)>& work) {
    std::vector<std::thread> threads;
    for (int r = 0; r < n_; ++r) {
      threads.emplace_back([&, r] {
        Rank rank(*this, r);
        work(rank);
      });
    }
    for (std::thread& t : threads) t.join();
  }

 private:
  int n_;
  std::barrier<> barrier_;
  std::vector<char> shared_;
};

// What an InputError says; a failure when none is thrown.
template <class Work>
std::string input_error(Work&& work) {
  try {
    work();
  } catch (const InputError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no InputError";
  return "";
}

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << text

// A scratch folder with a tokenizer and an empty dataset_dir; plain text is trained from the dataset "d".
class DataFolderTest : public ::testing::Test {
 protected:
  ScratchFolder scratch;
  Tokenizer tokenizer = byte_tokenizer(scratch / "tokenizer");
  DataOptions options;
  Log quiet{0, false};

  void SetUp() override {
    make_directories(scratch / "data");
    options.dataset_dir = scratch / "data";
    options.store_dir = scratch / "out/stores";
    options.template_name = "empty";
    options.dataset = {"d"};
    options.threads = 1;
  }
};

}  // namespace llmtrain::testing_support
