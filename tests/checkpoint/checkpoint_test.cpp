// Checkpoints in one process: what is written is read back, the commit leaves nothing half done. Damage: damage_test.cpp and hostile_test.cpp.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "checkpoint/digest.h"
#include "checkpoint/hdf5_tools.h"
#include "checkpoint/index_file.h"
#include "checkpoint/lock.h"
#include "checkpoint/reader.h"
#include "checkpoint/resume.h"
#include "checkpoint/saver.h"
#include "checkpoint/support.h"
#include "core/error.h"
#include "core/file.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using testing_support::fill_image;
using testing_support::ScratchFolder;
using testing_support::small_content;
using testing_support::value_of;

struct Fixture : testing::Test {
  ScratchFolder scratch;
  Log log{0, false};
  SoloGroup solo;

  std::string save(int64_t step, bool asynchronous = false, int limit = 0) {
    CheckpointSaver saver({scratch.path(), "run-1", "test build", asynchronous, limit}, small_content(1), solo, log);
    const CheckpointContent content = small_content(1);
    saver.start(step, [&](ShardImage& image) { fill_image(image, content, 0, step); }, Json{{"sampler", 17}, {"lr", 0.1}},
                {{"trainer_state.json", "{}\n"}});
    saver.finish();
    return scratch / ("checkpoint-" + std::to_string(step));
  }
};

using Checkpoint = Fixture;

void expect_all_values(const std::string& folder, const Manifest& manifest, int64_t step) {
  CheckpointReader reader(folder, manifest);
  for (int u = 0; u < static_cast<int>(manifest.content.units.size()); ++u) {
    const StoredUnit& unit = manifest.content.units[static_cast<size_t>(u)];
    for (const StoredArray& a : unit.arrays) {
      for (const StoredTensor& t : unit.tensors) {
        if (t.trained != a.trained) continue;
        std::vector<float> values(static_cast<size_t>(t.shape.elements()));
        reader.read_tensor(unit, t, a, 0, t.shape.elements(), values.data());
        for (size_t i = 0; i < values.size(); ++i) {
          ASSERT_EQ(values[i], value_of(u, a.name, t.offset + static_cast<int64_t>(i), step)) << t.name << " " << a.name << " " << i;
        }
      }
    }
  }
}

TEST_F(Checkpoint, WhatWasSavedIsReadBackBitwise) {
  const std::string folder = save(5);
  const FoundCheckpoint found = open_checkpoint(folder, solo);
  EXPECT_EQ(found.manifest.step, 5);
  EXPECT_EQ(found.manifest.run_id, "run-1");
  EXPECT_EQ(found.manifest.state["sampler"], 17);
  EXPECT_EQ(found.manifest.state["lr"].get<double>(), 0.1);
  expect_all_values(folder, found.manifest, 5);
  EXPECT_EQ(read_file(scratch / "latest"), "checkpoint-5\n");
  EXPECT_FALSE(std::filesystem::exists(folder + ".tmp"));
}

TEST_F(Checkpoint, AnAsynchronousSaveIsNotTouchedByWhatComesAfterTheSnapshot) {
  const CheckpointContent content = small_content(1);
  CheckpointSaver saver({scratch.path(), "run-1", "build", true, 0}, content, solo, log);
  saver.start(1, [&](ShardImage& image) { fill_image(image, content, 0, 1); }, Json::object(), {});
  while (!saver.poll()) ::usleep(1000);
  EXPECT_FALSE(saver.under_way());
  saver.start(2, [&](ShardImage& image) { fill_image(image, content, 0, 2); }, Json::object(), {});
  saver.finish();
  expect_all_values(scratch / "checkpoint-1", open_checkpoint(scratch / "checkpoint-1", solo).manifest, 1);
  expect_all_values(scratch / "checkpoint-2", open_checkpoint(scratch / "checkpoint-2", solo).manifest, 2);
}

TEST_F(Checkpoint, TheOneBeforeIsTakenWhenTheNewestIsDamaged) {
  save(1);
  const std::string newest = save(2);
  std::filesystem::resize_file(newest + "/" + shard_file_name(0, 1), 100);
  const auto found = find_checkpoint(scratch.path(), solo, log);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->manifest.step, 1);
  std::filesystem::remove(scratch / "checkpoint-1/manifest.json");
  EXPECT_THROW(find_checkpoint(scratch.path(), solo, log), InputError) << "none usable is an error, not a fresh start";
}

TEST_F(Checkpoint, TemporaryAndPlainModelFoldersAreNoCheckpoints) {
  make_directories(scratch / "checkpoint-9.tmp");
  make_directories(scratch / "checkpoint-7");
  std::ofstream(scratch / "checkpoint-7/model.safetensors") << "x";
  EXPECT_FALSE(find_checkpoint(scratch.path(), solo, log).has_value());
  EXPECT_THROW(open_checkpoint(scratch / "checkpoint-7", solo), InputError);
}

TEST_F(Checkpoint, OldOnesArePrunedOnlyDownToTheLimit) {
  const CheckpointContent content = small_content(1);
  CheckpointSaver saver({scratch.path(), "run", "build", false, 2}, content, solo, log);
  for (int64_t step : {1, 2, 3, 4}) {
    saver.start(step, [&](ShardImage& image) { fill_image(image, content, 0, step); }, Json::object(), {});
    if (step == 2) saver.protect("checkpoint-2");
  }
  const auto left = list_checkpoints(scratch.path());
  ASSERT_EQ(left.size(), 3u);
  EXPECT_EQ(left[0].first, 4);
  EXPECT_EQ(left[1].first, 3);
  EXPECT_EQ(left[2].first, 2) << "the protected one";
}

TEST_F(Checkpoint, TheOneJustCommittedIsNeverPruned) {
  save(9);
  save(3, false, 1);
  EXPECT_TRUE(std::filesystem::exists(scratch / "checkpoint-3/manifest.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "checkpoint-9")) << "one is kept";
}

TEST_F(Checkpoint, GoingBackPutsLaterOnesAsideAtTheFirstCommit) {
  for (const int64_t step : {1, 5, 9}) save(step);
  const CheckpointContent content = small_content(1);
  SaverOptions options{scratch.path(), "run", "build", false, 1};
  options.begun_at = 1;
  const auto commit = [&](CheckpointSaver& saver, int64_t step) {
    saver.start(step, [&](ShardImage& image) { fill_image(image, content, 0, step); }, Json::object(), {});
  };
  {
    CheckpointSaver saver(options, content, solo, log);
    std::ofstream(scratch / "checkpoint-2") << "a file, which no folder can replace";
    EXPECT_THROW(commit(saver, 2), OperationError);
    EXPECT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 9) << "a commit that fails changes nothing";
    std::filesystem::remove(scratch / "checkpoint-2");
  }
  CheckpointSaver saver(options, content, solo, log);
  commit(saver, 2);
  EXPECT_EQ(list_checkpoints(scratch.path()).size(), 1u);
  EXPECT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 2);
  EXPECT_EQ(read_file(scratch / "latest"), "checkpoint-2\n");
  for (const int64_t step : {5, 9}) expect_all_values(scratch / ("checkpoint-" + std::to_string(step) + ".abandoned"),
                                                      open_checkpoint(scratch / ("checkpoint-" + std::to_string(step) + ".abandoned"), solo).manifest, step);
  commit(saver, 5);
  commit(saver, 6);
  EXPECT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 6) << "only at the first commit";
  EXPECT_TRUE(std::filesystem::exists(scratch / "checkpoint-5.abandoned"));
}

TEST_F(Checkpoint, OnlyWantedOnesAreLookedAt) {
  save(1);
  const std::string newest = save(2);
  std::filesystem::resize_file(newest + "/" + shard_file_name(0, 1), 100);
  EXPECT_FALSE(find_checkpoint(scratch.path(), solo, log, [](const Manifest& m) { return m.run_id == "another"; }).has_value()) << "nor is a damaged one an error";
  EXPECT_EQ(find_checkpoint(scratch.path(), solo, log, [](const Manifest& m) { return m.run_id == "run-1"; })->manifest.step, 1);
}

TEST_F(Checkpoint, AFolderThatCannotBeWrittenFailsAndLeavesTheOldOne) {
  save(1);
  const CheckpointContent content = small_content(1);
  CheckpointSaver saver({scratch.path(), "run", "build", false, 0}, content, solo, log);
  std::ofstream(scratch / "checkpoint-2.tmp") << "a file where the folder would be";  // remove_all takes it away: not an obstacle
  saver.start(2, [&](ShardImage& image) { fill_image(image, content, 0, 2); }, Json::object(), {});
  EXPECT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 2);
  EXPECT_THROW(
      saver.start(3, [&](ShardImage& image) { fill_image(image, content, 0, 3); }, Json::object(), {{"no/such/folder.json", ""}}), OperationError);
  EXPECT_FALSE(std::filesystem::exists(scratch / "checkpoint-3"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "checkpoint-3.tmp"));
  EXPECT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 2);
}

TEST_F(Checkpoint, ReshardingReadsEveryElementWhateverWroteIt) {
  for (const int world : {1, 2, 3, 4, 6, 8}) {
    const std::string folder = scratch / ("w" + std::to_string(world));
    make_directories(folder);
    const CheckpointContent content = small_content(world);
    Manifest m;
    m.content = content;
    for (int rank = 0; rank < world; ++rank) {
      ShardImage image(content);
      fill_image(image, content, rank, 4);
      const std::string name = shard_file_name(rank, world);
      const std::string digest = image.write(folder + "/" + name).digest;
      m.files.push_back({name, image.bytes(), digest});
    }
    EXPECT_EQ(verify_files(folder, m, solo), "");
    expect_all_values(folder, m, 4);
  }
}

// More shards than a reader keeps open, read forwards and then to and fro: what it keeps of one that it has closed must not be taken for another's.
TEST_F(Checkpoint, MoreShardsThanAreKeptOpen) {
  const std::string folder = scratch / "many";
  const CheckpointContent content = small_content(40, 3);
  const Manifest m = testing_support::write_checkpoint(folder, content, 4);
  expect_all_values(folder, m, 4);
  CheckpointReader reader(folder, m);
  reader.check();
  CheckpointReader again(folder, m);
  const StoredArray& a = content.units[0].arrays[0];
  const int64_t elements = content.units[0].elements(true);
  for (int64_t i = 0; i < 400; ++i) {
    const int64_t at = i * 7919 % elements;
    float value = 0;
    again.read(content.units[0], a, at, 1, &value);
    ASSERT_EQ(value, testing_support::value_of(0, a.name, at, 4)) << at;
  }
}

TEST_F(Checkpoint, TheIndexShowsEachTensorInItsShapeAndAMissingShardAsNaN) {
  for (const int world : {1, 2, 3, 8}) {
    const std::string folder = scratch / ("index" + std::to_string(world));
    make_directories(folder);
    const CheckpointContent content = small_content(world);
    for (int rank = 0; rank < world; ++rank) {
      ShardImage image(content);
      fill_image(image, content, rank, 4);
      image.write(folder + "/" + shard_file_name(rank, world));
    }
    std::ofstream(folder + "/index.h5", std::ios::binary) << build_index_file(content);
    const auto read = [&](const std::string& path, const Shape& shape) {
      const hdf5::Handle file(H5Fopen((folder + "/index.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "H5Fopen", folder);
      const hdf5::Handle dataset(H5Dopen2(file, path.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen", path);
      const hdf5::Handle space(H5Dget_space(dataset), H5Sclose, "H5Dget_space", path);
      hsize_t dims[kMaxDims] = {};
      EXPECT_EQ(H5Sget_simple_extent_dims(space, dims, nullptr), shape.rank) << path;
      for (int i = 0; i < shape.rank; ++i) EXPECT_EQ(dims[i], static_cast<hsize_t>(shape[i])) << path;
      std::vector<float> values(static_cast<size_t>(shape.elements()));
      EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0) << path;
      return values;
    };
    for (int u = 0; u < static_cast<int>(content.units.size()); ++u) {
      for (const StoredArray& a : content.units[static_cast<size_t>(u)].arrays) {
        for (const StoredTensor& t : content.units[static_cast<size_t>(u)].tensors) {
          if (t.trained != a.trained) continue;
          const std::string group = a.name == "weight" || a.name == "frozen" ? "model" : a.name;
          const std::vector<float> values = read("/" + group + "/" + t.name, t.shape);
          for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], value_of(u, a.name, t.offset + static_cast<int64_t>(i), 4)) << t.name << i;
        }
      }
    }
    std::filesystem::remove(folder + "/" + shard_file_name(0, world));
    EXPECT_TRUE(std::isnan(read("/model/model.embed_tokens.weight", {37, 11})[0]));
  }
}

TEST_F(Checkpoint, TheChecksumIsHdf5sOwn) {
  // Read back by HDF5 with its filter: a wrong Fletcher-32 would make H5Dread fail. Odd sizes of elements (bfloat16, odd counts) included above.
  const unsigned char bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05};
  // words 0x0102, 0x0304, high byte 0x0500: sum1 = 0x0906, sum2 = 0x0102 + 0x0406 + 0x0906 = 0x0e0e
  EXPECT_EQ(hdf5_fletcher32(bytes, 5), 0x0e0e0906u);
  EXPECT_EQ(hdf5_fletcher32(bytes, 4), 0x05080406u);
}

// The definition, word by word, modulo 65535 with 65535 for the zeros that are not sums of zeros.
uint32_t fletcher32_by_word(const std::vector<unsigned char>& data) {
  uint64_t first = 0, second = 0;
  for (size_t i = 0; i < data.size(); i += 2) {
    first += static_cast<uint64_t>(data[i]) << 8 | (i + 1 < data.size() ? data[i + 1] : 0u);
    first = first > 65535 ? first - 65535 : first;
    second += first;
    second = second > 65535 ? second - 65535 : second;
  }
  return static_cast<uint32_t>(second << 16 | first);
}

TEST_F(Checkpoint, TheChecksumIsTheDefinitionsAtEverySizeAndInPieces) {
  uint32_t random = 1;
  const auto bytes_of = [&](size_t n, int kind) {
    std::vector<unsigned char> v(n);
    for (unsigned char& b : v) b = kind == 0 ? 0 : kind == 1 ? 0xff : static_cast<unsigned char>((random = random * 1664525u + 1013904223u) >> 24);
    return v;
  };
  constexpr size_t kPiece = Fletcher32::kPiece;
  for (const size_t n : {size_t{0}, size_t{1}, size_t{2}, size_t{719}, kPiece - 1, kPiece, kPiece + 1, kPiece + 2, 3 * kPiece, 5 * kPiece + 4321, 800 * kPiece + 7}) {
    for (const int kind : {0, 1, 2}) {  // 0xff: the largest sums
      const std::vector<unsigned char> v = bytes_of(n, kind);
      const uint32_t want = fletcher32_by_word(v);
      EXPECT_EQ(hdf5_fletcher32(v.data(), n), want) << n << " bytes of kind " << kind;
      Fletcher32 pieces;
      for (size_t at = 0, piece = kPiece; at < n; at += piece, piece += kPiece) pieces.add(v.data() + at, std::min(piece, n - at));
      EXPECT_EQ(pieces.value(), want) << n << " bytes of kind " << kind << " in pieces";
    }
  }
}

TEST_F(Checkpoint, ChunksThatSpanManyBlocksOfAWriteAreReadBackByHdf5) {
  // 1.5 M elements: two chunks of 3 MB, each written in a dozen blocks; HDF5 compares the checksums, the reader the digest.
  CheckpointContent content = small_content(1);
  StoredUnit& unit = content.units[0];
  unit.arrays.resize(1);
  content.units.resize(1);
  StoredArray& array = unit.arrays[0];
  array.shard_elements = 1500001;
  ShardImage image(content);
  std::vector<float> values(1500001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 65537) - 3.5f;
  ASSERT_EQ(array.dtype, DType::float32);
  image.put(0, array.name, 0, array.shard_elements, values.data());
  const std::string path = scratch / shard_file_name(0, 1);
  const std::string digest = image.write(path).digest;
  EXPECT_EQ(digest, digest_of_file(path));
  const hdf5::Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "H5Fopen", path);
  const hdf5::Handle dataset(H5Dopen2(file, ("/units/" + unit.name + "/" + array.name).c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen", path);
  std::vector<float> back(values.size());
  ASSERT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, back.data()), 0);
  EXPECT_EQ(back, values);
  // Parts of either chunk, to and fro, and across their border.
  Manifest manifest;
  manifest.content = content;
  CheckpointReader reader(scratch.path(), manifest);
  for (const int64_t begin : {0, 1499997, 10, 750000, 749998, 3, 1400000, 749999}) {
    float some[4];
    reader.read(unit, array, begin, 4, some);
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(some[i], values[static_cast<size_t>(begin + i)]) << begin << " + " << i;
  }
}

TEST_F(Checkpoint, TwoJobsInOneFolderAreKeptApartAndTheLockDiesWithItsHolder) {
  {
    const FolderLock lock(scratch.path());
    EXPECT_THROW(FolderLock(scratch.path()), InputError);
  }
  EXPECT_NO_THROW(FolderLock(scratch.path()));
}

}  // namespace
}  // namespace llmtrain
