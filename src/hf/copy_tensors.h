// Streams a model from where it is to a Hugging Face folder, in pieces, so that memory does not depend on the model's size.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/rank_group.h"
#include "hf/export.h"
#include "hf/named_shape.h"

namespace llmtrain {

// Something that holds a whole model and can be read piece by piece: a Hugging Face folder, a checkpoint.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // In the order in which they are written.
  virtual const std::vector<NamedShape>& tensors() const = 0;
  // The type that most of it is stored as.
  virtual DType dtype() const = 0;
  // Checks what only the data can tell, before anything is written: InputError. Collective.
  virtual void verify(RankGroup& group) const = 0;
  // Elements [element_begin, element_begin + count) as out_type, a floating-point type.
  virtual void read_range(const std::string& name, int64_t element_begin, int64_t count, void* out, DType out_type) const = 0;
};

inline constexpr int64_t kCopyPieceElements = int64_t{4} << 20;  // 16 MiB in float32

// Copies every tensor; the pieces are dealt out to the ranks in turn. Collective; a failure on one rank is thrown on all. A number that float16
// cannot hold, where the export is float16, is an InputError naming the tensor: it would become infinite.
// `progress` hears the bytes that this rank has written so far and its total.
void copy_tensors(RankGroup& group, const TensorSource& source, FolderExport& out, const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace llmtrain
