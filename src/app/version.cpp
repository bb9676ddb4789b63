#include "app/version.h"

#include <H5public.h>
#include <dlfcn.h>
#include <mpi.h>
#include <oneapi/dnnl/dnnl.h>

#include <sstream>

#include "build_info.h"
#include "core/json.h"

namespace llmtrain {
namespace {

std::string dotted(int a, int b, int c) { return std::to_string(a) + "." + std::to_string(b) + "." + std::to_string(c); }

std::optional<std::string> unless_none(const std::string& text) { return text == "none" ? std::nullopt : std::optional(text); }

// Asks a library that may be absent for its version by `function(int*)` (CUDA, NCCL).
std::optional<int> ask(const std::vector<const char*>& libraries, const char* function) {
  for (const char* name : libraries) {
    void* library = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (!library) continue;
    int version = 0;
    const auto call = reinterpret_cast<int (*)(int*)>(::dlsym(library, function));
    const bool fine = call && call(&version) == 0;
    ::dlclose(library);
    if (fine) return version;
  }
  return std::nullopt;
}

std::optional<std::string> cuda_text(std::optional<int> version) {  // 12040 is 12.4
  if (!version) return std::nullopt;
  return std::to_string(*version / 1000) + "." + std::to_string(*version % 1000 / 10);
}

std::optional<std::string> nccl_text(std::optional<int> version) {  // 22809 is 2.28.9
  if (!version) return std::nullopt;
  return dotted(*version / 10000, *version % 10000 / 100, *version % 100);
}

std::optional<std::string> cudnn_found() {
  for (const char* name : {"libcudnn.so.9", "libcudnn.so"}) {
    void* library = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (!library) continue;
    const auto call = reinterpret_cast<size_t (*)()>(::dlsym(library, "cudnnGetVersion"));
    const int version = call ? static_cast<int>(call()) : 0;
    ::dlclose(library);
    if (version > 0) return dotted(version / 10000, version % 10000 / 100, version % 100);  // 91900 is 9.19.0
  }
  return std::nullopt;
}

// "Open MPI v4.1.4, package: …" -> "4.1.4"
std::string mpi_found() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);  // may be called before MPI_Init
  std::string found(text, static_cast<size_t>(length));
  found = found.substr(0, found.find_first_of(",\n"));
  const size_t v = found.find(" v");
  return v == std::string::npos ? found : found.substr(v + 2);
}

}  // namespace

std::vector<VersionLine> version_lines() {
  std::vector<VersionLine> lines;
#ifdef OMPI_MAJOR_VERSION
  lines.push_back({"Open MPI", dotted(OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION), mpi_found()});
#else
  lines.push_back({"MPI", std::to_string(MPI_VERSION) + "." + std::to_string(MPI_SUBVERSION), mpi_found()});
#endif
  lines.push_back(
      {"CUDA", unless_none(LLMTRAIN_CUDA_VERSION), cuda_text(ask({"libcudart.so.13", "libcudart.so.12", "libcudart.so"}, "cudaRuntimeGetVersion"))});
  lines.push_back({"driver", std::nullopt, cuda_text(ask({"libcuda.so.1"}, "cuDriverGetVersion"))});
  lines.push_back({"NCCL", unless_none(LLMTRAIN_NCCL_VERSION), nccl_text(ask({"libnccl.so.2", "libnccl.so"}, "ncclGetVersion"))});
  lines.push_back({"cuDNN", unless_none(LLMTRAIN_CUDNN_VERSION), cudnn_found()});
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  lines.push_back({"HDF5", dotted(H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE),
                   dotted(static_cast<int>(major), static_cast<int>(minor), static_cast<int>(release))});
  const dnnl_version_t* dnnl = dnnl_version();
  lines.push_back({"oneDNN", dotted(DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, DNNL_VERSION_PATCH), dotted(dnnl->major, dnnl->minor, dnnl->patch)});
  return lines;
}

std::string version_block() {
  std::ostringstream out;
  const auto row = [&](std::string name, const std::string& text) {
    name.resize(15, ' ');
    out << name << text << "\n";
  };
  row("llmtrain", LLMTRAIN_VERSION);
  row("commit", LLMTRAIN_COMMIT);
  row("compiler", LLMTRAIN_COMPILER);
  row("flags", LLMTRAIN_FLAGS);
  for (const VersionLine& line : version_lines()) {
    if (line.name == "driver") {
      row(line.name, line.found ? "supports CUDA " + *line.found : "none found");
    } else {
      row(line.name, (line.built ? "compiled against " + *line.built : "not compiled in") + (line.found ? ", found " + *line.found : ", none found"));
    }
  }
  row("architectures", LLMTRAIN_CUDA_ARCHITECTURES);
  return out.str();
}

std::string version_json() {
  const auto text = [](const std::optional<std::string>& v) { return v ? Json(*v) : Json(); };
  Json json;
  json["version"] = LLMTRAIN_VERSION;
  json["commit"] = LLMTRAIN_COMMIT;
  json["compiler"] = LLMTRAIN_COMPILER;
  json["flags"] = LLMTRAIN_FLAGS;
  for (const VersionLine& line : version_lines()) json["libraries"][line.name] = Json{{"compiled", text(line.built)}, {"found", text(line.found)}};
  json["architectures"] = LLMTRAIN_CUDA_ARCHITECTURES;
  return dump_json(json);
}

}  // namespace llmtrain
