// A small model, data and configuration of the tests' own: needs nothing from outside.
#pragma once

#include <fstream>

#include "train/runs/support.h"

namespace llmtrain::testing_support {

class OwnModel {
 public:
  // Makes model/, data/ and train.yaml in a scratch folder, with `llmtrain init` for the model.
  OwnModel();
  const std::string& path() const { return scratch_.path(); }
  // `llmtrain --config train.yaml output_dir=<name> …` in this folder.
  RunOutcome train(const std::string& output, int ranks, std::vector<std::string> overrides,
                   const std::map<std::string, std::string>& environment = {}) const;
  std::string output(const std::string& name) const { return scratch_ / name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(scratch_ / name, std::ios::binary) << text; }

 private:
  ScratchFolder scratch_;
};

}  // namespace llmtrain::testing_support
