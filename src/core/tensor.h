// TensorView: a pointer with a shape and a dtype. Owns nothing. Always dense and row-major: the last dimension is contiguous
// and rows follow each other without gaps.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/dtype.h"
#include "core/error.h"

namespace llmtrain {

inline constexpr int kMaxDims = 4;

struct Shape {
  std::array<int64_t, kMaxDims> dims{};
  int rank = 0;
  Shape() = default;
  Shape(std::initializer_list<int64_t> list) {
    LLMTRAIN_ASSERT(list.size() <= kMaxDims, "too many dimensions");
    for (int64_t d : list) dims[rank++] = d;
  }
  int64_t operator[](int i) const { return dims[i]; }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  bool operator==(const Shape&) const = default;
  std::string text() const {
    std::string s = "[";
    for (int i = 0; i < rank; ++i) s += (i ? ", " : "") + std::to_string(dims[i]);
    return s + "]";
  }
};

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::float32;
  Shape shape;

  TensorView() = default;
  TensorView(void* d, DType t, Shape s) : data(d), dtype(t), shape(s) {}
  TensorView(float* d, Shape s) : data(d), dtype(DType::float32), shape(s) {}
  TensorView(bfloat16* d, Shape s) : data(d), dtype(DType::bfloat16), shape(s) {}
  TensorView(int32_t* d, Shape s) : data(d), dtype(DType::int32), shape(s) {}
  TensorView(int64_t* d, Shape s) : data(d), dtype(DType::int64), shape(s) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t elements() const { return shape.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
  int64_t dim(int i) const { return shape[i]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // The first `rows` rows (or rows [begin, begin + rows)) of the outermost dimension.
  TensorView rows(int64_t begin, int64_t count) const {
    LLMTRAIN_ASSERT(begin >= 0 && begin + count <= shape[0], "rows outside " + shape.text());
    TensorView v = *this;
    v.shape.dims[0] = count;
    const size_t row = shape[0] == 0 ? 0 : bytes() / static_cast<size_t>(shape[0]);
    v.data = static_cast<char*>(data) + static_cast<size_t>(begin) * row;
    return v;
  }
  TensorView first(int64_t count) const { return rows(0, count); }
  TensorView reshaped(Shape s) const {
    LLMTRAIN_ASSERT(s.elements() == elements(), "reshape " + shape.text() + " to " + s.text());
    TensorView v = *this;
    v.shape = s;
    return v;
  }
};

}  // namespace llmtrain
