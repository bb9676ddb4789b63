// What the tests of the kernels share, on either backend (support/backend.h): random tensors whose values are read as double, a device with kernels, and comparison within a derived bound.
//
// Bounds are written with eps = 2^-24, the unit roundoff of float32, and store(x) = the rounding of one store to X: |x| 2^-24 or |x| 2^-8.
// Sums of n float32 terms are bounded by n eps sum |terms| (Higham, Accuracy and Stability of Numerical Algorithms, 2002, §4.2); a fused or
// vectorised sum stays below that.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "support/backend.h"

namespace llmtrain::testing_support {

inline constexpr double kEps = 0x1p-24;

class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape) : bytes_(static_cast<size_t>(shape.elements()) * size_of(dtype) + 64), view_(nullptr, dtype, shape) {}
  TensorView view() {
    TensorView v = view_;
    v.data = bytes_.data();
    return v;
  }
  int64_t size() const { return view_.elements(); }
  DType dtype() const { return view_.dtype; }
  double get(int64_t i) const {
    switch (view_.dtype) {
      case DType::float32:
        return static_cast<double>(reinterpret_cast<const float*>(bytes_.data())[i]);
      case DType::bfloat16:
        return static_cast<double>(static_cast<float>(reinterpret_cast<const bfloat16*>(bytes_.data())[i]));
      default:
        return reinterpret_cast<const int32_t*>(bytes_.data())[i];
    }
  }
  void set(int64_t i, double x) {
    switch (view_.dtype) {
      case DType::float32:
        reinterpret_cast<float*>(bytes_.data())[i] = static_cast<float>(x);
        break;
      case DType::bfloat16:
        reinterpret_cast<bfloat16*>(bytes_.data())[i] = bfloat16(static_cast<float>(x));
        break;
      default:
        reinterpret_cast<int32_t*>(bytes_.data())[i] = static_cast<int32_t>(x);
    }
  }
  std::vector<double> values() const {
    std::vector<double> v(static_cast<size_t>(size()));
    for (int64_t i = 0; i < size(); ++i) v[static_cast<size_t>(i)] = get(i);
    return v;
  }
  Tensor& assign(const std::vector<double>& v) {
    for (int64_t i = 0; i < size(); ++i) set(i, v[static_cast<size_t>(i)]);
    return *this;
  }
  bool same_bits(const Tensor& other) const { return bytes_ == other.bytes_; }

 private:
  SharedBlock bytes_;
  TensorView view_;
};

// One rounding to the type.
inline double store(double x, DType dtype) { return std::abs(x) * (dtype == DType::bfloat16 ? 0x1p-8 : kEps) + 0x1p-130; }

class KernelsFixture : public testing::Test {
 protected:
  KernelsFixture()
      : seed_(std::random_device{}()),
        trace_(__FILE__, __LINE__, "seed " + std::to_string(seed_)),
        random_(seed_),
        device_(&TestBackend::get().device()),
        stream_(device_->make_stream("compute", false)),
        kernels_(TestBackend::get().make_kernels()) {}

  double normal(double scale = 1) { return std::normal_distribution<double>(0, scale)(random_); }
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  Tensor random_tensor(DType dtype, Shape shape, double scale = 1, double mean = 0) {
    Tensor t(dtype, shape);
    for (int64_t i = 0; i < t.size(); ++i) t.set(i, mean + normal(scale));
    return t;
  }
  Tensor integers(const std::vector<int32_t>& values) {
    Tensor t(DType::int32, {static_cast<int64_t>(values.size())});
    for (size_t i = 0; i < values.size(); ++i) t.set(static_cast<int64_t>(i), values[i]);
    return t;
  }
  Stream& stream() { return *stream_; }
  Kernels& kernels() { return *kernels_; }

  const uint32_t seed_;
  testing::ScopedTrace trace_;
  std::mt19937_64 random_;
  Device* device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Kernels> kernels_;
};

// |got - want| <= bound, element by element; the first failure and their number are told.
inline void expect_close(const Tensor& got, const std::vector<double>& want, const std::vector<double>& bound, const std::string& what) {
  ASSERT_EQ(static_cast<size_t>(got.size()), want.size()) << what;
  int64_t wrong = 0, first = -1;
  for (int64_t i = 0; i < got.size(); ++i) {
    const size_t k = static_cast<size_t>(i);
    if (!(std::abs(got.get(i) - want[k]) <= bound[k])) {
      if (wrong++ == 0) first = i;
    }
  }
  if (wrong == 0) return;
  const size_t k = static_cast<size_t>(first);
  ADD_FAILURE() << what << ": " << wrong << " of " << got.size() << " elements are off; element " << first << " is " << got.get(first)
                << ", should be " << want[k] << " within " << bound[k];
}

inline const DType kComputeTypes[] = {DType::float32, DType::bfloat16};

}  // namespace llmtrain::testing_support
