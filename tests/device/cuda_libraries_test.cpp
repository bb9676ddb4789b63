// Where CUDA's libraries are looked for, on fake folders; and what is said where one cannot be had.
#include "device/cuda_libraries.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>

#include "support/shared.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using testing_support::ScratchFolder;

// An environment of its own for the length of a test: every variable that is read, empty but for what the test sets.
class Variables {
 public:
  explicit Variables(const std::map<std::string, std::string>& set) {
    for (const char* name : {"LLMTRAIN_CUDA_LIBRARIES", "CUDA_HOME", "CUDA_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PATH", "HOME"}) {
      const char* value = std::getenv(name);
      before_[name] = value ? std::optional<std::string>(value) : std::nullopt;
      ::unsetenv(name);
    }
    for (const auto& [name, value] : set) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Variables() {
    for (const auto& [name, value] : before_) value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

std::string made(const ScratchFolder& scratch, const std::string& below) {
  fs::create_directories(scratch / below);
  return scratch / below;
}

// The folders found, but for those of a CUDA toolkit that this machine may have at its usual place.
std::vector<std::string> found() {
  std::vector<std::string> folders = cuda_library_folders();
  std::erase_if(folders, [](const std::string& folder) { return folder.starts_with("/usr/local/cuda"); });
  return folders;
}

void touch(const std::string& path) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path) << "#!/bin/sh\n";
}

TEST(CudaLibraries, FoldersNamedByAPersonComeFirstInTheirOrderAndOnlyOnce) {
  const ScratchFolder scratch;
  const std::string a = made(scratch, "a"), b = made(scratch, "b"), toolkit = made(scratch, "toolkit/lib64");
  const Variables environment({{"LLMTRAIN_CUDA_LIBRARIES", b + ":" + a + "::" + b + ":" + scratch.path() + "/absent"},
                               {"CUDA_HOME", scratch / "toolkit"},
                               {"CUDA_PATH", scratch / "toolkit"}});
  EXPECT_EQ(found(), (std::vector<std::string>{b, a, toolkit}));
}

TEST(CudaLibraries, WheelsOfAVirtualEnvironmentAndOfThePythonItWasMadeFromAreFound) {
  const ScratchFolder scratch;
  const std::string blas = made(scratch, "venv/lib/python3.12/site-packages/nvidia/cu13/lib"),
                    dnn = made(scratch, "venv/lib/python3.12/site-packages/nvidia/cudnn/lib"),
                    nccl = made(scratch, "base/lib/python3.12/dist-packages/nvidia/nccl/lib");
  made(scratch, "venv/lib/python3.12/site-packages/torch/lib");
  made(scratch, "venv/lib/python2.7/site-packages/nvidia/cublas/lib");
  touch(scratch / "base/bin/python3");
  made(scratch, "venv/bin");
  fs::create_symlink(scratch / "base/bin/python3", scratch / "venv/bin/python3");
  const Variables environment({{"PATH", scratch.path() + "/nothing:" + scratch.path() + "/venv/bin:" + scratch.path() + "/base/bin"}});
  EXPECT_EQ(found(), (std::vector<std::string>{blas, dnn, nccl}));
}

TEST(CudaLibraries, ActivatedEnvironmentsPyenvCondaAndUserInstallationsAreFound) {
  const ScratchFolder scratch;
  const std::string given = made(scratch, "given/nvidia/cu13/lib"), active = made(scratch, "active/lib/python3.11/site-packages/nvidia/cu13/lib"),
                    conda_wheel = made(scratch, "conda/lib/python3.11/site-packages/nvidia/cudnn/lib"), conda = made(scratch, "conda/lib"),
                    pyenv = made(scratch, "pyenv/versions/3.12.1/lib/python3.12/site-packages/nvidia/nccl/lib"),
                    user = made(scratch, "home/.local/lib/python3.12/site-packages/nvidia/cudnn/lib");
  touch(scratch / "pyenv/shims/python3");
  const Variables environment({{"PYTHONPATH", scratch / "given"},
                               {"VIRTUAL_ENV", scratch / "active"},
                               {"CONDA_PREFIX", scratch / "conda"},
                               {"PATH", scratch / "pyenv/shims"},
                               {"HOME", scratch / "home"}});
  EXPECT_EQ(found(), (std::vector<std::string>{given, active, conda_wheel, conda, pyenv, user}));
}

TEST(CudaLibraries, NothingSetNothingFoundAndNoFault) {
  const Variables environment({});
  EXPECT_EQ(found(), std::vector<std::string>{});
}

// Some library that this process has loaded, to stand for one of CUDA's.
std::string a_library() {
  Dl_info info{};
  return ::dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) ? fs::canonical(info.dli_fname).string() : "";
}

TEST(CudaLibraries, ALibraryIsTakenFromTheFirstFolderWhereItCanBeOpened) {
  const ScratchFolder scratch;
  const std::string empty = made(scratch, "empty"), broken = made(scratch, "broken"), good = made(scratch, "good");
  const char* name = "libllmtrain-test-fake.so.13";
  std::ofstream(broken + "/" + name) << "no library\n";
  fs::copy_file(a_library(), good + "/" + name);
  const char* const names[] = {name};
  EXPECT_EQ(open_cuda_libraries({empty, broken, good}, names), std::vector<std::string>{});
  EXPECT_NE(::dlopen((good + "/" + name).c_str(), RTLD_NOW | RTLD_NOLOAD), nullptr) << "it stays open";
}

TEST(CudaLibraries, WhatIsMissingIsNamedWithTheVersionThatIsThere) {
  const ScratchFolder scratch;
  const std::string folder = made(scratch, "lib");
  std::ofstream(folder + "/libllmtrain-test-blas.so.12") << "x";
  std::ofstream(folder + "/libllmtrain-test-dnn.so.9") << "x";
  const char* const names[] = {"libllmtrain-test-blas.so.13", "libllmtrain-test-dnn.so.9", "libllmtrain-test-absent.so.2"};
  const std::vector<std::string> missing = open_cuda_libraries({folder}, names);
  ASSERT_EQ(missing.size(), 3u);
  EXPECT_NE(missing[0].find("libllmtrain-test-blas.so.12 in " + folder), std::string::npos) << missing[0];
  EXPECT_NE(missing[1].find(folder + "/libllmtrain-test-dnn.so.9"), std::string::npos) << missing[1];
  EXPECT_EQ(missing[2].find("there is"), std::string::npos) << missing[2];
}

TEST(CudaLibraries, NamesStandInTheOrderOfNeed) {
  const auto names = cuda_library_names();
  const auto at = [&](const std::string& part) {
    return std::find_if(names.begin(), names.end(), [&](const char* name) { return std::string(name).find(part) != std::string::npos; }) - names.begin();
  };
  EXPECT_LT(at("nvrtc"), at("cublasLt"));
  EXPECT_LT(at("cublasLt"), at("cudnn"));
}

}  // namespace
}  // namespace llmtrain
