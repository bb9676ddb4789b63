// The list of families: the one place, beside its own file and test, that a new family touches.
#include "core/error.h"
#include "model/families/family.h"

namespace llmtrain {

Family llama_family();
Family mistral_family();
Family phi3_family();
Family qwen2_family();
Family qwen3_family();

const std::vector<Family>& all_families() {
  static const std::vector<Family> families = {llama_family(), mistral_family(), phi3_family(), qwen2_family(), qwen3_family()};
  return families;
}

const Family& find_family(const std::string& model_type, const std::string& where) {
  std::string known;
  for (const Family& family : all_families()) {
    if (family.model_type == model_type) return family;
    known += (known.empty() ? "" : ", ") + family.model_type;
  }
  throw InputError(where, "model_type '" + model_type + "' is not supported", "supported: " + known);
}

}  // namespace llmtrain
