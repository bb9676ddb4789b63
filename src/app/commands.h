// The sub-commands. Each is a function in a file of its own, cmd_<name>.cpp, and stands once in the table of registry.cpp.
//
// A command gets the words behind its name, parses them with CommandLine (app/help.h), throws InputError, OperationError or NotHere, and returns
// an ExitCode otherwise. A command that runs on several ranks makes its own MpiRuntime (comm/context.h).
#pragma once

#include <string>
#include <vector>

#include "app/app.h"

namespace llmtrain {

struct Command {
  const char* name;
  const char* summary;  // one line for `llmtrain --help`
  int (*function)(const std::vector<std::string>& args, App& app);
};

const std::vector<Command>& commands();

int command_train(const std::vector<std::string>& args, App& app);
int command_config(const std::vector<std::string>& args, App& app);
int command_data(const std::vector<std::string>& args, App& app);
int command_init(const std::vector<std::string>& args, App& app);
int command_generate(const std::vector<std::string>& args, App& app);
int command_convert(const std::vector<std::string>& args, App& app);
int command_inspect(const std::vector<std::string>& args, App& app);
int command_report(const std::vector<std::string>& args, App& app);
int command_diagnose(const std::vector<std::string>& args, App& app);
int command_bench(const std::vector<std::string>& args, App& app);
int command_version(const std::vector<std::string>& args, App& app);  // `llmtrain --version [--json]`

}  // namespace llmtrain
