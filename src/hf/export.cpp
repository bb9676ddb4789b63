#include "hf/export.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

std::string shard_name(size_t number, size_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "model-%05zu-of-%05zu.safetensors", number, count);
  return text;
}

// Weight files of Hugging Face folders: what a new export replaces.
bool is_shard_name(const std::string& name) {
  unsigned a = 0, b = 0;
  int end = 0;
  return std::sscanf(name.c_str(), "model-%5u-of-%5u.safetensors%n", &a, &b, &end) == 2 && static_cast<size_t>(end) == name.size();
}

bool is_temporary_weight(const std::string& name) {
  constexpr std::string_view kEnding = ".tmp";
  if (name.size() <= kEnding.size() || name.compare(name.size() - kEnding.size(), kEnding.size(), kEnding) != 0) return false;
  const std::string stem = name.substr(0, name.size() - kEnding.size());
  return stem == kSingleName || is_shard_name(stem);
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_errno("unlink", path, errno);
}

void rename_file(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_errno("rename", from + " -> " + to, errno);
}

// A rename is on disk when its folder is.
void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_errno("open", folder, errno);
  const int failed = ::fsync(fd) != 0 && errno != EINVAL ? errno : 0;  // some file systems cannot sync a folder and say EINVAL
  ::close(fd);
  if (failed) throw_errno("fsync", folder, failed);
}

void check_visible(const std::string& path) {
  if (is_regular_file(path)) return;
  throw OperationError(path + ": this rank does not see the file that rank 0 created; the folder must be on a file system that all ranks share");
}

template <class Matches>
void remove_matching(const std::string& folder, Matches&& matches) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder)) {
    if (matches(item.path().filename().string())) names.push_back(item.path().filename().string());
  }
  for (const std::string& name : names) remove_file(folder + "/" + name);
}

}  // namespace

uint64_t parse_shard_size(const std::string& text, const std::string& where) {
  struct Unit {
    const char* name;
    uint64_t bytes;
  };
  constexpr Unit kUnits[] = {
      {"", 1},           {"B", 1},          {"KB", 1000},      {"MB", 1000'000},          {"GB", 1000'000'000}, {"TB", 1000'000'000'000},
      {"KiB", 1u << 10}, {"MiB", 1u << 20}, {"GiB", 1u << 30}, {"TiB", uint64_t{1} << 40}};
  size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  std::string unit = text.substr(digits);
  while (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);
  if (digits > 0 && digits <= 15) {
    for (const Unit& u : kUnits) {
      uint64_t bytes = 0;
      if (unit != u.name) continue;
      if (!__builtin_mul_overflow(static_cast<uint64_t>(std::stoull(text.substr(0, digits))), u.bytes, &bytes) && bytes > 0) return bytes;
    }
  }
  throw InputError(where, "'" + text + "' is not a size", "write it as 5GB, 500MB or 2GiB");
}

// ---- the plan

ExportPlan::ExportPlan(const std::vector<NamedShape>& tensors, DType dtype, uint64_t max_shard_bytes) : dtype_(dtype) {
  LLMTRAIN_ASSERT(is_floating(dtype), "a model is exported in a floating-point type");
  uint64_t in_file = 0;
  for (const NamedShape& t : tensors) {
    const uint64_t bytes = static_cast<uint64_t>(t.shape.elements()) * size_of(dtype);
    if (files_.empty() || (in_file > 0 && in_file + bytes > max_shard_bytes)) {
      files_.emplace_back();
      in_file = 0;
    }
    in_file += bytes;
    const bool fresh = places_.emplace(t.name, Place{files_.size() - 1, files_.back().tensors.size()}).second;
    LLMTRAIN_ASSERT(fresh, "exported twice: " + t.name);
    files_.back().tensors.push_back({t.name, dtype, t.shape, 0, 0});
    total_bytes_ += bytes;
    total_parameters_ += t.shape.elements();
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    FilePlan& f = files_[i];
    f.name = files_.size() == 1 ? kSingleName : shard_name(i + 1, files_.size());
    f.header = make_safetensors_header(f.tensors);
    f.bytes = f.tensors.back().end;
  }
}

std::string ExportPlan::index_json() const {
  Json map = Json::object();
  auto& object = map.get_ref<Json::object_t&>();
  auto& list = static_cast<std::vector<Json::object_t::value_type, Json::object_t::allocator_type>&>(object);  // no search per tensor
  for (const FilePlan& f : files_) {
    for (const SafetensorsEntry& t : f.tensors) list.emplace_back(t.name, f.name);
  }
  Json index = Json::object();
  index["metadata"] = {{"total_parameters", total_parameters_}, {"total_size", total_bytes_}};
  index["weight_map"] = std::move(map);
  return dump_json(index, 2) + "\n";
}

const ExportPlan::Place& ExportPlan::place(const std::string& name) const {
  const auto it = places_.find(name);
  LLMTRAIN_ASSERT(it != places_.end(), "not in the export: " + name);
  return it->second;
}

// ---- the folder

FolderExport::FolderExport(RankGroup& group, ExportPlan plan, std::string folder)
    : group_(group), plan_(std::move(plan)), folder_(std::move(folder)), open_(plan_.files().size()) {
  try {
    run_on_all_or_fail(group_, [&] {
      if (group_.rank() == 0) create_files();
    });
    run_on_all_or_fail(group_, [&] {
      for (size_t i = 0; i < plan_.files().size(); ++i) check_visible(temporary_path(i));
    });
  } catch (...) {
    remove_temporaries();
    throw;
  }
}

void FolderExport::create_files() {
  make_writable_directories(folder_);
  remove_matching(folder_, is_temporary_weight);  // left by a killed export
  for (size_t i = 0; i < plan_.files().size(); ++i) {
    const File file = File::create(temporary_path(i));
    created_ = true;
    file.resize(plan_.files()[i].bytes);
    file.write_at(plan_.files()[i].header.data(), plan_.files()[i].header.size(), 0);
  }
}

FolderExport::~FolderExport() {
  if (!finished_) remove_temporaries();
}

void FolderExport::remove_temporaries() {
  if (!created_) return;  // true on rank 0 only
  for (size_t i = 0; i < plan_.files().size(); ++i) ::unlink(temporary_path(i).c_str());
}

File& FolderExport::open_file(size_t file) {
  const std::lock_guard lock(mutex_);
  if (!open_[file]) open_[file] = std::make_unique<File>(File::open_for_writing(temporary_path(file)));
  return *open_[file];
}

bool FolderExport::failed() {
  const std::lock_guard lock(mutex_);
  return failure_ != nullptr;
}

void FolderExport::write_range(const std::string& name, int64_t element_begin, int64_t count, const void* data, DType data_type) {
  if (failed()) return;
  try {
    write_checked(name, element_begin, count, data, data_type);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void FolderExport::write_checked(const std::string& name, int64_t element_begin, int64_t count, const void* data, DType data_type) {
  const ExportPlan::Place& place = plan_.place(name);
  const SafetensorsEntry& t = plan_.files()[place.file].tensors[place.tensor];
  LLMTRAIN_ASSERT(element_begin >= 0 && count >= 0 && element_begin <= t.shape.elements() && count <= t.shape.elements() - element_begin,
                  "range outside " + name);
  const size_t to_size = size_of(t.dtype), from_size = size_of(data_type);
  const uint64_t offset = t.begin + static_cast<uint64_t>(element_begin) * to_size;
  const File& file = open_file(place.file);
  if (data_type == t.dtype) {
    file.write_at(data, static_cast<size_t>(count) * to_size, offset);
    return;
  }
  constexpr int64_t kChunk = 1 << 18;
  std::vector<char> buffer(static_cast<size_t>(std::min(count, kChunk)) * to_size);
  for (int64_t done = 0; done < count; done += kChunk) {
    const size_t n = static_cast<size_t>(std::min(kChunk, count - done));
    convert_elements(static_cast<const char*>(data) + static_cast<size_t>(done) * from_size, data_type, buffer.data(), t.dtype, n);
    file.write_at(buffer.data(), n * to_size, offset + static_cast<uint64_t>(done) * to_size);
  }
}

void FolderExport::finish(const std::vector<SmallFile>& small_files) {
  LLMTRAIN_ASSERT(!finished_, "an export is finished once");
  run_on_all_or_fail(group_, [&] {
    if (failure_) std::rethrow_exception(failure_);
    for (size_t i = 0; i < open_.size(); ++i) {
      if (group_.rank() == 0) open_file(i);  // it wrote the headers
      if (!open_[i]) continue;
      open_[i]->sync();
      open_[i]->close();
    }
  });
  run_on_all_or_fail(group_, [&] {
    if (group_.rank() == 0) put_in_place(small_files);
  });
  finished_ = true;
}

void FolderExport::put_in_place(const std::vector<SmallFile>& small_files) {
  const auto write_small = [&](const std::string& name, const std::string& content) { write_file_atomically(folder_ + "/" + name, content); };
  // The old entry points go first: between here and the new one the folder is no model, rather than a mixture of two.
  remove_file(folder_ + "/" + kSingleName);
  remove_file(folder_ + "/" + kIndexName);
  for (const SmallFile& f : small_files) write_small(f.name, f.content);
  for (size_t i = 0; i < plan_.files().size(); ++i) rename_file(temporary_path(i), final_path(i));
  sync_folder(folder_);
  if (plan_.sharded()) write_small(kIndexName, plan_.index_json());
  remove_matching(folder_, [&](const std::string& name) {
    if (!is_shard_name(name)) return false;
    for (const ExportPlan::FilePlan& f : plan_.files()) {
      if (f.name == name) return false;
    }
    return true;
  });
  sync_folder(folder_);
}

}  // namespace llmtrain
