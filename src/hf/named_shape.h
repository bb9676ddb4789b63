// A tensor's Hugging Face name with its shape: what a folder is expected to hold, or what is written into one.
#pragma once

#include <string>

#include "core/tensor.h"

namespace llmtrain {

struct NamedShape {
  std::string name;
  Shape shape;
};

}  // namespace llmtrain
