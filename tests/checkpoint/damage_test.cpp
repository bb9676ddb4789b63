// Damage to the files of a checkpoint: flipped bits, cut, missing, empty, swapped and foreign files. All of it is found before a tensor is used, and the file
// is named.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <random>

#include "checkpoint/hdf5_tools.h"
#include "checkpoint/reader.h"
#include "checkpoint/resume.h"
#include "checkpoint/support.h"
#include "core/error.h"
#include "core/file.h"
#include "support/shared.h"

namespace llmtrain {
namespace {

using namespace testing_support;
namespace fs = std::filesystem;

double seconds_since(std::chrono::steady_clock::time_point begin) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }

// What opening says; "" when it succeeds. Anything but InputError goes through and fails the test.
std::string refusal(const std::string& folder) {
  SoloGroup solo;
  try {
    open_checkpoint(folder, solo);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

struct Extent {
  uint64_t begin, bytes;
};

// Where HDF5 keeps the elements of a shard (chunks with their checksums); the rest is its metadata.
std::vector<Extent> chunks_of(const std::string& path, const CheckpointContent& content) {
  std::vector<Extent> chunks;
  const hdf5::Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "H5Fopen", path);
  for (const StoredUnit& unit : content.units) {
    for (const StoredArray& a : unit.arrays) {
      const std::string name = "/units/" + unit.name + "/" + a.name;
      const hdf5::Handle dataset(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen", name);
      const hsize_t first = 0;
      haddr_t address = 0;
      hsize_t bytes = 0;
      unsigned mask = 0;
      hdf5::check(H5Dget_chunk_info_by_coord(dataset, &first, &mask, &address, &bytes), "H5Dget_chunk_info_by_coord", name);
      chunks.push_back({address, bytes});
    }
  }
  return chunks;
}

// A part of a file in which bits are flipped.
struct Stratum {
  std::string name, file;
  std::vector<uint64_t> places;  // byte offsets
};

std::vector<Stratum> strata_of(const std::string& folder, const Manifest& manifest) {
  std::vector<Stratum> strata;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const uint64_t size = entry.file_size();
    if (!name.starts_with("shard-")) {
      Stratum all{name, name, {}};
      for (uint64_t i = 0; i < size; ++i) all.places.push_back(i);
      strata.push_back(std::move(all));
      continue;
    }
    std::vector<char> kind(size, 'm');
    for (const Extent& chunk : chunks_of(entry.path().string(), manifest.content)) {
      for (uint64_t i = 0; i < chunk.bytes; ++i) kind[chunk.begin + i] = i + 4 < chunk.bytes ? 'p' : 'c';
    }
    for (uint64_t i = 0; i < std::min<uint64_t>(64, size); ++i) kind[i] = 'h';
    for (const auto& [letter, what] : std::map<char, std::string>{{'h', "superblock"}, {'m', "metadata"}, {'p', "payload"}, {'c', "chunk checksums"}}) {
      Stratum part{name + " " + what, name, {}};
      for (uint64_t i = 0; i < size; ++i) {
        if (kind[i] == letter) part.places.push_back(i);
      }
      strata.push_back(std::move(part));
    }
  }
  return strata;
}

// Flips one bit in the file while `during` runs.
template <class During>
void with_flipped_bit(const std::string& path, uint64_t at, int bit, const During& during) {
  const File file = File::open_for_writing(path);
  char byte = 0;
  file.read_at(&byte, 1, at);
  const char flipped = static_cast<char>(byte ^ (1 << bit));
  file.write_at(&flipped, 1, at);
  during();
  file.write_at(&byte, 1, at);
}

TEST(Damage, EachOfMoreThan10000FlippedBitsIsFoundAndItsFileNamed) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "checkpoint-3";
  const Manifest manifest = write_checkpoint(folder, small_content(2), 3);
  ASSERT_EQ(refusal(folder), "");
  std::mt19937_64 random(std::random_device{}());
  int flips = 0, found = 0;
  const std::vector<Stratum> strata = strata_of(folder, manifest);
  const int each = 12000 / static_cast<int>(strata.size()) + 1;
  std::string counts;
  for (const Stratum& stratum : strata) {
    ASSERT_FALSE(stratum.places.empty()) << stratum.name;
    for (int n = 0; n < each; ++n, ++flips) {
      const uint64_t at = stratum.places[random() % stratum.places.size()];
      const int bit = static_cast<int>(random() % 8);
      with_flipped_bit(folder + "/" + stratum.file, at, bit, [&] {
        const std::string said = refusal(folder);
        EXPECT_NE(said.find(stratum.file), std::string::npos) << stratum.name << " byte " << at << " bit " << bit << ": \"" << said << "\"";
        found += !said.empty();
      });
    }
    counts += "  " + std::to_string(each) + " " + stratum.name + "\n";
  }
  EXPECT_EQ(refusal(folder), "") << "all bits are back";
  EXPECT_EQ(found, flips);
  EXPECT_GE(flips, 10000);
  std::printf("%d of %d flipped bits found before a tensor was used:\n%s", found, flips, counts.c_str());
}

// The second line of defence: without the digests, HDF5's own checksum of each chunk.
TEST(Damage, AFlippedBitOfThePayloadIsFoundByTheChunksChecksumAlone) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "checkpoint-3";
  const Manifest manifest = write_checkpoint(folder, small_content(1), 3);
  std::mt19937_64 random(std::random_device{}());
  for (const Stratum& stratum : strata_of(folder, manifest)) {
    if (!stratum.name.ends_with("payload") && !stratum.name.ends_with("checksums")) continue;
    for (int n = 0; n < 200; ++n) {
      const uint64_t at = stratum.places[random() % stratum.places.size()];
      with_flipped_bit(folder + "/" + stratum.file, at, static_cast<int>(random() % 8), [&] {
        CheckpointReader reader(folder, manifest);
        int refused = 0;
        for (const StoredUnit& unit : manifest.content.units) {
          for (const StoredArray& a : unit.arrays) {
            std::vector<char> values(static_cast<size_t>(a.shard_elements) * size_of(a.dtype));
            try {
              reader.read(unit, a, 0, a.shard_elements, values.data());
            } catch (const OperationError&) {
              ++refused;
            }
          }
        }
        EXPECT_EQ(refused, 1) << "byte " << at;
      });
    }
  }
}

TEST(Damage, EachFileCutAtEvery4KiBIsRefusedByNameInLessThanASecond) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "checkpoint-3", copy = scratch / "whole";
  write_checkpoint(folder, small_content(2, 200), 3);
  int cuts = 0;
  double slowest = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string path = entry.path().string(), name = entry.path().filename().string();
    fs::copy_file(path, copy, fs::copy_options::overwrite_existing);
    const uint64_t size = entry.file_size();
    for (uint64_t at = (size - 1) / 4096 * 4096;; at -= 4096) {
      fs::resize_file(path, at);
      const auto begin = std::chrono::steady_clock::now();
      const std::string said = refusal(folder);
      slowest = std::max(slowest, seconds_since(begin));
      EXPECT_NE(said.find(name), std::string::npos) << name << " cut to " << at << ": \"" << said << "\"";
      ++cuts;
      if (at == 0) break;
    }
    fs::copy_file(copy, path, fs::copy_options::overwrite_existing);
  }
  EXPECT_EQ(refusal(folder), "");
  EXPECT_LT(slowest, 1.0);
  std::printf("%d truncations refused by name, the slowest in %.1f ms\n", cuts, slowest * 1000);
  EXPECT_GT(cuts, 500);
}

TEST(Damage, MissingEmptySwappedAndForeignFilesAreNamed) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "checkpoint-3", other = scratch / "checkpoint-4", spare = scratch / "spare";
  const Manifest manifest = write_checkpoint(folder, small_content(3), 3);
  write_checkpoint(other, small_content(3), 4);  // another step: files of the same names and sizes
  const auto expect_named = [&](const std::string& name, const std::string& what) {
    const std::string said = refusal(folder);
    EXPECT_NE(said.find(name), std::string::npos) << name << " " << what << ": \"" << said << "\"";
  };
  std::vector<std::string> names{"manifest.json"};
  for (const ManifestFile& f : manifest.files) names.push_back(f.name);
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    fs::rename(path, spare);
    expect_named(name, "missing");
    write_text(path, "");
    expect_named(name, "empty");
    fs::remove(path);
    fs::create_directory(path);
    expect_named(name, "a folder");
    fs::remove(path);
    if (name.starts_with("shard-")) {
      fs::copy_file(other + "/" + name, path);
      expect_named(name, "of another checkpoint");
      fs::remove(path);
    }
    fs::rename(spare, path);
    ASSERT_EQ(refusal(folder), "");
  }
  const std::string first = folder + "/" + shard_file_name(0, 3), second = folder + "/" + shard_file_name(1, 3);
  fs::rename(first, spare);
  fs::rename(second, first);
  fs::rename(spare, second);
  expect_named(shard_file_name(0, 3), "swapped");
}

TEST(Damage, TheOneBeforeIsUsedWhateverIsWrongWithTheNewest) {
  const ScratchFolder scratch;
  SoloGroup solo;
  Log log{0, false};
  write_checkpoint(scratch / "checkpoint-1", small_content(2), 1);
  const std::pair<const char*, std::function<void(const std::string&)>> faults[] = {
      {"a flipped bit", [](const std::string& f) { with_flipped_bit(f + "/shard-00001-of-00002.h5", 5000, 3, [&f] { fs::copy(f, f + "x"); }); fs::remove_all(f); fs::rename(f + "x", f); }},
      {"no manifest", [](const std::string& f) { fs::remove(f + "/manifest.json"); }},
      {"an empty manifest", [](const std::string& f) { write_text(f + "/manifest.json", ""); }},
      {"a manifest that is a folder", [](const std::string& f) { fs::remove(f + "/manifest.json"); fs::create_directory(f + "/manifest.json"); }},
      {"no index.h5", [](const std::string& f) { fs::remove(f + "/index.h5"); }},
      {"an empty folder of shards", [](const std::string& f) { for (const auto& e : fs::directory_iterator(f)) { if (e.path().extension() == ".h5") fs::resize_file(e.path(), 0); } }},
  };
  for (const auto& [name, damage] : faults) {
    const std::string newest = scratch / "checkpoint-2";
    fs::remove_all(newest);
    write_checkpoint(newest, small_content(2), 2);
    ASSERT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 2);
    damage(newest);
    EXPECT_EQ(find_checkpoint(scratch.path(), solo, log)->manifest.step, 1) << name;
  }
}

}  // namespace
}  // namespace llmtrain
