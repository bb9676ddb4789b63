// The backend that a test program works with: the CPU, or with LLMTRAIN_TEST_BACKEND=cuda the CUDA plugin: that of the build (a GPU is needed) or, with
// LLMTRAIN_CUDA_PLUGIN, another one, such as the emulated plugin of tests/emulator. On a GPU set CUDA_LAUNCH_BLOCKING=1: the tests look at results right
// after the call.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/error.h"
#include "device/cuda_backend.h"
#include "device/device.h"
#include "kernels/kernels.h"

namespace llmtrain::testing_support {

class TestBackend {
 public:
  static TestBackend& get() {
    static TestBackend backend;
    return backend;
  }
  bool cuda() const { return cuda_.has_value(); }
  // Whether the kernels run on the emulator, which is some thousand times slower than a GPU: tests take smaller shapes.
  bool emulated() const { return cuda_ && cuda_->plugin().device_info(0).name == "emulated GPU"; }
  Device& device() { return *device_; }
  std::unique_ptr<Kernels> make_kernels() {
    if (!cuda_) return make_cpu_kernels(*device_);
    CudaKernelsOptions options;
    // flash: the own kernel only. cudnn: cuDNN wherever it takes the call (not float32, not every head size); a plan that it then does not compile is an error.
    const char* attention = std::getenv("LLMTRAIN_TEST_ATTENTION");
    if (attention) options.attention = attention;
    if (options.attention == "cudnn") {
      if (!std::exchange(has_cudnn_, true)) cuda_->plugin().make_kernels(*device_, options);  // an error where there is no cuDNN
      options.attention = "auto";
      options.log = [](const std::string& line) {
        if (line.find("own kernel (cuDNN, attention plan") != std::string::npos) throw OperationError(line);
      };
    }
    return cuda_->plugin().make_kernels(*device_, options);
  }

 private:
  TestBackend() {
    const char* chosen = std::getenv("LLMTRAIN_TEST_BACKEND");
    if (!chosen || std::string(chosen) == "cpu") {
      device_ = make_cpu_device(1);
      return;
    }
    std::string why;
    cuda_ = CudaBackend::try_open(why);
    if (!cuda_) throw NotHere(why);
    device_ = cuda_->plugin().make_device(0);
  }
  std::optional<CudaBackend> cuda_;
  std::unique_ptr<Device> device_;
  bool has_cudnn_ = false;
};

// Memory that both the test and the backend's kernels read and write; copies are deep.
class SharedBlock {
 public:
  SharedBlock() = default;
  explicit SharedBlock(size_t bytes) : data_(static_cast<char*>(allocate(bytes))), bytes_(bytes) { std::memset(data_, 0, bytes); }
  SharedBlock(const SharedBlock& other) : SharedBlock(other.bytes_) {
    if (bytes_ > 0) std::memcpy(data_, other.data_, bytes_);
  }
  SharedBlock(SharedBlock&& other) noexcept { swap(other); }
  SharedBlock& operator=(SharedBlock other) {
    swap(other);
    return *this;
  }
  ~SharedBlock() { release(); }
  char* data() { return data_; }
  const char* data() const { return data_; }
  bool operator==(const SharedBlock& other) const { return bytes_ == other.bytes_ && (bytes_ == 0 || std::memcmp(data_, other.data_, bytes_) == 0); }

 private:
  static void* allocate(size_t bytes) {
    return TestBackend::get().cuda() ? TestBackend::get().device().allocate_host(bytes) : ::operator new(bytes, std::align_val_t(64));
  }
  void release() {
    if (!data_) return;
    if (TestBackend::get().cuda()) {
      TestBackend::get().device().free_host(data_);
    } else {
      ::operator delete(data_, std::align_val_t(64));
    }
  }
  void swap(SharedBlock& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace llmtrain::testing_support
