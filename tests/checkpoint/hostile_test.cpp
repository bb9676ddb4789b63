// Checkpoints made to deceive: every digest is right, but the HDF5 files hold what this format never writes. Refused by name before an element is read.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>

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

constexpr const char* kGroup = "/units/embedding";
constexpr const char* kArray = "/units/embedding/weight";

// A checkpoint of one rank whose shard a test changes through HDF5; finish() makes all digests right again.
class Forgery {
 public:
  Forgery() : folder_(scratch_ / "checkpoint-1"), manifest_(write_checkpoint(folder_, small_content(1), 1)) { hdf5::silence(); }
  std::string shard() const { return folder_ + "/" + shard_file_name(0, 1); }
  const std::string& folder() const { return folder_; }
  Manifest& manifest() { return manifest_; }
  const StoredArray& array() const { return manifest_.content.units[0].arrays[0]; }

  void change(const std::function<void(hid_t file)>& work) {
    const hdf5::Handle file(H5Fopen(shard().c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, "H5Fopen", shard());
    work(file);
  }
  void finish() {
    list_file(manifest_, folder_, shard_file_name(0, 1));
    write_text(folder_ + "/manifest.json", dump_manifest(manifest_));
  }
  // What reading the array says. The digests must have passed: it is the structure that is refused.
  std::string refusal() {
    finish();
    SoloGroup solo;
    const FoundCheckpoint found = open_checkpoint(folder_, solo);
    const StoredUnit& unit = found.manifest.content.units[0];
    const StoredArray& a = unit.arrays[0];
    CheckpointReader reader(folder_, found.manifest);
    std::vector<char> values(static_cast<size_t>(a.shard_elements) * size_of(a.dtype));
    try {
      reader.read(unit, a, 0, a.shard_elements, values.data());
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }

 private:
  ScratchFolder scratch_;
  std::string folder_;
  Manifest manifest_;
};

void remove_link(hid_t file, const char* path) { hdf5::check(H5Ldelete(file, path, H5P_DEFAULT), "H5Ldelete", path); }

hdf5::Handle space_of(int64_t elements) {
  const hsize_t n = static_cast<hsize_t>(elements);
  return hdf5::Handle(H5Screate_simple(1, &n, nullptr), H5Sclose, "H5Screate_simple", "");
}

// The array again, of the same name, with other properties.
void put_array(hid_t file, hid_t type, int64_t elements, const std::function<void(hid_t dcpl)>& properties) {
  remove_link(file, kArray);
  const hdf5::Handle dcpl(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate", "");
  properties(dcpl);
  const hdf5::Handle space = space_of(elements);
  const hdf5::Handle dataset(H5Dcreate2(file, kArray, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT), H5Dclose, "H5Dcreate", kArray);
}

void chunked(hid_t dcpl) {
  const hsize_t chunk = 64;
  hdf5::check(H5Pset_chunk(dcpl, 1, &chunk), "H5Pset_chunk", "");
}

struct Trick {
  const char* name;
  const char* says;
  std::function<void(Forgery&)> play;
};

const std::vector<Trick>& tricks() {
  static const std::vector<Trick> all = {
      {"a soft link in place of an array", "link",
       [](Forgery& f) { f.change([](hid_t file) { remove_link(file, kArray); H5Lcreate_soft("/units/head/weight", file, kArray, H5P_DEFAULT, H5P_DEFAULT); }); }},
      {"a dangling soft link", "link",
       [](Forgery& f) { f.change([](hid_t file) { remove_link(file, kArray); H5Lcreate_soft("/nowhere", file, kArray, H5P_DEFAULT, H5P_DEFAULT); }); }},
      {"an external link in place of an array", "link",
       [](Forgery& f) {
         fs::copy_file(f.shard(), f.folder() + "/elsewhere.h5");
         f.change([](hid_t file) { remove_link(file, kArray); H5Lcreate_external("elsewhere.h5", kArray, file, kArray, H5P_DEFAULT, H5P_DEFAULT); });
       }},
      {"an external link in place of a unit", "link",
       [](Forgery& f) {
         fs::copy_file(f.shard(), f.folder() + "/elsewhere.h5");
         f.change([](hid_t file) { remove_link(file, kGroup); H5Lcreate_external("elsewhere.h5", kGroup, file, kGroup, H5P_DEFAULT, H5P_DEFAULT); });
       }},
      {"an external link in place of /units", "link",
       [](Forgery& f) {
         fs::copy_file(f.shard(), f.folder() + "/elsewhere.h5");
         f.change([](hid_t file) { remove_link(file, "/units"); H5Lcreate_external("elsewhere.h5", "/units", file, "/units", H5P_DEFAULT, H5P_DEFAULT); });
       }},
      {"a soft link in place of /units", "link",
       [](Forgery& f) { f.change([](hid_t file) { H5Lmove(file, "/units", file, "/other", H5P_DEFAULT, H5P_DEFAULT); H5Lcreate_soft("/other", file, "/units", H5P_DEFAULT, H5P_DEFAULT); }); }},
      {"external storage (CVE-2026-1669: any file of the machine as a tensor)", "external storage",
       [](Forgery& f) {
         const int64_t n = f.array().shard_elements;
         f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32LE, n, [n](hid_t dcpl) { H5Pset_external(dcpl, "/etc/passwd", 0, static_cast<hsize_t>(4 * n)); }); });
       }},
      {"a virtual dataset over another file", "layout",
       [](Forgery& f) {
         const int64_t n = f.array().shard_elements;
         fs::copy_file(f.shard(), f.folder() + "/elsewhere.h5");
         f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32LE, n, [n](hid_t dcpl) { const hdf5::Handle s = space_of(n); H5Pset_virtual(dcpl, s, "elsewhere.h5", kArray, s); }); });
       }},
      {"a contiguous array without checksums", "layout",
       [](Forgery& f) { const int64_t n = f.array().shard_elements; f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32LE, n, [](hid_t) {}); }); }},
      {"a compressed array (a bomb of zeros)", "filter",
       [](Forgery& f) { const int64_t n = f.array().shard_elements; f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32LE, n, [](hid_t d) { chunked(d); H5Pset_deflate(d, 9); }); }); }},
      {"a filter that a plugin would have to be loaded for", "filter",
       [](Forgery& f) {
         const int64_t n = f.array().shard_elements;
         f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32LE, n, [](hid_t d) { chunked(d); H5Pset_filter(d, 32015, H5Z_FLAG_OPTIONAL, 0, nullptr); }); });
       }},
      {"elements of another type", "float32",
       [](Forgery& f) { const int64_t n = f.array().shard_elements; f.change([n](hid_t file) { put_array(file, H5T_STD_I32LE, n, chunked); }); }},
      {"elements of another byte order", "float32",
       [](Forgery& f) { const int64_t n = f.array().shard_elements; f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32BE, n, chunked); }); }},
      {"fewer elements than the manifest says", "size",
       [](Forgery& f) { const int64_t n = f.array().shard_elements; f.change([n](hid_t file) { put_array(file, H5T_IEEE_F32LE, n - 1, chunked); }); }},
      {"more elements than any disk holds", "size",
       [](Forgery& f) { f.change([](hid_t file) { put_array(file, H5T_IEEE_F32LE, int64_t{1} << 50, chunked); }); }},
      {"a group in place of an array", "weight",
       [](Forgery& f) { f.change([](hid_t file) { remove_link(file, kArray); const hdf5::Handle g(H5Gcreate2(file, kArray, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose, "H5Gcreate", kArray); }); }},
      {"a missing array", "missing", [](Forgery& f) { f.change([](hid_t file) { remove_link(file, kArray); }); }},
      {"a shard that is no HDF5 file", "shard-00000-of-00001.h5", [](Forgery& f) { write_text(f.shard(), std::string(5000, 'x')); }},
      {"an empty shard", "shard-00000-of-00001.h5", [](Forgery& f) { write_text(f.shard(), ""); }},
  };
  return all;
}

TEST(Hostile, WhatThisFormatNeverWritesIsRefusedByNameThoughAllDigestsAreRight) {
  for (const Trick& trick : tricks()) {
    Forgery forgery;
    trick.play(forgery);
    const std::string said = forgery.refusal();
    EXPECT_NE(said.find(trick.says), std::string::npos) << trick.name << ": \"" << said << "\"";
    EXPECT_NE(said.find(shard_file_name(0, 1)), std::string::npos) << trick.name << ": \"" << said << "\"";
    std::printf("  %s: %s\n", trick.name, said.c_str());
  }
}

TEST(Hostile, AnUntouchedForgeryIsRead) {
  Forgery forgery;
  EXPECT_EQ(forgery.refusal(), "") << "else the refusals above say nothing";
}

// What opening says about a manifest that was changed, with its own digest right again.
std::string refusal_of_manifest(const std::function<void(Json&)>& change) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "checkpoint-1", path = folder + "/manifest.json";
  write_checkpoint(folder, small_content(2), 1);
  Json j = parse_json(read_file(path), path);
  j.erase("digest");
  change(j);
  j["digest"] = digest_of(dump_json(j, 1));
  write_text(path, dump_json(j, 1) + "\n");
  SoloGroup solo;
  try {
    open_checkpoint(folder, solo);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(Hostile, ManifestsThatLieAreRefusedByName) {
  EXPECT_EQ(refusal_of_manifest([](Json&) {}), "");
  struct Lie {
    const char* says;
    std::function<void(Json&)> tell;
  };
  const Lie lies[] = {
      {"format version 2", [](Json& j) { j["format_version"] = 2; }},
      {"format version 99", [](Json& j) { j["format_version"] = 99; }},
      {"format version \"1\"", [](Json& j) { j["format_version"] = "1"; }},
      {"not the manifest of a checkpoint", [](Json& j) { j["format"] = "another program's checkpoint"; }},
      {"not a plain file name", [](Json& j) { j["files"][0]["name"] = "../../etc/passwd"; }},
      {"not a plain file name", [](Json& j) { j["files"][0]["name"] = "/etc/passwd"; }},
      {"is not listed", [](Json& j) { j["files"].erase(1); }},
      {"is not listed", [](Json& j) { j["files"] = Json::array(); }},
      {"is not listed", [](Json& j) { j["content"]["world_size"] = 3; }},
      {"listed twice", [](Json& j) { j["files"].push_back(j["files"][0]); }},
      {"\"step\"", [](Json& j) { j["step"] = -1; }},
      {"\"step\" is out of range", [](Json& j) { j["step"] = INT64_MAX; }},
      {"\"step\" is out of range", [](Json& j) { j["step"] = UINT64_MAX; }},
      {"control characters", [](Json& j) { j["files"][0]["name"] = "a\n\x1b[2J"; }},
      {"bytes", [](Json& j) { j["files"][0]["bytes"] = -5; }},
      {"has", [](Json& j) { j["files"][0]["bytes"] = 18446744073709551615ull; }},
      {"too large", [](Json& j) { j["content"]["units"][0]["tensors"][0]["shape"] = {4294967296, 4294967296}; }},
      {"leaves the array", [](Json& j) { j["content"]["units"][0]["tensors"][0]["offset"] = 1000000; }},
      {"out of range", [](Json& j) { j["content"]["units"][0]["tensors"][0]["offset"] = -1; }},
      {"out of range", [](Json& j) { j["content"]["world_size"] = -1; }},
      {"out of range", [](Json& j) { j["content"]["world_size"] = int64_t{1} << 40; }},
      {"out of range", [](Json& j) { j["content"]["units"][0]["arrays"][0]["shard_elements"] = int64_t{1} << 60; }},
      {"dimensions", [](Json& j) { j["content"]["units"][0]["tensors"][0]["shape"] = Json::array({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}); }},
      {"not an object", [](Json& j) { j["content"] = 7; }},
      {"is listed twice", [](Json& j) { j["content"]["units"][1]["tensors"].push_back(j["content"]["units"][0]["tensors"][0]); }},
      {"is listed twice", [](Json& j) { j["content"]["units"].push_back(j["content"]["units"][0]); }},
      {"is listed twice", [](Json& j) { j["content"]["units"][0]["arrays"].push_back(j["content"]["units"][0]["arrays"][0]); }},
      {"name of a tensor", [](Json& j) { j["content"]["units"][0]["tensors"][0]["name"] = "__metadata__"; }},
      {"name of a tensor", [](Json& j) { j["content"]["units"][0]["tensors"][0]["name"] = "a/../b"; }},
      {"name of a unit", [](Json& j) { j["content"]["units"][0]["name"] = ""; }},
      {"name of an array", [](Json& j) { j["content"]["units"][0]["arrays"][0]["name"] = "a\n"; }},
      {"lie in one place", [](Json& j) { j["content"]["units"][1]["tensors"][2]["offset"] = 10; }},
      {"type int8", [](Json& j) { j["content"]["units"][0]["arrays"][0]["dtype"] = "int8"; }},
      {"type float16", [](Json& j) { j["content"]["units"][0]["arrays"][0]["dtype"] = "float16"; }},
      {"no tensor", [](Json& j) { j["content"]["units"] = Json::array(); }},
      {"units", [](Json& j) { j["content"]["units"] = "none"; }},
  };
  for (const Lie& lie : lies) {
    const std::string said = refusal_of_manifest(lie.tell);
    EXPECT_NE(said.find(lie.says), std::string::npos) << lie.says << ": \"" << said << "\"";
    EXPECT_NE(said.find("checkpoint-1"), std::string::npos) << said;
  }
}

}  // namespace
}  // namespace llmtrain
